package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
)

var none = registry.WriteOptions{}

func TestCreate(t *testing.T) {
	m := leader(t)
	obj := must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), none))
	if obj.UID == "" || obj.ResourceVersion == "" || obj.CreationTimestamp.IsZero() || obj.Kind != "ConfigMap" {
		t.Errorf("incomplete metadata: %+v", obj)
	}
	read := get[*corev1.ConfigMap](t, m, at("configmaps", "default", "a"))
	if read.ResourceVersion != obj.ResourceVersion || read.Data["key"] != "value" || read.UID != obj.UID {
		t.Errorf("read %+v, created %+v", read, obj)
	}
	_, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), none)
	if !apierrors.IsAlreadyExists(err) || err.Error() != `configmaps "a" already exists` {
		t.Errorf("second create: %v", err)
	}
	_, err = m.Create(t.Context(), admin, at("configmaps", "nowhere", ""), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, none)
	if !apierrors.IsNotFound(err) || err.Error() != `namespaces "nowhere" not found` {
		t.Errorf("create in an absent namespace: %v", err)
	}
	bad := configMap("Bad_Name")
	_, err = m.Create(t.Context(), admin, at("configmaps", "default", ""), bad, none)
	if !apierrors.IsInvalid(err) || !strings.HasPrefix(err.Error(), `ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain`) {
		t.Errorf("bad name: %v", err)
	}
	stale := configMap("b")
	stale.ResourceVersion = "7"
	if _, err = m.Create(t.Context(), admin, at("configmaps", "default", ""), stale, none); !apierrors.IsBadRequest(err) {
		t.Errorf("create with a version: %v", err)
	}
	if _, err = m.Create(t.Context(), admin, at("configmaps", "default", ""), pod("x"), none); !apierrors.IsBadRequest(err) {
		t.Errorf("wrong type: %v", err)
	}
	dry := must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("dry"), registry.WriteOptions{DryRun: true}))
	if dry.UID == "" {
		t.Error("a dry run is not completed")
	}
	if _, err := m.Get(t.Context(), at("configmaps", "default", "dry")); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run was stored: %v", err)
	}
}

func TestGeneratedNames(t *testing.T) {
	m := leader(t)
	seen := map[string]bool{}
	for range 50 {
		c := configMap("")
		c.GenerateName = "web-"
		obj := must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), c, none))
		if !strings.HasPrefix(obj.Name, "web-") || len(obj.Name) != 9 || seen[obj.Name] {
			t.Fatalf("name %q", obj.Name)
		}
		seen[obj.Name] = true
	}
}

func TestUpdate(t *testing.T) {
	m := leader(t)
	ref := at("configmaps", "default", "a")
	created := must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), none))

	same := must[*corev1.ConfigMap](t)(m.Update(t.Context(), admin, ref, created.DeepCopy(), none))
	if same.ResourceVersion != created.ResourceVersion {
		t.Errorf("an update without a change was written: %s, before %s", same.ResourceVersion, created.ResourceVersion)
	}
	next := created.DeepCopy()
	next.Data["key"] = "two"
	changed := must[*corev1.ConfigMap](t)(m.Update(t.Context(), admin, ref, next, none))
	if changed.ResourceVersion == created.ResourceVersion || changed.UID != created.UID {
		t.Errorf("update: %+v", changed.ObjectMeta)
	}
	late := created.DeepCopy()
	late.Data["key"] = "late"
	_, err := m.Update(t.Context(), admin, ref, late, none)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "the object has been modified; please apply your changes to the latest version and try again") {
		t.Errorf("stale update: %v", err)
	}
	late.ResourceVersion = ""
	must[*corev1.ConfigMap](t)(m.Update(t.Context(), admin, ref, late, none))
	late.ResourceVersion, late.UID = "", "other"
	if _, err := m.Update(t.Context(), admin, ref, late, none); !apierrors.IsConflict(err) {
		t.Errorf("other uid: %v", err)
	}
	if _, err := m.Update(t.Context(), admin, at("configmaps", "default", "absent"), configMap("absent"), none); !apierrors.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
}

