package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"
	clocktesting "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// owners shows managedFields: who, by what, through what, and which fields.
func owners(obj object.Object) string {
	lines := []string{}
	for _, e := range obj.GetManagedFields() {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%s %s %s", e.Manager, e.Operation, e.Subresource), " ")+" "+e.FieldsV1.GetRawString())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func expectOwners(t *testing.T, obj object.Object, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := owners(obj); got != strings.Join(want, "\n") {
		t.Errorf("fields of %s are owned by\n%s\nwant\n%s", obj.GetName(), got, strings.Join(want, "\n"))
	}
}

func by(manager string) registry.WriteOptions { return registry.WriteOptions{FieldManager: manager} }

// agent is a caller known by its program only.
func agent(program string) registry.Caller {
	return registry.Caller{User: "admin", Groups: []string{"system:masters"}, UserAgent: program + "/v1 (linux)"}
}

func TestEveryWriteKeepsTheRecordOfOwners(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	m := leader(t, func(cfg *registry.Config) { cfg.Clock = clock })
	ctx, ref := t.Context(), at("deployments", "default", "web")
	labels := map[string]string{"app": "web"}
	deployment := must[*appsv1.Deployment](t)(m.Create(ctx, agent("creator"), at("deployments", "default", ""), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}}},
		},
		Status: appsv1.DeploymentStatus{Replicas: 7}, // not the creator's to set
	}, registry.WriteOptions{}))
	// What defaulting adds is the creator's; status and what the server sets are not.
	created := `{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:progressDeadlineSeconds":{},%s"f:revisionHistoryLimit":{},"f:selector":{},` +
		`"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{},"f:maxUnavailable":{}},"f:type":{}},` +
		`"f:template":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},%s"f:imagePullPolicy":{},"f:name":{},"f:resources":{},` +
		`"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}}}`
	creator := func(replicas, image string) string { return "creator Update " + fmt.Sprintf(created, replicas, image) }
	const replicas, image = `"f:replicas":{},`, `"f:image":{},`
	expectOwners(t, deployment, creator(replicas, image))

	clock.Step(time.Second)
	deployment.Spec.Template.Spec.Containers[0].Image = "web:2"
	deployment = must[*appsv1.Deployment](t)(m.Update(ctx, agent("updater"), ref, deployment, registry.WriteOptions{}))
	const updater = `updater Update {"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{"f:image":{}}}}}}}`
	expectOwners(t, deployment, creator(replicas, ""), updater)

	clock.Step(time.Second)
	_, err := m.Update(ctx, agent("scaler"), at("deployments", "default", "web", "scale"),
		&autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: 5}}, registry.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deployment = get[*appsv1.Deployment](t, m, ref)
	const scaler = `scaler Update scale {"f:spec":{"f:replicas":{}}}`
	expectOwners(t, deployment, creator("", ""), updater, scaler)

	clock.Step(time.Second)
	deployment.Status.Replicas, deployment.Spec.Paused = 3, true // the second is not for this subresource
	deployment.ManagedFields = nil
	deployment = must[*appsv1.Deployment](t)(m.Update(ctx, agent("controller"), at("deployments", "default", "web", "status"), deployment, registry.WriteOptions{}))
	const controller = `controller Update status {"f:status":{"f:replicas":{}}}`
	expectOwners(t, deployment, creator("", ""), updater, scaler, controller)

	clock.Step(time.Second)
	deployment = must[*appsv1.Deployment](t)(m.Patch(ctx, admin, ref, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"tier":"x","app":null}}}`), by("patcher")))
	expectOwners(t, deployment, strings.Replace(creator("", ""), `{"f:labels":{".":{},"f:app":{}}},"f:spec"`, `{"f:labels":{}},"f:spec"`, 1), updater, scaler, controller,
		`patcher Update {"f:metadata":{"f:labels":{"f:tier":{}}}}`)
	for _, e := range deployment.ManagedFields {
		if want := map[string]int64{"creator": 0, "updater": 1, "scaler": 2, "controller": 3, "patcher": 4}[e.Manager]; e.Time.Unix() != 1_000_000+want || e.APIVersion != "apps/v1" {
			t.Errorf("%s wrote %s at %v", e.Manager, e.APIVersion, e.Time)
		}
	}

	// A write that changes nothing is none, whoever makes it.
	clock.Step(time.Second)
	version := deployment.ResourceVersion
	again := must[*appsv1.Deployment](t)(m.Patch(ctx, admin, ref, types.MergePatchType, []byte(`{"metadata":{"labels":{"tier":"x"}},"status":{"replicas":99}}`), by("nobody")))
	if again.ResourceVersion != version {
		t.Errorf("version %s became %s", version, again.ResourceVersion)
	}

	// A dry run shows what would be.
	dry := must[*appsv1.Deployment](t)(m.Patch(ctx, admin, ref, types.MergePatchType, []byte(`{"spec":{"paused":true}}`), registry.WriteOptions{FieldManager: "dry", DryRun: true}))
	if !strings.Contains(owners(dry), `dry Update {"f:spec":{"f:paused":{}}}`) || strings.Contains(owners(get[*appsv1.Deployment](t, m, ref)), "dry") {
		t.Errorf("a dry run shows\n%s", owners(dry))
	}
}

func TestTransactionsKeepTheRecordOfOwners(t *testing.T) {
	m := leader(t, func(cfg *registry.Config) { cfg.RootCA = []byte("ca") })
	results, err := m.Transact(t.Context(), agent("loop"), []registry.Operation{
		{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap("a")},
		{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap("b"), Options: by("named")},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	expectOwners(t, results[0].Object, `loop Update {"f:data":{".":{},"f:key":{}}}`)
	expectOwners(t, results[1].Object, `named Update {"f:data":{".":{},"f:key":{}}}`)
	// What the server makes by itself is its own.
	expectOwners(t, get[*corev1.ConfigMap](t, m, at("configmaps", "default", "kube-root-ca.crt")), `kijabi-apiserver Update {"f:data":{".":{},"f:ca.crt":{}}}`)
}

// Deletions, bindings and evictions leave the record alone, as in Kubernetes.
func TestDeletionAndBindingOwnNothing(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	must[*corev1.Pod](t)(m.Create(ctx, agent("creator"), at("pods", "default", ""), pod("a"), registry.WriteOptions{}))
	before := owners(get[*corev1.Pod](t, m, at("pods", "default", "a")))
	if strings.Contains(before, "f:status") || strings.Contains(before, "serviceAccount") || !strings.HasPrefix(before, "creator Update ") {
		t.Errorf("a new pod is owned by\n%s", before)
	}
	_, err := m.Create(ctx, agent("scheduler"), at("pods", "default", "a", "binding"),
		&corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, registry.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = m.Delete(ctx, agent("deleter"), at("pods", "default", "a"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	bound := get[*corev1.Pod](t, m, at("pods", "default", "a"))
	if bound.Spec.NodeName != "n1" || bound.DeletionTimestamp == nil || owners(bound) != before {
		t.Errorf("a pod that was bound and deleted is owned by\n%s", owners(bound))
	}
}

func TestEvictionTakesFromTheBudgetAsTheServer(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	one := pod("a")
	must[*corev1.Pod](t)(m.Create(ctx, admin, at("pods", "default", ""), one, registry.WriteOptions{}))
	one.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	must[*corev1.Pod](t)(m.Update(ctx, agent("kubelet"), at("pods", "default", "a", "status"), one, registry.WriteOptions{}))
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: one.Labels}}}
	budget = must[*policyv1.PodDisruptionBudget](t)(m.Create(ctx, admin, at("poddisruptionbudgets", "default", ""), budget, registry.WriteOptions{}))
	budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, DisruptionsAllowed: 2}
	must[*policyv1.PodDisruptionBudget](t)(m.Update(ctx, agent("controller"), at("poddisruptionbudgets", "default", "b", "status"), budget, registry.WriteOptions{}))
	if _, err := m.Create(ctx, agent("drain"), at("pods", "default", "a", "eviction"), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}, registry.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	got := owners(get[*policyv1.PodDisruptionBudget](t, m, at("poddisruptionbudgets", "default", "b")))
	if !strings.Contains(got, `kijabi-apiserver Update status {"f:status":{"f:disruptedPods":{".":{},"f:a":{}},"f:disruptionsAllowed":{}}}`) || strings.Contains(got, "drain") {
		t.Errorf("the budget is owned by\n%s", got)
	}
}

func apply(ctx context.Context, m *master, ref registry.Ref, manifest string, manager string, force bool) (object.Object, error) {
	return m.Patch(ctx, admin, ref, types.ApplyPatchType, []byte(manifest), registry.WriteOptions{FieldManager: manager, Force: force})
}

const applied = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"key":"%s"}}`

