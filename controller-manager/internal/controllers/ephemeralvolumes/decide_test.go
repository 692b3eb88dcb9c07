package ephemeralvolumes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/object"
)

func TestDecide(t *testing.T) {
	testPod := func() *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p1"},
			Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "none"}, {Name: "scratch", VolumeSource: corev1.VolumeSource{
				Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
					Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: new("fast")},
				}},
			}}}},
		}
	}
	nothing := func(object.Key) *corev1.PersistentVolumeClaim { return nil }

	p := decide(testPod(), nothing)
	if len(p.create) != 1 || len(p.conflicts) > 0 {
		t.Fatalf("plan %+v", p)
	}
	own := p.create[0]
	owner := metav1.GetControllerOf(own)
	if own.Name != "p-scratch" || own.Namespace != "ns" || own.Labels["a"] != "b" || own.Annotations["c"] != "d" || *own.Spec.StorageClassName != "fast" ||
		owner == nil || owner.Kind != "Pod" || owner.Name != "p" || owner.UID != "p1" {
		t.Errorf("claim %+v", own)
	}

	if p := decide(testPod(), func(object.Key) *corev1.PersistentVolumeClaim { return own }); len(p.create)+len(p.conflicts) > 0 {
		t.Errorf("with its claim: %+v", p)
	}
	foreign := own.DeepCopy()
	foreign.OwnerReferences = nil
	p = decide(testPod(), func(object.Key) *corev1.PersistentVolumeClaim { return foreign })
	if len(p.create) > 0 || len(p.conflicts) != 1 || p.conflicts[0] != "ephemeral volume scratch: PVC ns/p-scratch was not created for pod ns/p (pod is not owner)" {
		t.Errorf("with a namesake: %+v", p)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"leaving":  func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} },
		"finished": func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
	} {
		pod := testPod()
		change(pod)
		if p := decide(pod, nothing); len(p.create) > 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