// Of many that change one object at the same version, one may win.
func TestConcurrentUpdates(t *testing.T) {
	m := leader(t)
	created := must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), none))
	var wait sync.WaitGroup
	var mu sync.Mutex
	won, lost := 0, 0
	for i := range 20 {
		wait.Go(func() {
			next := created.DeepCopy()
			next.Data["key"] = fmt.Sprint(i)
			_, err := m.Update(t.Context(), admin, at("configmaps", "default", "a"), next, none)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case apierrors.IsConflict(err):
				lost++
			default:
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if won != 1 || lost != 19 {
		t.Errorf("%d won, %d lost", won, lost)
	}
	// Patches without a version all succeed.
	for i := range 20 {
		wait.Go(func() {
			patch := fmt.Sprintf(`{"data":{"k%d":"x"}}`, i)
			if _, err := m.Patch(t.Context(), admin, at("configmaps", "default", "a"), types.MergePatchType, []byte(patch), none); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if got := get[*corev1.ConfigMap](t, m, at("configmaps", "default", "a")); len(got.Data) != 21 {
		t.Errorf("%d entries, want 21", len(got.Data))
	}
}

func TestPatches(t *testing.T) {
	m := leader(t)
	must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod("a"), none))
	ref := at("pods", "default", "a")
	strict := registry.WriteOptions{FieldValidation: metav1.FieldValidationStrict}

	got := must[*corev1.Pod](t)(m.Patch(t.Context(), admin, ref, types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"web","image":"web:2"}]}}`), strict))
	if len(got.Spec.Containers) != 1 || got.Spec.Containers[0].Image != "web:2" || got.Spec.Containers[0].TerminationMessagePath == "" {
		t.Errorf("strategic merge: %+v", got.Spec.Containers)
	}
	if got.Generation != 2 {
		t.Errorf("generation %d after a change of the spec, want 2", got.Generation)
	}
	got = must[*corev1.Pod](t)(m.Patch(t.Context(), admin, ref, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":null,"tier":"front"}}}`), strict))
	if len(got.Labels) != 1 || got.Labels["tier"] != "front" || got.Generation != 2 {
		t.Errorf("merge: %v, generation %d", got.Labels, got.Generation)
	}
	got = must[*corev1.Pod](t)(m.Patch(t.Context(), admin, ref, types.JSONPatchType, []byte(`[{"op":"test","path":"/metadata/labels/tier","value":"front"},{"op":"add","path":"/metadata/annotations","value":{"a":"b"}}]`), strict))
	if got.Annotations["a"] != "b" {
		t.Errorf("JSON patch: %v", got.Annotations)
	}
	for _, c := range []struct {
		kind  types.PatchType
		patch string
		check func(error) bool
		text  string
	}{
		{types.MergePatchType, `{"spec":{"replicas":3}}`, apierrors.IsInvalid, `strict decoding error: unknown field "spec.replicas"`},
		{types.MergePatchType, `{"spec":{"hostNetwork":"yes"}}`, apierrors.IsBadRequest, "cannot decode the patched object"},
		{types.MergePatchType, `[1]`, apierrors.IsBadRequest, "error decoding patch"},
		{types.MergePatchType, `{"metadata":{"name":"b"}}`, apierrors.IsBadRequest, "does not match the name on the URL"},
		{types.MergePatchType, `{"metadata":{"resourceVersion":"1"}}`, apierrors.IsConflict, "the object has been modified"},
		{types.MergePatchType, `{"spec":{"nodeName":"n1"}}`, apierrors.IsInvalid, "spec: Forbidden: pod updates may not change fields other than"},
		{types.JSONPatchType, `[{"op":"remove","path":"/spec/absent"}]`, apierrors.IsInvalid, "the server rejected our request"},
		{types.JSONPatchType, `{`, apierrors.IsBadRequest, "error decoding patch"},
		{"application/x", `{}`, apierrors.IsUnsupportedMediaType, "accepted media types"},
	} {
		_, err := m.Patch(t.Context(), admin, ref, c.kind, []byte(c.patch), strict)
		if !c.check(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.patch, err)
		}
	}
}