func TestApplyConflictsWithPlainWrites(t *testing.T) {
	m := leader(t)
	ctx, ref := t.Context(), at("configmaps", "default", "a")
	must[*corev1.ConfigMap](t)(m.Create(ctx, agent("kubectl-edit"), at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{}))
	_, err := apply(ctx, m, ref, fmt.Sprintf(applied, "other"), "helm", false)
	status := apierrors.APIStatus(nil)
	if !apierrors.IsConflict(err) || !asStatus(err, &status) {
		t.Fatalf("applying over another manager's value: %v", err)
	}
	causes := status.Status().Details.Causes
	if len(causes) != 1 || causes[0].Type != metav1.CauseTypeFieldManagerConflict || causes[0].Field != ".data.key" || !strings.Contains(causes[0].Message, `"kubectl-edit" using v1`) {
		t.Errorf("causes %+v", causes)
	}
	// The same value is shared; another one is taken by force.
	shared, err := apply(ctx, m, ref, fmt.Sprintf(applied, "value"), "helm", false)
	if err != nil {
		t.Fatal(err)
	}
	expectOwners(t, shared, `helm Apply {"f:data":{"f:key":{}}}`, `kubectl-edit Update {"f:data":{".":{},"f:key":{}}}`)
	forced, err := apply(ctx, m, ref, fmt.Sprintf(applied, "other"), "helm", true)
	if err != nil {
		t.Fatal(err)
	}
	expectOwners(t, forced, `helm Apply {"f:data":{"f:key":{}}}`, `kubectl-edit Update {"f:data":{}}`)
	// And taken back by a plain write, which needs no force.
	taken := must[*corev1.ConfigMap](t)(m.Patch(ctx, admin, ref, types.MergePatchType, []byte(`{"data":{"key":"back"}}`), by("kubectl-edit")))
	expectOwners(t, taken, `kubectl-edit Update {"f:data":{".":{},"f:key":{}}}`)
}

