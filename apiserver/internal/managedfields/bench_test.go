package managedfields_test

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

func kindOf(b testing.TB, gvk schema.GroupVersionKind) *kinds.Kind {
	b.Helper()
	for _, kind := range kinds.Default() {
		if kind.GVK == gvk {
			return kind
		}
	}
	b.Fatal(gvk)
	return nil
}

// benchPod is a defaulted pod as a replica set makes it.
func benchPod(b testing.TB) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "web-", Name: "web-abcde", Namespace: "default", Labels: map[string]string{"app": "web", "pod-template-hash": "12345"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "0d5a7a1c-7f7e-4a51-9d1a-2f7d1c5b1a11", Controller: new(bool)}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "web", Image: "web:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}}, Env: []corev1.EnvVar{{Name: "A", Value: "b"}},
			Resources:      corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/"}}},
		}}},
	}
	pod.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	kindOf(b, pod.GroupVersionKind()).Default(pod)
	return pod
}

func runningPod(b testing.TB) *corev1.Pod {
	pod := benchPod(b)
	now := metav1.Unix(1000, 0)
	pod.UID, pod.Spec.NodeName = "u", "node1"
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, StartTime: &now}
	for _, condition := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, Image: "web:1"}}
	return pod
}

func configMap() *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}, Data: map[string]string{"key": "value"}}
	m.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	return m
}

func lease() *coordinationv1.Lease {
	holder, seconds, renewed := "node1", int32(40), metav1.NewMicroTime(metav1.Unix(1000, 0).Time)
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "node1", Namespace: "kube-node-lease", UID: "u"},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed}}
	l.GetObjectKind().SetGroupVersionKind(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
	return l
}

// Both ways of noting who owns a new object.
func benchmarkCreate(b *testing.B, obj object.Object) {
	kind := kindOf(b, obj.GetObjectKind().GroupVersionKind())
	p := newPair(b, newScheme(), kind, "", "status")
	now := metav1.Unix(2000, 0)
	empty := kind.New()
	empty.GetObjectKind().SetGroupVersionKind(kind.GVK)
	b.Run("plan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			obj.SetManagedFields(nil)
			p.Create(obj, "m", now)
		}
	})
	b.Run("structured-merge-diff", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			obj.SetManagedFields(nil)
			p.oracle.UpdateNoErrors(empty, obj, "m")
		}
	})
}

func BenchmarkCreatePod(b *testing.B)       { benchmarkCreate(b, benchPod(b)) }
func BenchmarkCreateConfigMap(b *testing.B) { benchmarkCreate(b, configMap()) }

// Both ways of noting an update by who owns all of it already.
func benchmarkUpdate(b *testing.B, create, writer pair, old object.Object, change func(object.Object), obj object.Object) {
	now := metav1.Unix(2000, 0)
	create.Create(old, "creator", now)
	before := old.DeepCopyObject().(object.Object)
	change(before)
	writer.Update(old, before, "writer", now) // owns what it changes from now on
	obj.SetManagedFields(before.GetManagedFields())
	entries := before.GetManagedFields()
	b.Run("plan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			obj.SetManagedFields(entries)
			writer.Update(before, obj, "writer", now)
		}
	})
	b.Run("structured-merge-diff", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			obj.SetManagedFields(entries)
			writer.oracle.UpdateNoErrors(before, obj, "writer")
		}
	})
}

func BenchmarkRenewLease(b *testing.B) {
	p := newPair(b, newScheme(), kindOf(b, lease().GroupVersionKind()), "")
	renewed := lease()
	*renewed.Spec.RenewTime = metav1.NewMicroTime(metav1.Unix(1010, 0).Time)
	benchmarkUpdate(b, p, p, lease(), func(obj object.Object) {
		*obj.(*coordinationv1.Lease).Spec.RenewTime = metav1.NewMicroTime(metav1.Unix(1005, 0).Time)
	}, renewed)
}

func BenchmarkPodStatus(b *testing.B) {
	scheme, kind := newScheme(), kindOf(b, corev1.SchemeGroupVersion.WithKind("Pod"))
	main, status := newPair(b, scheme, kind, "", "status"), newPair(b, scheme, kind, "status", "spec")
	unready := func(obj object.Object) {
		pod := obj.(*corev1.Pod)
		pod.Status = runningPod(b).Status
		for _, i := range []int{2, 3} {
			pod.Status.Conditions[i].Status, pod.Status.Conditions[i].LastTransitionTime = corev1.ConditionFalse, metav1.Unix(1100, 0)
		}
		pod.Status.ContainerStatuses[0].Ready = false
	}
	old := benchPod(b)
	old.UID, old.Spec.NodeName = "u", "node1"
	benchmarkUpdate(b, main, status, old, unready, runningPod(b))
}