func TestApply(t *testing.T) {
	m := leader(t)
	ref := at("configmaps", "default", "a")
	apply := func(manager, data string, force bool) (object.Object, error) {
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: " + data
		return m.Patch(t.Context(), admin, ref, types.ApplyPatchType, []byte(text), registry.WriteOptions{FieldManager: manager, Force: force})
	}
	created := must[*corev1.ConfigMap](t)(apply("one", "{x: '1', z: '2'}", false))
	if len(created.ManagedFields) != 1 || created.Data["x"] != "1" || created.UID == "" {
		t.Fatalf("created: %+v", created)
	}
	_, err := apply("two", "{x: '9'}", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one": .data.x`) {
		t.Errorf("conflict: %v", err)
	}
	forced := must[*corev1.ConfigMap](t)(apply("two", "{x: '9'}", true))
	if forced.Data["x"] != "9" || forced.Data["z"] != "2" || len(forced.ManagedFields) != 2 {
		t.Errorf("forced: %+v", forced)
	}
	again := must[*corev1.ConfigMap](t)(apply("two", "{x: '9'}", false))
	if again.ResourceVersion != forced.ResourceVersion {
		t.Errorf("applying the same was written: %s, before %s", again.ResourceVersion, forced.ResourceVersion)
	}
	// "one" gives up z.
	less := must[*corev1.ConfigMap](t)(apply("one", "{}", false))
	if _, ok := less.Data["z"]; ok || less.Data["x"] != "9" {
		t.Errorf("after giving up a field: %v", less.Data)
	}
	// A plain update takes the fields it changes.
	next := less.DeepCopy()
	next.Data["x"] = "10"
	must[*corev1.ConfigMap](t)(m.Update(t.Context(), admin, ref, next, none))
	if _, err := apply("two", "{x: '9'}", false); !apierrors.IsConflict(err) {
		t.Errorf("apply over an update: %v", err)
	}
	if _, err := m.Patch(t.Context(), admin, ref, types.ApplyPatchType, []byte(`{}`), none); !apierrors.IsBadRequest(err) {
		t.Errorf("without a manager: %v", err)
	}
}

func TestDelete(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	c := configMap("a")
	c.Finalizers = []string{"example.com/hold"}
	created := must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), c, none))
	ref := at("configmaps", "default", "a")
	wrong := types.UID("x")
	if _, _, err := m.Delete(ctx, admin, ref, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) {
		t.Errorf("wrong uid: %v", err)
	}
	obj, gone, err := m.Delete(ctx, admin, ref, metav1.DeleteOptions{})
	if err != nil || gone || obj.GetDeletionTimestamp() == nil {
		t.Fatalf("delete with a finalizer: %v %v %v", obj, gone, err)
	}
	marked := get[*corev1.ConfigMap](t, m, ref)
	again, gone, err := m.Delete(ctx, admin, ref, metav1.DeleteOptions{})
	if err != nil || gone || again.GetResourceVersion() != marked.ResourceVersion {
		t.Errorf("second delete: %v %v", gone, err)
	}
	more := marked.DeepCopy()
	more.Finalizers = append(more.Finalizers, "example.com/more")
	if _, err := m.Update(ctx, admin, ref, more, none); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "no new finalizers can be added if the object is being deleted") {
		t.Errorf("new finalizer: %v", err)
	}
	marked.Finalizers = nil
	must[*corev1.ConfigMap](t)(m.Update(ctx, admin, ref, marked, none))
	if _, err := m.Get(ctx, ref); !apierrors.IsNotFound(err) {
		t.Errorf("after the last finalizer: %v", err)
	}
	if _, _, err := m.Delete(ctx, admin, ref, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	_ = created

	foreground := metav1.DeletePropagationForeground
	must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), configMap("b"), none))
	obj, gone, err = m.Delete(ctx, admin, at("configmaps", "default", "b"), metav1.DeleteOptions{PropagationPolicy: &foreground})
	if err != nil || gone || len(obj.GetFinalizers()) != 1 || obj.GetFinalizers()[0] != metav1.FinalizerDeleteDependents {
		t.Errorf("foreground: %v %v %v", obj, gone, err)
	}
	_, _, err = m.Delete(ctx, admin, at("namespaces", "", "default"), metav1.DeleteOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "this namespace may not be deleted") {
		t.Errorf("default: %v", err)
	}
}