func asStatus(err error, out *apierrors.APIStatus) bool {
	status, ok := err.(apierrors.APIStatus)
	*out = status
	return ok
}

// TestFromClientSideApply moves an object as kubectl apply --server-side does.
func TestFromClientSideApply(t *testing.T) {
	m := leader(t)
	ctx, ref := t.Context(), at("configmaps", "default", "a")
	object := configMap("a")
	object.Data["extra"] = "1"
	object.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"default"},"data":{"key":"value","extra":"1"}}`}
	live := must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), object, by("kubectl-client-side-apply")))
	expectOwners(t, live, `kubectl-client-side-apply Update {"f:data":{".":{},"f:extra":{},"f:key":{}},"f:metadata":{"f:annotations":{".":{},"f:kubectl.kubernetes.io/last-applied-configuration":{}}}}`)

	migrate, err := csaupgrade.UpgradeManagedFieldsPatch(live, sets.New("kubectl-client-side-apply"), "kubectl")
	if err != nil || migrate == nil {
		t.Fatalf("the client's patch: %s %v", migrate, err)
	}
	moved := must[*corev1.ConfigMap](t)(m.Patch(ctx, admin, ref, types.JSONPatchType, migrate, registry.WriteOptions{}))
	expectOwners(t, moved, `kubectl Apply {"f:data":{".":{},"f:extra":{},"f:key":{}},"f:metadata":{"f:annotations":{".":{},"f:kubectl.kubernetes.io/last-applied-configuration":{}}}}`)
	// What the next apply leaves out goes, which shows that the fields were taken over.
	next, err := apply(ctx, m, ref, fmt.Sprintf(applied, "2"), "kubectl", false)
	if err != nil {
		t.Fatal(err)
	}
	if data := next.(*corev1.ConfigMap).Data; len(data) != 1 || data["key"] != "2" {
		t.Errorf("after the first server-side apply: %v", data)
	}
}

func TestRecordEndsWhenClientsSaySo(t *testing.T) {
	for _, none := range []string{`[]`, `[{}]`} {
		m := leader(t)
		ctx, ref := t.Context(), at("configmaps", "default", "a")
		must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{}))
		// Not through a subresource, nor by garbage, nor by leaving it out.
		for _, kept := range []string{`[{"manager":"x","operation":"Nonsense","apiVersion":"v1"}]`, `[{"manager":"x","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"bad":{}}}]`, `null`} {
			got := must[*corev1.ConfigMap](t)(m.Patch(ctx, admin, ref, types.MergePatchType, []byte(`{"metadata":{"managedFields":`+kept+`}}`), registry.WriteOptions{}))
			expectOwners(t, got, `test Update {"f:data":{".":{},"f:key":{}}}`)
		}
		cleared := must[*corev1.ConfigMap](t)(m.Patch(ctx, admin, ref, types.MergePatchType, []byte(`{"metadata":{"managedFields":`+none+`},"data":{"b":"1"}}`), registry.WriteOptions{}))
		expectOwners(t, cleared)
		later := must[*corev1.ConfigMap](t)(m.Patch(ctx, admin, ref, types.MergePatchType, []byte(`{"data":{"c":"1"}}`), registry.WriteOptions{}))
		expectOwners(t, later)
		// An apply begins a new one.
		begun, err := apply(ctx, m, ref, fmt.Sprintf(applied, "value"), "helm", false)
		if err != nil {
			t.Fatal(err)
		}
		expectOwners(t, begun, `before-first-apply Update {"f:data":{".":{},"f:b":{},"f:c":{},"f:key":{}}}`, `helm Apply {"f:data":{"f:key":{}}}`)
	}
}

