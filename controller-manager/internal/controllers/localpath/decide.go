package localpath

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"kijabi.dev/platform/kube/volume"
)

// plan is what a claim needs done; the zero value is nothing.
type plan struct {
	create *corev1.PersistentVolume
	// update is the claim without the node that was selected for it, so that the scheduler
	// selects another.
	update *corev1.PersistentVolumeClaim
	// failure is told to the claim's user.
	failure string
}

// decide says what a claim needs. class is the claim's, and node the one selected for it,
// each nil if there is none. made says that the claim's volume is there. It is pure.
func decide(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node, made bool) plan {
	if class == nil || class.Provisioner != volume.LocalPath || claim.DeletionTimestamp != nil || claim.Spec.VolumeName != "" || made {
		return plan{}
	}
	selected := claim.Annotations[volume.AnnSelectedNode]
	if selected == "" && volume.Delayed(class) {
		return plan{} // no pod needs it yet
	}
	if claim.Annotations[volume.AnnStorageProvisioner] != volume.LocalPath {
		return plan{} // the binder has not looked yet: there may be a volume that somebody made
	}
	if why := unsupported(claim, class); why != "" {
		return plan{failure: "failed to provision volume with StorageClass \"" + class.Name + "\": " + why}
	}
	if node == nil {
		updated := claim.DeepCopy()
		maps.DeleteFunc(updated.Annotations, func(key, _ string) bool { return key == volume.AnnSelectedNode })
		return plan{update: updated, failure: fmt.Sprintf("failed to get target node: node %q not found", selected)}
	}
	hostname := node.Labels[corev1.LabelHostname]
	if hostname == "" {
		return plan{failure: fmt.Sprintf("node %q has no label %s", node.Name, corev1.LabelHostname)}
	}
	return plan{create: volume.NewLocalPath(claim, class, hostname)}
}

// unsupported says what a directory cannot be, "" if the claim asks for nothing such.
func unsupported(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	switch mode := claim.Spec.VolumeMode; {
	case mode != nil && *mode == corev1.PersistentVolumeBlock:
		return "volumeMode Block is not supported: a volume is a directory of its node"
	case slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany), slices.Contains(claim.Spec.AccessModes, corev1.ReadOnlyMany):
		return "only access modes ReadWriteOnce and ReadWriteOncePod are supported: a volume is on one node"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "data sources are not supported"
	case claim.Spec.Selector != nil:
		return "claim.spec.selector is not supported"
	case claim.Spec.VolumeAttributesClassName != nil && *claim.Spec.VolumeAttributesClassName != "":
		return "volumeAttributesClassName is not supported"
	case !volume.Delayed(class):
		return "volumeBindingMode must be WaitForFirstConsumer: the node of the first pod says where the volume is"
	}
	return ""
}

// obsolete says whether a volume is to be deleted, its directory with it. It is pure.
func obsolete(v *corev1.PersistentVolume) bool {
	return volume.MadeByLocalPath(v) && v.DeletionTimestamp == nil &&
		v.Status.Phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
}