func TestPodsEndGracefully(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	must[*corev1.Pod](t)(m.Create(ctx, admin, at("pods", "default", ""), pod("waiting"), none))
	if _, gone, err := m.Delete(ctx, admin, at("pods", "default", "waiting"), metav1.DeleteOptions{}); err != nil || !gone {
		t.Errorf("a pod without a node stays: %v", err)
	}
	must[*corev1.Pod](t)(m.Create(ctx, admin, at("pods", "default", ""), pod("a"), none))
	bind(t, m, "a", "n1")
	ref := at("pods", "default", "a")
	obj, gone, err := m.Delete(ctx, admin, ref, metav1.DeleteOptions{})
	if err != nil || gone || *obj.GetDeletionGracePeriodSeconds() != 30 {
		t.Fatalf("delete: %v %v %v", obj, gone, err)
	}
	five, hour, zero := int64(5), int64(3600), int64(0)
	obj, _, err = m.Delete(ctx, admin, ref, metav1.DeleteOptions{GracePeriodSeconds: &hour})
	if err != nil || *obj.GetDeletionGracePeriodSeconds() != 30 {
		t.Errorf("a longer period: %v %v", obj, err)
	}
	obj, _, err = m.Delete(ctx, admin, ref, metav1.DeleteOptions{GracePeriodSeconds: &five})
	if err != nil || *obj.GetDeletionGracePeriodSeconds() != 5 {
		t.Errorf("a shorter period: %v %v", obj, err)
	}
	if _, gone, err = m.Delete(ctx, admin, ref, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil || !gone {
		t.Errorf("confirmed by the kubelet: %v %v", gone, err)
	}
	must[*corev1.Pod](t)(m.Create(ctx, admin, at("pods", "default", ""), pod("b"), none))
	if _, err := m.Create(ctx, admin, at("pods", "default", "b", "eviction"), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, none); err != nil {
		t.Error(err)
	}
	if _, err := m.Get(ctx, at("pods", "default", "b")); !apierrors.IsNotFound(err) {
		t.Errorf("after the eviction: %v", err)
	}
}

func bind(t *testing.T, m *master, name, node string) {
	t.Helper()
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	if _, err := m.Create(t.Context(), admin, at("pods", "default", name, "binding"), binding, none); err != nil {
		t.Fatal(err)
	}
}

func TestBinding(t *testing.T) {
	m := leader(t)
	must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod("a"), none))
	bind(t, m, "a", "n1")
	got := get[*corev1.Pod](t, m, at("pods", "default", "a"))
	if got.Spec.NodeName != "n1" || got.Status.Conditions[0].Type != corev1.PodScheduled || got.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("bound: %+v", got)
	}
	again := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Name: "n2"}}
	_, err := m.Create(t.Context(), admin, at("pods", "default", "a", "binding"), again, none)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `pod a is already assigned to node "n1"`) {
		t.Errorf("second binding: %v", err)
	}
	list, err := m.List(t.Context(), at("pods", "", ""), registry.ListOptions{Fields: "spec.nodeName=n1"})
	if err != nil || len(list.Records) != 1 {
		t.Errorf("list by node: %d, %v", len(list.Records), err)
	}
}