func TestOldestOwnersArePutTogether(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	m := leader(t, func(cfg *registry.Config) { cfg.Clock = clock })
	ctx, ref := t.Context(), at("configmaps", "default", "a")
	last := must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), configMap("a"), by("m00")))
	for i := 1; i <= 12; i++ {
		clock.Step(time.Second)
		last = must[*corev1.ConfigMap](t)(m.Patch(ctx, admin, ref, types.MergePatchType, fmt.Appendf(nil, `{"data":{"k%02d":"v"}}`, i), by(fmt.Sprintf("m%02d", i))))
	}
	want := []string{`ancient-changes Update {"f:data":{".":{},"f:k01":{},"f:k02":{},"f:k03":{},"f:key":{}}}`}
	for i := 4; i <= 12; i++ {
		want = append(want, fmt.Sprintf(`m%02d Update {"f:data":{"f:k%02d":{}}}`, i, i))
	}
	expectOwners(t, last, want...)
}

// TestOwnersAcrossVersions writes one object in two versions of its kind.
func TestOwnersAcrossVersions(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	var v1, v2 registry.Ref
	for _, kind := range object.Kinds() {
		if kind.GVR.Resource == "horizontalpodautoscalers" {
			ref := registry.Ref{Resource: kind.GVR, Namespace: "default"}
			if kind.GVR.Version == "v1" {
				v1 = ref
			} else {
				v2 = ref
			}
		}
	}
	scaler := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	scaler.Spec.ScaleTargetRef, scaler.Spec.MaxReplicas = autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "web"}, 3
	must[*autoscalingv2.HorizontalPodAutoscaler](t)(m.Create(ctx, admin, v2, scaler, by("two")))
	v1.Name = "a"
	must[*autoscalingv1.HorizontalPodAutoscaler](t)(m.Patch(ctx, admin, v1, types.MergePatchType, []byte(`{"spec":{"maxReplicas":5}}`), by("one")))
	v2.Name = "a"
	got := owners(get[*autoscalingv2.HorizontalPodAutoscaler](t, m, v2))
	if !strings.Contains(got, `one Update {"f:spec":{"f:maxReplicas":{}}}`) || strings.Count(got, "f:maxReplicas") != 1 || !strings.Contains(got, "two Update ") {
		t.Errorf("owned by\n%s", got)
	}
}

