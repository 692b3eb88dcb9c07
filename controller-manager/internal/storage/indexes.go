// Package storage indexes claims, volumes and the pods that use them, for the loops that
// need to know who belongs to whom.
package storage

import (
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// Indexes that the informers of pods, claims and volumes must have; the function of each is
// named after it.
const (
	// IndexPodClaims finds the pods that use a claim, by its key.
	IndexPodClaims = "storage-pod-claims"
	// IndexUnboundClaims finds the claims that are not fully bound, by their class.
	IndexUnboundClaims = "storage-unbound-claims"
	// IndexClaimVolume finds the claims that name a volume.
	IndexClaimVolume = "storage-claim-volume"
	// IndexFreeVolumes finds the volumes that refer to no claim, by their class.
	IndexFreeVolumes = "storage-free-volumes"
	// IndexVolumeClaim finds the volumes that refer to a claim, by its key.
	IndexVolumeClaim = "storage-volume-claim"
)

// PodClaims is IndexPodClaims' function.
func PodClaims(pod *corev1.Pod) []string {
	uses := volume.Uses(pod)
	out := make([]string, 0, len(uses))
	for _, use := range uses {
		out = append(out, use.Claim.String())
	}
	return out
}

// UnboundClaims is IndexUnboundClaims' function.
func UnboundClaims(claim *corev1.PersistentVolumeClaim) []string {
	if volume.FullyBound(claim) {
		return nil
	}
	return []string{volume.ClassOfClaim(claim)}
}

// ClaimVolume is IndexClaimVolume's function.
func ClaimVolume(claim *corev1.PersistentVolumeClaim) []string {
	if claim.Spec.VolumeName == "" {
		return nil
	}
	return []string{claim.Spec.VolumeName}
}

// FreeVolumes is IndexFreeVolumes' function.
func FreeVolumes(v *corev1.PersistentVolume) []string {
	if v.Spec.ClaimRef != nil {
		return nil
	}
	return []string{volume.ClassOf(v)}
}

// VolumeClaim is IndexVolumeClaim's function.
func VolumeClaim(v *corev1.PersistentVolume) []string {
	key, ok := volume.ClaimOf(v)
	if !ok {
		return nil
	}
	return []string{key.String()}
}

// ClaimsOfPod are the keys of the claims that a pod uses.
func ClaimsOfPod(pod *corev1.Pod) []object.Key {
	uses := volume.Uses(pod)
	out := make([]object.Key, 0, len(uses))
	for _, use := range uses {
		out = append(out, use.Claim)
	}
	return out
}