func TestStatusAndScale(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	web := map[string]string{"app": "web"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: web},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: pod("x").Spec},
		},
		Status: appsv1.DeploymentStatus{Replicas: 7},
	}
	created := must[*appsv1.Deployment](t)(m.Create(ctx, admin, at("deployments", "default", ""), d, none))
	if created.Status.Replicas != 0 || *created.Spec.Replicas != 1 || created.Generation != 1 {
		t.Fatalf("created: %+v", created)
	}
	ref := at("deployments", "default", "web")
	status := created.DeepCopy()
	status.Spec.Replicas, status.Labels = new(int32(5)), web
	status.Status = appsv1.DeploymentStatus{Replicas: 1, ObservedGeneration: 1}
	got := must[*appsv1.Deployment](t)(m.Update(ctx, admin, at("deployments", "default", "web", "status"), status, none))
	if *got.Spec.Replicas != 1 || len(got.Labels) != 0 || got.Status.Replicas != 1 || got.Generation != 1 {
		t.Errorf("status update: %+v", got)
	}
	spec := got.DeepCopy()
	spec.Status.Replicas, spec.Spec.Replicas = 9, new(int32(2))
	got = must[*appsv1.Deployment](t)(m.Update(ctx, admin, ref, spec, none))
	if got.Status.Replicas != 1 || *got.Spec.Replicas != 2 || got.Generation != 2 {
		t.Errorf("spec update: %+v", got)
	}
	scaled := must[*autoscalingv1.Scale](t)(m.Update(ctx, admin, at("deployments", "default", "web", "scale"),
		&autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv1.ScaleSpec{Replicas: 4}}, none))
	if scaled.Spec.Replicas != 4 || scaled.Status.Selector != "app=web" || scaled.ResourceVersion == "" {
		t.Errorf("scale: %+v", scaled)
	}
	scaled = must[*autoscalingv1.Scale](t)(m.Patch(ctx, admin, at("deployments", "default", "web", "scale"), types.MergePatchType, []byte(`{"spec":{"replicas":6}}`), none))
	if now := get[*appsv1.Deployment](t, m, ref); *now.Spec.Replicas != 6 || scaled.Spec.Replicas != 6 || now.Generation != 4 {
		t.Errorf("patched scale: %+v", now)
	}
	if _, err := m.Patch(ctx, admin, at("deployments", "default", "web", "scale"), types.MergePatchType, []byte(`{"spec":{"replicas":-1}}`), none); !apierrors.IsInvalid(err) {
		t.Errorf("negative scale: %v", err)
	}
	record, err := m.Get(ctx, at("deployments", "default", "web", "scale"))
	if err != nil {
		t.Fatal(err)
	}
	var scale autoscalingv1.Scale
	if err := scale.Unmarshal(record.Value); err != nil || scale.Spec.Replicas != 6 {
		t.Errorf("read scale: %+v %v", scale, err)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	m.namespace(t, "work")
	ref := at("namespaces", "", "work")
	obj, gone, err := m.Delete(ctx, admin, ref, metav1.DeleteOptions{})
	if err != nil || gone || obj.(*corev1.Namespace).Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("delete: %v %v %v", obj, gone, err)
	}
	c := configMap("a")
	c.Namespace = "work"
	_, err = m.Create(ctx, admin, at("configmaps", "work", ""), c, none)
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("create in a terminating namespace: %v", err)
	}
	terminating := get[*corev1.Namespace](t, m, ref)
	terminating.Spec.Finalizers = nil
	plain := terminating.DeepCopy()
	must[*corev1.Namespace](t)(m.Update(ctx, admin, ref, plain, none))
	if still := get[*corev1.Namespace](t, m, ref); len(still.Spec.Finalizers) != 1 {
		t.Error("a plain update took the finalizer")
	}
	terminating.ResourceVersion = ""
	must[*corev1.Namespace](t)(m.Update(ctx, admin, at("namespaces", "", "work", "finalize"), terminating, none))
	if _, err := m.Get(ctx, ref); !apierrors.IsNotFound(err) {
		t.Errorf("after finalize: %v", err)
	}
}

func service(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
}