// A write that the kind ignores does not even change the time at which its manager wrote.
func TestWriteThatIsIgnoredIsNone(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	m := leader(t, func(cfg *registry.Config) { cfg.Clock = clock })
	ctx, ref := t.Context(), at("certificatesigningrequests", "", "a")
	created := must[*certificatesv1.CertificateSigningRequest](t)(m.Create(ctx, admin, at("certificatesigningrequests", "", ""), signingRequest(t, "a"), registry.WriteOptions{}))
	clock.Step(time.Second)
	ignored := must[*certificatesv1.CertificateSigningRequest](t)(m.Patch(ctx, admin, ref, types.MergePatchType, []byte(`{"spec":{"signerName":"example.com/other"}}`), registry.WriteOptions{}))
	if ignored.ResourceVersion != created.ResourceVersion || owners(ignored) != owners(created) {
		t.Errorf("version %s became %s, with\n%s", created.ResourceVersion, ignored.ResourceVersion, owners(ignored))
	}
}

// Status has owners of its own, and takes no managedFields from clients.
func TestStatusKeepsTheRecord(t *testing.T) {
	m := leader(t)
	ctx, status := t.Context(), at("pods", "default", "a", "status")
	must[*corev1.Pod](t)(m.Create(ctx, agent("creator"), at("pods", "default", ""), pod("a"), registry.WriteOptions{}))
	garbage := `{"metadata":{"managedFields":[{"manager":"x","operation":"Nonsense","apiVersion":"v1"}]},"status":{"phase":"Running"}}`
	patched := must[*corev1.Pod](t)(m.Patch(ctx, agent("kubelet"), status, types.MergePatchType, []byte(garbage), registry.WriteOptions{}))
	if got := owners(patched); !strings.Contains(got, `kubelet Update status {"f:status":{"f:phase":{}}}`) || !strings.Contains(got, "creator Update ") {
		t.Errorf("after a patch of the status:\n%s", got)
	}
	merged, err := apply(ctx, m, status, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"status":{"message":"m"}}`, "loop", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := owners(merged); !strings.Contains(got, `loop Apply status {"f:status":{"f:message":{}}}`) || !strings.Contains(got, "kubelet Update status ") {
		t.Errorf("after an apply of the status:\n%s", got)
	}
}

// JSON clients get valid FieldsV1.
func TestOwnersAreJSON(t *testing.T) {
	m := leader(t)
	created := must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod("a"), registry.WriteOptions{}))
	text, err := json.Marshal(created)
	if err != nil || !strings.Contains(string(text), `"fieldsV1":{"f:metadata":{"f:labels"`) {
		t.Errorf("%v: %s", err, text)
	}
}
