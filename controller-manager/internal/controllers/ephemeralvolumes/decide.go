package ephemeralvolumes

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// plan is what a pod needs.
type plan struct {
	create []*corev1.PersistentVolumeClaim
	// conflicts say which volumes cannot have their claim because another has its name.
	conflicts []string
}

// decide compares a pod's ephemeral volumes with the claims that are there; claimOf returns
// nil for one that is not. It is pure.
func decide(pod *corev1.Pod, claimOf func(object.Key) *corev1.PersistentVolumeClaim) plan {
	var p plan
	if !podstate.Active(pod) {
		return p
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		wanted := claim(pod, v.Name, v.Ephemeral.VolumeClaimTemplate)
		have := claimOf(object.KeyOf(wanted))
		if have == nil {
			p.create = append(p.create, wanted)
		} else if err := volume.MadeFor(have, pod); err != nil {
			p.conflicts = append(p.conflicts, conflict(v.Name, err))
		}
	}
	return p
}

func conflict(name string, err error) string {
	return fmt.Sprintf("ephemeral volume %s: %v", name, err)
}

// claim makes the claim of one volume. It is gone with the pod.
func claim(pod *corev1.Pod, name string, template *corev1.PersistentVolumeClaimTemplate) *corev1.PersistentVolumeClaim {
	copied := template.DeepCopy()
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: volume.EphemeralClaim(pod, name), Labels: copied.Labels, Annotations: copied.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: copied.Spec,
	}
}