func TestServiceAddresses(t *testing.T) {
	m := leader(t, func(c *registry.Config) {
		c.Network.ServiceCIDR, c.Network.DNSAddress, c.Network.NodePortLast = "10.96.0.0/28", "10.96.0.10", 30003
	})
	ctx := t.Context()
	seen := map[string]bool{}
	var wait sync.WaitGroup
	var mu sync.Mutex
	// 16 addresses less network, broadcast and two reserved ones.
	for i := range 12 {
		wait.Go(func() {
			obj, err := m.Create(ctx, admin, at("services", "default", ""), service(fmt.Sprintf("s%d", i)), none)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			s := obj.(*corev1.Service)
			if seen[s.Spec.ClusterIP] || s.Spec.ClusterIP == "10.96.0.1" || s.Spec.ClusterIP == "10.96.0.10" || s.Spec.ClusterIPs[0] != s.Spec.ClusterIP {
				t.Errorf("address %q", s.Spec.ClusterIP)
			}
			seen[s.Spec.ClusterIP] = true
		})
	}
	wait.Wait()
	_, err := m.Create(ctx, admin, at("services", "default", ""), service("full"), none)
	if err == nil || !strings.Contains(err.Error(), "range is full") {
		t.Errorf("full: %v", err)
	}
	fixed := service("kubernetes")
	fixed.Spec.ClusterIP = "10.96.0.1"
	must[*corev1.Service](t)(m.Create(ctx, admin, at("services", "default", ""), fixed, none))
	fixed = service("twice")
	fixed.Spec.ClusterIP = "10.96.0.1"
	_, err = m.Create(ctx, admin, at("services", "default", ""), fixed, none)
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.clusterIPs[0]") || !strings.Contains(err.Error(), "failed to allocate IP 10.96.0.1: provided IP is already allocated") {
		t.Errorf("taken: %v", err)
	}
	fixed = service("outside")
	fixed.Spec.ClusterIP = "10.1.0.1"
	if _, err = m.Create(ctx, admin, at("services", "default", ""), fixed, none); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "The range of valid IPs is 10.96.0.0/28") {
		t.Errorf("outside: %v", err)
	}
	// A deleted service gives its address back.
	if _, _, err := m.Delete(ctx, admin, at("services", "default", "s0"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ported := service("ported")
	ported.Spec.Type = corev1.ServiceTypeNodePort
	ported.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 81, NodePort: 30001}, {Name: "c", Port: 80, Protocol: corev1.ProtocolUDP}}
	obj := must[*corev1.Service](t)(m.Create(ctx, admin, at("services", "default", ""), ported, none))
	if a, c := obj.Spec.Ports[0].NodePort, obj.Spec.Ports[2].NodePort; a < 30000 || a > 30003 || a == 30001 || c != a {
		t.Errorf("ports: %+v", obj.Spec.Ports)
	}
	obj.Spec.Ports[1].NodePort = 29999
	if _, err := m.Update(ctx, admin, at("services", "default", "ported"), obj.DeepCopy(), none); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.ports[1].nodePort: Invalid value: 29999: provided port is not in the valid range. The range of valid ports is 30000-30003") {
		t.Errorf("port outside: %v", err)
	}
	// Turning it back into a ClusterIP service frees the ports and keeps the address.
	back := must[*corev1.Service](t)(m.Patch(ctx, admin, at("services", "default", "ported"), types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), none))
	if back.Spec.ClusterIP != obj.Spec.ClusterIP || back.Spec.Ports[1].NodePort != 0 || back.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("back: %+v", back.Spec)
	}
	if _, err := m.Patch(ctx, admin, at("services", "default", "s1"), types.MergePatchType, []byte(`{"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30001}]}}`), none); err != nil {
		t.Errorf("the freed port: %v", err)
	}
	if _, err := m.Patch(ctx, admin, at("services", "default", "s2"), types.MergePatchType, []byte(`{"spec":{"clusterIP":"10.96.0.99","clusterIPs":["10.96.0.99"]}}`), none); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.clusterIPs: Invalid value") {
		t.Errorf("change of address: %v", err)
	}
}

func TestLists(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	for i := range 25 {
		c := configMap(fmt.Sprintf("c%02d", i))
		c.Labels = map[string]string{"odd": fmt.Sprint(i % 2)}
		must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), c, none))
	}
	var names []string
	opts := registry.ListOptions{Limit: 10}
	first := ""
	for {
		page, err := m.List(ctx, at("configmaps", "default", ""), opts)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = page.ResourceVersion
			if page.Remaining != 15 {
				t.Errorf("%d remain, want 15", page.Remaining)
			}
			// Other writes do not disturb the pages.
			for _, name := range []string{"a-before", "c15-between"} {
				must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), configMap(name), none))
			}
			if _, gone, err := m.Delete(ctx, admin, at("configmaps", "default", "c20"), metav1.DeleteOptions{}); err != nil || !gone {
				t.Fatalf("gone %v, %v", gone, err)
			}
		}
		if page.ResourceVersion != first {
			t.Errorf("page of version %s, want %s", page.ResourceVersion, first)
		}
		for _, r := range page.Records {
			names = append(names, r.Key.Name)
		}
		if opts.Continue = page.Continue; page.Continue == "" {
			break
		}
	}
	for i, name := range names {
		if name != fmt.Sprintf("c%02d", i) {
			t.Errorf("names: %v", names)
			break
		}
	}
	if len(names) != 25 {
		t.Errorf("%d names: %v", len(names), names)
	}
	odd, _ := labels.Parse("odd=1")
	for _, c := range []struct {
		opts  registry.ListOptions
		count int
		check func(error) bool
	}{
		{registry.ListOptions{Labels: odd}, 12, nil},
		{registry.ListOptions{Fields: "metadata.name=c03"}, 1, nil},
		{registry.ListOptions{Fields: "metadata.name!=c03"}, 25, nil},
		{registry.ListOptions{Fields: "metadata.namespace=default"}, 26, nil},
		{registry.ListOptions{Fields: "metadata.namespace=other"}, 0, nil},
		{registry.ListOptions{ResourceVersion: "0"}, 26, nil},
		{registry.ListOptions{ResourceVersion: first}, 26, nil},
		{registry.ListOptions{Fields: "spec.nodeName=x"}, 0, apierrors.IsBadRequest},
		{registry.ListOptions{Fields: "a"}, 0, apierrors.IsBadRequest},
		{registry.ListOptions{Continue: "nonsense"}, 0, apierrors.IsBadRequest},
		{registry.ListOptions{ResourceVersion: "x"}, 0, apierrors.IsBadRequest},
		{registry.ListOptions{ResourceVersion: first, ResourceVersionMatch: metav1.ResourceVersionMatchExact}, 25, nil},
		{registry.ListOptions{ResourceVersion: first, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, 26, nil},
	} {
		list, err := m.List(ctx, at("configmaps", "default", ""), c.opts)
		if c.check != nil && !c.check(err) || c.check == nil && err != nil || len(list.Records) != c.count {
			t.Errorf("%+v: %d, %v", c.opts, len(list.Records), err)
		}
	}
	_, err := m.List(ctx, at("configmaps", "default", ""), registry.ListOptions{ResourceVersion: "999999999999"})
	if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Errorf("version of the future: %v", err)
	}
	n, err := m.DeleteCollection(ctx, admin, at("configmaps", "default", ""), metav1.DeleteOptions{}, registry.ListOptions{Labels: odd})
	if err != nil || n != 12 {
		t.Errorf("deleted %d, %v", n, err)
	}
}

