package volume

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Volumes of provisioner LocalPath are directories of a node, below LocalPathRoot and named
// as the volume. The node's kubelet makes one when it is first mounted and removes it once the
// PersistentVolume is gone, so that making and removing the object is all of provisioning.
const (
	LocalPath      = "kijabi.dev/local-path"
	LocalPathClass = "local-path"
	LocalPathRoot  = "/var/lib/kijabi/volumes"
)

// LocalPathName is the name of the volume made for a claim.
func LocalPathName(claim types.UID) string { return "pvc-" + string(claim) }

// NewLocalPath makes the volume of a claim on the node with a host name label.
func NewLocalPath(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, hostname string) *corev1.PersistentVolume {
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	mode := corev1.PersistentVolumeFilesystem
	name := LocalPathName(claim.UID)
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{AnnProvisionedBy: LocalPath}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes: claim.Spec.AccessModes, PersistentVolumeReclaimPolicy: policy, StorageClassName: class.Name, VolumeMode: &mode,
			MountOptions:           class.MountOptions,
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path.Join(LocalPathRoot, name)}},
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{hostname}}},
			}}}},
		},
	}
}

// MadeByLocalPath says whether a volume is a directory made by LocalPath.
func MadeByLocalPath(v *corev1.PersistentVolume) bool {
	return v.Annotations[AnnProvisionedBy] == LocalPath && v.Spec.Local != nil
}
