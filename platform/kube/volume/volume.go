// Package volume holds what the scheduler, the loops and kubelets agree on about
// claims and persistent volumes: their annotations, when the two are bound, which
// volume suits which claim, and how volumes of class local-path are made. Its functions
// are pure and change nothing they are given.
package volume

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/object"
)

// Annotations of claims and volumes, documented with PersistentVolumeClaim and read by
// provisioners and kubectl.
const (
	// AnnBindCompleted on a claim says that both sides of its binding have been written.
	AnnBindCompleted = "pv.kubernetes.io/bind-completed"
	// AnnBoundByController says that a loop chose the other side, and may undo it.
	AnnBoundByController = "pv.kubernetes.io/bound-by-controller"
	// AnnProvisionedBy on a volume names who made it, and removes it.
	AnnProvisionedBy = "pv.kubernetes.io/provisioned-by"
	// AnnSelectedNode on a claim names the node that the scheduler chose for its first pod.
	AnnSelectedNode = "volume.kubernetes.io/selected-node"
	// AnnStorageProvisioner, and its older name, tell a provisioner that a claim is its work.
	AnnStorageProvisioner     = "volume.kubernetes.io/storage-provisioner"
	AnnBetaStorageProvisioner = "volume.beta.kubernetes.io/storage-provisioner"
	// AnnStorageResizer names who expands a claim's volume.
	AnnStorageResizer = "volume.kubernetes.io/storage-resizer"
	// AnnDefaultClass marks the class of claims that name none.
	AnnDefaultClass = "storageclass.kubernetes.io/is-default-class"
)

// Finalizers that keep claims from vanishing below their pods, and volumes below their claims.
const (
	FinalizerClaim  = "kubernetes.io/pvc-protection"
	FinalizerVolume = "kubernetes.io/pv-protection"
)

// NoProvisioner is the provisioner of classes whose volumes people make.
const NoProvisioner = "kubernetes.io/no-provisioner"

// ClassOfClaim is the class that a claim asks for, or "".
func ClassOfClaim(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if claim.Spec.StorageClassName == nil {
		return ""
	}
	return *claim.Spec.StorageClassName
}

// NamesClass says whether a claim names a class, be it the empty one; others take the default.
func NamesClass(claim *corev1.PersistentVolumeClaim) bool {
	_, annotated := claim.Annotations[corev1.BetaStorageClassAnnotation]
	return annotated || claim.Spec.StorageClassName != nil
}

// ClassOf is the class of a volume, or "".
func ClassOf(volume *corev1.PersistentVolume) string {
	if class, ok := volume.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return volume.Spec.StorageClassName
}

// Delayed says whether a class's claims are bound only once a pod needs them. A class that
// does not exist (nil) delays nothing.
func Delayed(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// DefaultClass is the class of claims that name none: of several the newest, and of equally
// new ones the first by name; nil if there is none.
func DefaultClass(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var best *storagev1.StorageClass
	for _, class := range classes {
		if class.Annotations[AnnDefaultClass] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&class.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < best.Name {
			best = class
		}
	}
	return best
}

// FullyBound says whether both sides of a claim's binding have been written.
func FullyBound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[AnnBindCompleted]
	return claim.Spec.VolumeName != "" && completed
}

// ReservedFor says whether a volume refers to a claim: to this very one, or, if it was
// written by a person, to its name.
func ReservedFor(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := volume.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

// ClaimOf is the key of the claim that a volume refers to; false if it refers to none.
func ClaimOf(volume *corev1.PersistentVolume) (object.Key, bool) {
	ref := volume.Spec.ClaimRef
	if ref == nil {
		return object.Key{}, false
	}
	return object.Key{Namespace: ref.Namespace, Name: ref.Name}, true
}

// Reserve returns a volume that refers to a claim, and whether it had to be changed for that.
// Nobody else may have it: the caller has seen that it refers to no other claim.
func Reserve(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, bool) {
	reserved := ReservedFor(volume, claim)
	if reserved && volume.Spec.ClaimRef.UID == claim.UID {
		return volume, false
	}
	out := volume.DeepCopy()
	out.Spec.ClaimRef = &corev1.ObjectReference{
		Kind: "PersistentVolumeClaim", APIVersion: "v1",
		Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
	}
	if !reserved {
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, AnnBoundByController, "yes")
	}
	return out, true
}

// Use is one claim that a pod uses.
type Use struct {
	// Volume is its name in the pod.
	Volume string
	Claim  object.Key
	// Ephemeral claims are made for the pod and owned by it.
	Ephemeral bool
}

// Uses lists the claims that a pod uses; nil if it uses none.
func Uses(pod *corev1.Pod) []Use {
	var out []Use
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			out = append(out, Use{Volume: v.Name, Claim: object.Key{Namespace: pod.Namespace, Name: v.PersistentVolumeClaim.ClaimName}})
		case v.Ephemeral != nil:
			out = append(out, Use{Volume: v.Name, Claim: object.Key{Namespace: pod.Namespace, Name: EphemeralClaim(pod, v.Name)}, Ephemeral: true})
		}
	}
	return out
}

// EphemeralClaim is the name of the claim made for an ephemeral volume of a pod.
func EphemeralClaim(pod *corev1.Pod, volume string) string { return pod.Name + "-" + volume }

// MadeFor returns an error if a claim was not made for a pod but has the name of one that
// would be.
func MadeFor(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) error {
	if metav1.IsControlledBy(claim, pod) {
		return nil
	}
	return fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
}

// AttachName is how nodes' statuses call a volume of a CSI driver.
func AttachName(csi *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName(strings.Join([]string{"kubernetes.io/csi/", csi.Driver, "^", csi.VolumeHandle}, ""))
}