// TestPageOfAnOldVersion goes on with a page whose version is not known any more.
func TestPageOfAnOldVersion(t *testing.T) {
	m := startOver(t, store.Config{Name: "m1", Backend: memory.New(), History: 3}, nil)
	m.lead(t)
	m.namespace(t, "default")
	ctx := t.Context()
	for i := range 5 {
		must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), configMap(fmt.Sprintf("c%d", i)), none))
	}
	first, err := m.List(ctx, at("configmaps", "default", ""), registry.ListOptions{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i := 5; i < 10; i++ {
		must[*corev1.ConfigMap](t)(m.Create(ctx, admin, at("configmaps", "default", ""), configMap(fmt.Sprintf("c%d", i)), none))
	}
	_, err = m.List(ctx, at("configmaps", "default", ""), registry.ListOptions{Limit: 2, Continue: first.Continue})
	status := apierrors.APIStatus(nil)
	if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.Status().Continue == "" {
		t.Fatalf("page of an old version: %v, want Expired and another token", err)
	}
	rest, err := m.List(ctx, at("configmaps", "default", ""), registry.ListOptions{Continue: status.Status().Continue})
	if err != nil || len(rest.Records) != 8 || rest.Records[0].Key.Name != "c2" || rest.ResourceVersion == first.ResourceVersion {
		t.Errorf("the rest: %d records at %s, %v", len(rest.Records), rest.ResourceVersion, err)
	}
	if _, err := m.List(ctx, at("configmaps", "default", ""), registry.ListOptions{
		ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact,
	}); !apierrors.IsResourceExpired(err) {
		t.Errorf("exact old version: %v, want Expired", err)
	}
}

func TestWatch(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	must[*corev1.Pod](t)(m.Create(ctx, admin, at("pods", "default", ""), pod("a"), none))
	must[*corev1.Pod](t)(m.Create(ctx, admin, at("pods", "default", ""), pod("b"), none))
	var seen []string
	step := 0
	batches, err := m.Watch(ctx, at("pods", "default", ""), registry.WatchOptions{Fields: "spec.nodeName=n1", SendInitialEvents: new(true)})
	if err != nil {
		t.Fatal(err)
	}
	for batch, err := range batches {
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range batch.Events {
			seen = append(seen, fmt.Sprintf("%d %s", event.Type, event.Record.Key.Name))
		}
		switch {
		case batch.InitialEnd:
			if len(batch.Events) != 0 || batch.Progress == 0 {
				t.Errorf("initial: %+v", batch)
			}
			bind(t, m, "a", "n1")
		case len(seen) == 1 && step == 0:
			step++
			if _, err := m.Patch(ctx, admin, at("pods", "default", "a", "status"), types.MergePatchType, []byte(`{"status":{"phase":"Running"}}`), none); err != nil {
				t.Fatal(err)
			}
		case len(seen) == 2 && step == 1:
			step++
			zero := int64(0)
			if _, _, err := m.Delete(ctx, admin, at("pods", "default", "a"), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
				t.Fatal(err)
			}
		}
		if len(seen) == 3 {
			break
		}
	}
	want := []string{fmt.Sprintf("%d a", store.Added), fmt.Sprintf("%d a", store.Modified), fmt.Sprintf("%d a", store.Deleted)}
	if strings.Join(seen, ",") != strings.Join(want, ",") {
		t.Errorf("seen %v, want %v", seen, want)
	}
	if _, err := m.Watch(ctx, at("pods", "default", ""), registry.WatchOptions{ResourceVersion: "1"}); !apierrors.IsResourceExpired(err) && err != nil {
		t.Errorf("watch from the beginning: %v", err)
	}
}

func TestTransact(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	create := func(name string) registry.Operation {
		return registry.Operation{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap(name)}
	}
	out, err := m.Transact(ctx, admin, []registry.Operation{create("a"), create("b")}, false)
	if err != nil || len(out) != 2 || out[1].Object.GetName() != "b" || out[1].Object.GetResourceVersion() == "" {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err = m.Transact(ctx, admin, []registry.Operation{create("c"), create("b")}, false); !apierrors.IsAlreadyExists(err) {
		t.Errorf("atomic: %v", err)
	}
	if _, err := m.Get(ctx, at("configmaps", "default", "c")); !apierrors.IsNotFound(err) {
		t.Errorf("half done: %v", err)
	}
	out, err = m.Transact(ctx, admin, []registry.Operation{create("c"), create("b"), create("Bad_")}, true)
	if err != nil || out[0].Err != nil || !apierrors.IsAlreadyExists(out[1].Err) || !apierrors.IsInvalid(out[2].Err) {
		t.Errorf("independent: %+v %v", out, err)
	}
	if _, err = m.Transact(ctx, admin, []registry.Operation{create("x"), create("x")}, false); !apierrors.IsBadRequest(err) {
		t.Errorf("twice: %v", err)
	}
}

func TestEventsAreOneInBothGroups(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e", Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "a"}, Reason: "Started", Message: "text", Type: "Normal",
	}
	must[*corev1.Event](t)(m.Create(ctx, admin, registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("events"), Namespace: "default"}, e, none))
	ref := registry.Ref{Resource: eventsv1.SchemeGroupVersion.WithResource("events"), Namespace: "default"}
	list, err := m.List(ctx, ref, registry.ListOptions{Fields: "regarding.name=a"})
	if err != nil || len(list.Records) != 1 {
		t.Fatalf("%d, %v", len(list.Records), err)
	}
	var got eventsv1.Event
	if err := got.Unmarshal(list.Records[0].Value); err != nil || got.Note != "text" || got.Regarding.Name != "a" || got.ResourceVersion == "" {
		t.Errorf("%+v %v", got, err)
	}
}

