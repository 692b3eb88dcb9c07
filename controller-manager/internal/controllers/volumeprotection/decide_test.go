package volumeprotection

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		leaving, protected, used bool
		want                     action
	}{
		"new":               {want: add},
		"protected":         {protected: true, want: nothing},
		"leaving, used":     {leaving: true, protected: true, used: true, want: nothing},
		"leaving, unused":   {leaving: true, protected: true, want: remove},
		"leaving, not ours": {leaving: true, want: nothing},
	} {
		meta := &metav1.ObjectMeta{}
		if test.leaving {
			meta.DeletionTimestamp = &metav1.Time{}
		}
		if test.protected {
			meta.Finalizers = []string{"other", volume.FinalizerClaim}
		}
		if got := decide(meta, volume.FinalizerClaim, test.used); got != test.want {
			t.Errorf("%s: %d, not %d", name, got, test.want)
		}
	}
}

func TestUses(t *testing.T) {
	pod := func(node string, source corev1.VolumeSource) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p1"},
			Spec:       corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "v", VolumeSource: source}}},
		}
	}
	named := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "p-v"}}
	ephemeral := corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-v"}}
	own := claim.DeepCopy()
	own.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "p", UID: "p1", Controller: new(true)}}
	finished := pod("n", named)
	finished.Status.Phase = corev1.PodSucceeded
	for name, test := range map[string]struct {
		pod   *corev1.Pod
		claim *corev1.PersistentVolumeClaim
		want  bool
	}{
		"on a node":                 {pod("n", named), claim, true},
		"finished":                  {finished, claim, true},
		"without a node":            {pod("", named), claim, false},
		"its ephemeral claim":       {pod("n", ephemeral), own, true},
		"namesake of its ephemeral": {pod("n", ephemeral), claim, false},
		"another claim":             {pod("n", corev1.VolumeSource{}), claim, false},
	} {
		if got := uses(test.pod, test.claim); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHeld(t *testing.T) {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	bound := v.DeepCopy()
	bound.Status.Phase = corev1.VolumeBound
	names := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}}
	if held(v, nil) || held(v, &corev1.PersistentVolumeClaim{}) || !held(v, names) || !held(bound, nil) {
		t.Error("a volume is held exactly by being bound, or by a claim that names it")
	}
}
