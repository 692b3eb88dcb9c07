package registry_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

func job(name string) *batchv1.Job {
	template := corev1.PodTemplateSpec{Spec: pod("x").Spec}
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: batchv1.JobSpec{Template: template}}
}

// identified tells whether selector and labels of a job are its own.
func identified(j *batchv1.Job) bool {
	labels := j.Spec.Template.Labels
	return j.UID != "" && j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] == string(j.UID) &&
		labels[batchv1.ControllerUidLabel] == string(j.UID) && labels["controller-uid"] == string(j.UID) &&
		labels[batchv1.JobNameLabel] == j.Name && labels["job-name"] == j.Name
}

func TestJobIdentity(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	given := job("pi")
	created := must[*batchv1.Job](t)(m.Create(ctx, admin, at("jobs", "default", ""), given, none))
	if !identified(created) || created.Generation != 1 {
		t.Errorf("created: %+v", created)
	}
	// Whatever planned it first, the master that creates it gives the identity: what a
	// request carries is not filled in.
	if given.UID != "" || given.Spec.Selector != nil {
		t.Errorf("the request was filled in: %+v", given)
	}
	seen := map[string]bool{}
	for range 20 {
		j := job("")
		j.GenerateName = "run-"
		created := must[*batchv1.Job](t)(m.Create(ctx, admin, at("jobs", "default", ""), j, none))
		if !identified(created) || !strings.HasPrefix(created.Name, "run-") || seen[created.Name] {
			t.Fatalf("created: %+v", created)
		}
		seen[created.Name] = true
	}
	// Status has a field to select by.
	created.Status = batchv1.JobStatus{Succeeded: 1, StartTime: &created.CreationTimestamp}
	must[*batchv1.Job](t)(m.Update(ctx, admin, at("jobs", "default", "pi", "status"), created, none))
	list, err := m.List(ctx, at("jobs", "default", ""), registry.ListOptions{Fields: "status.successful=1"})
	if err != nil || len(list.Records) != 1 || list.Records[0].Key.Name != "pi" {
		t.Errorf("selected: %d, %v", len(list.Records), err)
	}
	// A patch of a job that the client has not read keeps what was generated.
	patched := must[*batchv1.Job](t)(m.Patch(ctx, admin, at("jobs", "default", "pi"), types.MergePatchType, []byte(`{"spec":{"parallelism":3}}`), none))
	if !identified(patched) || patched.Generation != 2 {
		t.Errorf("patched: %+v", patched)
	}
}

// Jobs and replication controllers leave their pods behind unless the client says otherwise.
func TestOldKindsOrphan(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	must[*batchv1.Job](t)(m.Create(ctx, admin, at("jobs", "default", ""), job("a"), none))
	must[*batchv1.Job](t)(m.Create(ctx, admin, at("jobs", "default", ""), job("b"), none))
	obj, gone, err := m.Delete(ctx, admin, at("jobs", "default", "a"), metav1.DeleteOptions{})
	if err != nil || gone || len(obj.GetFinalizers()) != 1 || obj.GetFinalizers()[0] != metav1.FinalizerOrphanDependents {
		t.Errorf("by default: %v %v %v", obj, gone, err)
	}
	background := metav1.DeletePropagationBackground
	if _, gone, err = m.Delete(ctx, admin, at("jobs", "default", "b"), metav1.DeleteOptions{PropagationPolicy: &background}); err != nil || !gone {
		t.Errorf("background: %v %v", gone, err)
	}
}

func TestTemplateGeneration(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	web := map[string]string{"app": "web"}
	d := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: web},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: pod("x").Spec},
		},
	}
	must[*appsv1.DaemonSet](t)(m.Create(ctx, admin, at("daemonsets", "default", ""), d, none))
	for _, c := range []struct {
		patch, template string
		generation      int64
	}{
		{`{"metadata":{"labels":{"a":"b"}}}`, "1", 1},
		{`{"spec":{"minReadySeconds":3}}`, "1", 2},
		{`{"spec":{"template":{"spec":{"nodeSelector":{"a":"b"}}}}}`, "2", 3},
		{`{"metadata":{"annotations":null}}`, "2", 3},
		{`{"metadata":{"annotations":{"deprecated.daemonset.template.generation":"9"}}}`, "2", 3},
	} {
		got := must[*appsv1.DaemonSet](t)(m.Patch(ctx, admin, at("daemonsets", "default", "web"), types.MergePatchType, []byte(c.patch), none))
		if got.Annotations[appsv1.DeprecatedTemplateGeneration] != c.template || got.Generation != c.generation {
			t.Errorf("%s: template %s, generation %d", c.patch, got.Annotations[appsv1.DeprecatedTemplateGeneration], got.Generation)
		}
	}
}

func TestScaleOfSetsAndControllers(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	web := map[string]string{"app": "web"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: pod("x").Spec}
	claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}}
	must[*appsv1.StatefulSet](t)(m.Create(ctx, admin, at("statefulsets", "default", ""), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.StatefulSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template, VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim},
		},
	}, none))
	must[*corev1.ReplicationController](t)(m.Create(ctx, admin, at("replicationcontrollers", "default", ""), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: corev1.ReplicationControllerSpec{Template: &template},
	}, none))
	for _, name := range []string{"statefulsets", "replicationcontrollers"} {
		scaled := must[*autoscalingv1.Scale](t)(m.Patch(ctx, admin, at(name, "default", "web", "scale"), types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), none))
		if scaled.Spec.Replicas != 4 || scaled.Status.Selector != "app=web" {
			t.Errorf("%s: %+v", name, scaled)
		}
	}
	set := get[*appsv1.StatefulSet](t, m, at("statefulsets", "default", "web"))
	if *set.Spec.Replicas != 4 || set.Generation != 2 {
		t.Errorf("set: %+v", set)
	}
	// The kind of a claim inside of the set is shown though its encoding does not hold it.
	if c := set.Spec.VolumeClaimTemplates[0]; c.Kind != "PersistentVolumeClaim" || c.APIVersion != "v1" {
		t.Errorf("claim: %+v", c.TypeMeta)
	}
	if controller := get[*corev1.ReplicationController](t, m, at("replicationcontrollers", "default", "web")); *controller.Spec.Replicas != 4 {
		t.Errorf("controller: %+v", controller)
	}
}

