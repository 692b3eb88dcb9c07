package persistentvolumebinder

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/volume"
)

// decideVolume returns the next step of a volume. claim is the one that its reference names,
// if that has the reference's uid or the reference has none; nil if there is certainly no
// such claim. It is pure.
func decideVolume(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) step {
	ref := v.Spec.ClaimRef
	switch {
	case ref == nil || ref.UID == "":
		return phase(v, corev1.VolumeAvailable, "")
	case claim == nil:
		return reclaim(v)
	case claim.Spec.VolumeName == v.Name:
		return phase(v, corev1.VolumeBound, "")
	case claim.Spec.VolumeName == "":
		if !volume.SameMode(v, claim) {
			return step{}.
				tell(v, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)).
				tell(claim, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name))
		}
		return step{} // the claim's own step goes on with it
	case v.Annotations[volume.AnnProvisionedBy] != "" && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return reclaim(v) // made for a claim that took another
	}
	return unbind(v)
}

// unbind frees a volume whose claim is bound to another.
func unbind(v *corev1.PersistentVolume) step {
	updated := v.DeepCopy()
	if _, chosen := v.Annotations[volume.AnnBoundByController]; chosen {
		updated.Spec.ClaimRef = nil
		maps.DeleteFunc(updated.Annotations, func(key, _ string) bool { return key == volume.AnnBoundByController })
	} else {
		updated.Spec.ClaimRef.UID, updated.Spec.ClaimRef.ResourceVersion = "", "" // a person reserved it
	}
	return step{write: updated}
}

// reclaim is for a volume whose claim is gone.
func reclaim(v *corev1.PersistentVolume) step {
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		return phase(v, corev1.VolumeReleased, "")
	}
	if v.DeletionTimestamp != nil || v.Status.Phase == corev1.VolumeFailed {
		return step{}
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
	case corev1.PersistentVolumeReclaimDelete:
		if v.Annotations[volume.AnnProvisionedBy] != "" {
			return step{} // its provisioner deletes it
		}
		return failed(v, "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
	case corev1.PersistentVolumeReclaimRecycle:
		return failed(v, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
	}
	return step{}
}

func failed(v *corev1.PersistentVolume, reason, message string) step {
	return phase(v, corev1.VolumeFailed, message).tell(v, corev1.EventTypeWarning, reason, message)
}

func phase(v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) step {
	if v.Status.Phase == phase {
		return step{}
	}
	updated := v.DeepCopy()
	updated.Status.Phase, updated.Status.Message = phase, message
	return step{write: updated, status: true}
}
