package volumeexpansion

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

// plan is what a claim that asks for more needs: at most one of the writes, in the order in
// which they are listed. The zero value is nothing.
type plan struct {
	// volume with its new size.
	volume *corev1.PersistentVolume
	// claim with its new annotations, or with its new status.
	claim, status *corev1.PersistentVolumeClaim
	// reason and message of the event that is told once the write is done.
	reason, message string
}

// decide says what a bound claim and its volume need. A directory grows by having been said
// to; any other volume is grown by its driver's resizer, which needs to be told only which
// driver is meant. It is pure.
func decide(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) plan {
	wanted, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if claim.Status.Phase != corev1.ClaimBound || wanted.Cmp(has) <= 0 || claim.DeletionTimestamp != nil ||
		v == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID {
		return plan{}
	}
	if !volume.MadeByLocalPath(v) {
		return external(claim, v)
	}
	if size := v.Spec.Capacity[corev1.ResourceStorage]; size.Cmp(wanted) < 0 {
		grown := v.DeepCopy()
		grown.Spec.Capacity[corev1.ResourceStorage] = wanted
		return plan{volume: grown}
	}
	updated := claim.DeepCopy()
	updated.Status.Capacity = v.Spec.Capacity.DeepCopy()
	updated.Status.Conditions = slices.DeleteFunc(updated.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimResizing || c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
	})
	return plan{status: updated, reason: "VolumeResizeSuccessful", message: fmt.Sprintf("ExpandVolume succeeded for volume %s/%s", claim.Namespace, claim.Name)}
}

func external(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) plan {
	p := plan{
		reason:  "ExternalExpanding",
		message: "waiting for an external controller to expand this PVC",
	}
	if v.Spec.CSI != nil && claim.Annotations[volume.AnnStorageResizer] != v.Spec.CSI.Driver {
		p.claim = claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&p.claim.ObjectMeta, volume.AnnStorageResizer, v.Spec.CSI.Driver)
	}
	return p
}