func autoscalers(version, name, subresource string) registry.Ref {
	ref := registry.Ref{Resource: autoscalingv1.SchemeGroupVersion.WithResource("horizontalpodautoscalers"), Namespace: "default", Name: name, Subresource: subresource}
	ref.Resource.Version = version
	return ref
}

func TestAutoscalersAreOneInBothVersions(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	old := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "web"}, MaxReplicas: 5,
			TargetCPUUtilizationPercentage: new(int32(60)),
		},
	}
	created := must[*autoscalingv1.HorizontalPodAutoscaler](t)(m.Create(ctx, admin, autoscalers("v1", "", ""), old, none))
	if *created.Spec.MinReplicas != 1 || created.UID == "" {
		t.Errorf("created: %+v", created)
	}
	now := get[*autoscalingv2.HorizontalPodAutoscaler](t, m, autoscalers("v2", "web", ""))
	if len(now.Spec.Metrics) != 1 || *now.Spec.Metrics[0].Resource.Target.AverageUtilization != 60 || now.ResourceVersion != created.ResourceVersion {
		t.Errorf("v2: %+v", now)
	}
	now.Spec.Metrics = append(now.Spec.Metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "requests"},
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(resource.MustParse("5"))},
	}})
	must[*autoscalingv2.HorizontalPodAutoscaler](t)(m.Update(ctx, admin, autoscalers("v2", "web", ""), now, none))
	now = get[*autoscalingv2.HorizontalPodAutoscaler](t, m, autoscalers("v2", "web", ""))
	now.Status.CurrentReplicas = 3
	must[*autoscalingv2.HorizontalPodAutoscaler](t)(m.Update(ctx, admin, autoscalers("v2", "web", "status"), now, none))
	// Whoever knows the old version only changes what that shows.
	patched := must[*autoscalingv1.HorizontalPodAutoscaler](t)(m.Patch(ctx, admin, autoscalers("v1", "web", ""), types.MergePatchType, []byte(`{"spec":{"maxReplicas":9}}`), none))
	if patched.Spec.MaxReplicas != 9 || !strings.Contains(patched.Annotations["autoscaling.alpha.kubernetes.io/metrics"], "requests") || patched.Status.CurrentReplicas != 3 {
		t.Errorf("patched: %+v", patched)
	}
	now = get[*autoscalingv2.HorizontalPodAutoscaler](t, m, autoscalers("v2", "web", ""))
	if now.Spec.MaxReplicas != 9 || len(now.Spec.Metrics) != 2 || len(now.Annotations) != 0 || now.Status.CurrentReplicas != 3 {
		t.Errorf("after the patch: %+v", now)
	}
	list, err := m.List(ctx, autoscalers("v1", "", ""), registry.ListOptions{Fields: "metadata.name=web"})
	if err != nil || len(list.Records) != 1 {
		t.Fatalf("%d, %v", len(list.Records), err)
	}
	var listed autoscalingv1.HorizontalPodAutoscaler
	if err := listed.Unmarshal(list.Records[0].Value); err != nil || *listed.Spec.TargetCPUUtilizationPercentage != 60 {
		t.Errorf("listed: %+v %v", listed, err)
	}
	if kind, err := m.Kind(autoscalers("", "", "").Resource); err != nil || kind.GVK.Version != "v2" {
		t.Errorf("preferred: %v %v", kind, err)
	}
}

// What was applied in one version counts in the other.
func TestApplyAcrossVersions(t *testing.T) {
	m := leader(t)
	apply := func(version, manager, spec string, force bool) (object.Object, error) {
		text := "apiVersion: autoscaling/" + version + "\nkind: HorizontalPodAutoscaler\nmetadata: {name: web}\nspec: " + spec
		return m.Patch(t.Context(), admin, autoscalers(version, "web", ""), types.ApplyPatchType, []byte(text), registry.WriteOptions{FieldManager: manager, Force: force})
	}
	const target = "scaleTargetRef: {kind: Deployment, name: web}"
	must[*autoscalingv1.HorizontalPodAutoscaler](t)(apply("v1", "one", "{"+target+", maxReplicas: 5, minReplicas: 2}", false))
	if _, err := apply("v2", "two", "{"+target+", maxReplicas: 7}", false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `.spec.maxReplicas`) {
		t.Errorf("conflict: %v", err)
	}
	forced := must[*autoscalingv2.HorizontalPodAutoscaler](t)(apply("v2", "two", "{"+target+", maxReplicas: 7}", true))
	if forced.Spec.MaxReplicas != 7 || *forced.Spec.MinReplicas != 2 || len(forced.ManagedFields) != 2 {
		t.Errorf("forced: %+v", forced)
	}
	// "one" gives up minReplicas, which is a default then.
	less := must[*autoscalingv1.HorizontalPodAutoscaler](t)(apply("v1", "one", "{"+target+"}", false))
	if *less.Spec.MinReplicas != 1 || less.Spec.MaxReplicas != 7 {
		t.Errorf("after giving up a field: %+v", less.Spec)
	}
}