func TestDoReturnsTheStoredBytes(t *testing.T) {
	m := leader(t)
	r, err := m.Do(t.Context(), admin, registry.Operation{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap("a")})
	if err != nil || r.Object != nil {
		t.Fatalf("%+v %v", r, err)
	}
	obj, err := object.Decode(r.Kind, r.Record.Value)
	if err != nil || obj.GetName() != "a" || obj.GetResourceVersion() == "" {
		t.Errorf("%v %v", obj, err)
	}
}

func TestFencedCaller(t *testing.T) {
	m := leader(t)
	caller := admin
	caller.Epoch = 1
	_, err := m.Create(t.Context(), caller, at("configmaps", "default", ""), configMap("a"), none)
	if apierrors.ReasonForError(err) != registry.ReasonFenced {
		t.Errorf("%v", err)
	}
	caller.Epoch = m.store.Term().Epoch
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), caller, at("configmaps", "default", ""), configMap("a"), none))

	component := registry.Caller{User: "system:kube-controller-manager", Groups: []string{pki.RolePrefix + pki.ComponentControllerManager}}
	_, err = m.Create(t.Context(), component, at("configmaps", "default", ""), configMap("b"), none)
	if apierrors.ReasonForError(err) != registry.ReasonFenced {
		t.Errorf("a component without an epoch: %v", err)
	}
	component.Epoch = m.store.Term().Epoch
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), component, at("configmaps", "default", ""), configMap("b"), none))
}
