package volumeprotection

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

// action is what an object's finalizer needs.
type action int

const (
	nothing action = iota
	add
	// remove it, if the store agrees that the object is not in use.
	remove
)

// decide says what the finalizer of an object needs; used says whether something uses it. It
// is pure.
func decide(meta *metav1.ObjectMeta, finalizer string, used bool) action {
	protected := slices.Contains(meta.Finalizers, finalizer)
	switch {
	case meta.DeletionTimestamp == nil && !protected:
		return add
	case meta.DeletionTimestamp != nil && protected && !used:
		return remove
	}
	return nothing
}

// uses says whether a pod keeps a claim. One without a node does not: the scheduler gives it
// none while its claim is being deleted. A finished one does until it is deleted, since its
// volumes may yet be mounted. A pod keeps a claim of the name of one made for it only if that was.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	for _, use := range volume.Uses(pod) {
		if use.Claim.Name == claim.Name && use.Claim.Namespace == claim.Namespace && (!use.Ephemeral || volume.MadeFor(claim, pod) == nil) {
			return true
		}
	}
	return false
}

// held says whether a claim keeps a volume. claim is the one that the volume refers to, nil if
// there is none.
func held(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	return v.Status.Phase == corev1.VolumeBound || claim != nil && claim.Spec.VolumeName == v.Name
}
