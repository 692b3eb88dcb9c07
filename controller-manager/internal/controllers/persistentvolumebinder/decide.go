package persistentvolumebinder

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// event tells users something about an object.
type event struct {
	about                     object.Object
	severity, reason, message string
}

// step is the next thing to do for a claim or a volume: at most one write, so that what is
// decided after it rests on what was stored, and so that ending between any two is the same
// as never having decided the second.
type step struct {
	// write is the changed object, at the version that was seen; nil if there is nothing left to do.
	write  object.Object
	status bool // of it alone
	// events are told once the write is done.
	events []event
}

func (s step) tell(about object.Object, severity, reason, message string) step {
	s.events = append(s.events, event{about, severity, reason, message})
	return s
}

// surroundings are what a claim's step depends on besides the claim.
type surroundings struct {
	// volumes that the claim might get, those that refer to it, and the one that it names if
	// there is such a one.
	volumes []*corev1.PersistentVolume
	// class that the claim asks for; nil if there is none of that name.
	class *storagev1.StorageClass
	// fallback is the default class, or nil.
	fallback *storagev1.StorageClass
	// waiting are the names of pods that use the claim and have no node.
	waiting []string
	// gone says that the volume that the claim names is certainly not there. Without it, a
	// volume that is not among volumes may only not be known yet.
	gone bool
}

func (s *surroundings) volume(name string) *corev1.PersistentVolume {
	for _, v := range s.volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// decideClaim returns the next step of a claim. It is pure.
func decideClaim(claim *corev1.PersistentVolumeClaim, s *surroundings) step {
	_, completed := claim.Annotations[volume.AnnBindCompleted]
	switch {
	case completed:
		return decideBound(claim, s)
	case claim.DeletionTimestamp != nil:
		return step{} // nobody needs a volume any more; one that is reserved becomes free when the claim is gone
	case claim.Spec.VolumeName != "":
		return decideNamed(claim, s)
	}
	delayed := volume.Delayed(s.class)
	if v := volume.Best(claim, s.volumes, delayed, nil); v != nil {
		return bind(claim, v)
	}
	class := volume.ClassOfClaim(claim)
	switch {
	case delayed && claim.Annotations[volume.AnnSelectedNode] == "":
		return waitForPod(claim, s.waiting)
	case class != "":
		return provision(claim, s.class, class)
	case !volume.NamesClass(claim) && s.fallback != nil:
		updated := claim.DeepCopy()
		updated.Spec.StorageClassName = &s.fallback.Name
		return step{write: updated}
	}
	return pending(claim).tell(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
}

func waitForPod(claim *corev1.PersistentVolumeClaim, waiting []string) step {
	if len(waiting) == 0 {
		return pending(claim).tell(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	}
	slices.Sort(waiting)
	noun := "pod"
	if len(waiting) > 1 {
		noun = "pods"
	}
	return pending(claim).tell(claim, corev1.EventTypeNormal, "WaitForPodScheduled", fmt.Sprintf("waiting for %s %s to be scheduled", noun, strings.Join(waiting, ",")))
}

// provision asks the class's provisioner for a volume: an annotation is what it looks for.
func provision(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, name string) step {
	if class == nil {
		return pending(claim).tell(claim, corev1.EventTypeWarning, "ProvisioningFailed", fmt.Sprintf("storageclass.storage.k8s.io %q not found", name))
	}
	if strings.HasPrefix(class.Provisioner, "kubernetes.io/") { // that of no provisioner, or of times past
		return pending(claim).tell(claim, corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: "+class.Provisioner)
	}
	if claim.Annotations[volume.AnnStorageProvisioner] != class.Provisioner || claim.Annotations[volume.AnnBetaStorageProvisioner] != class.Provisioner {
		updated := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, volume.AnnStorageProvisioner, class.Provisioner)
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, volume.AnnBetaStorageProvisioner, class.Provisioner)
		return step{write: updated}
	}
	s := pending(claim)
	if class.Provisioner != volume.LocalPath {
		s = s.tell(claim, corev1.EventTypeNormal, "ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner))
	}
	return s
}

// decideNamed is for a claim that names its volume and is not bound to it yet: a person wrote
// the name, or an earlier run of the loop.
func decideNamed(claim *corev1.PersistentVolumeClaim, s *surroundings) step {
	v := s.volume(claim.Spec.VolumeName)
	switch {
	case v == nil || v.DeletionTimestamp != nil && v.Spec.ClaimRef == nil:
		return pending(claim) // it may come
	case v.Spec.ClaimRef == nil:
		if why := volume.Unsuitable(v, claim); why != "" {
			return pending(claim).tell(claim, corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, why))
		}
		return bind(claim, v)
	case volume.ReservedFor(v, claim):
		return bind(claim, v)
	}
	return pending(claim).tell(claim, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", v.Name))
}

// decideBound is for a claim whose binding was completed once.
func decideBound(claim *corev1.PersistentVolumeClaim, s *surroundings) step {
	if claim.Spec.VolumeName == "" {
		return lost(claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v := s.volume(claim.Spec.VolumeName)
	switch {
	case v == nil && !s.gone:
		return step{}
	case v == nil:
		return lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case v.Spec.ClaimRef == nil || volume.ReservedFor(v, claim):
		return bind(claim, v)
	}
	return lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// bind returns the first thing that is missing for a claim and a volume to be bound. The
// volume refers to the claim before the claim names the volume: whichever claim the volume
// refers to has it, so that two claims can never both believe they do.
func bind(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) step {
	if updated, changed := volume.Reserve(v, claim); changed {
		return step{write: updated}
	}
	if s := phase(v, corev1.VolumeBound, ""); s.write != nil {
		return s
	}
	updated := claim.DeepCopy()
	if claim.Spec.VolumeName == "" {
		updated.Spec.VolumeName = v.Name
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&updated.ObjectMeta, volume.AnnBindCompleted, "yes")
	if updated.Spec.VolumeName != claim.Spec.VolumeName || len(updated.Annotations) != len(claim.Annotations) {
		return step{write: updated}
	}
	return claimStatus(claim, func(status *corev1.PersistentVolumeClaimStatus) {
		if status.Phase != corev1.ClaimBound {
			// Later changes of size and attributes are told by whoever makes them.
			status.Capacity = v.Spec.Capacity.DeepCopy()
			status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
		}
		status.Phase, status.AccessModes = corev1.ClaimBound, v.Spec.AccessModes
	})
}

func pending(claim *corev1.PersistentVolumeClaim) step {
	return claimStatus(claim, func(status *corev1.PersistentVolumeClaimStatus) { unbound(status, corev1.ClaimPending) })
}

func lost(claim *corev1.PersistentVolumeClaim, reason, message string) step {
	s := claimStatus(claim, func(status *corev1.PersistentVolumeClaimStatus) { unbound(status, corev1.ClaimLost) })
	if s.write == nil {
		return s // said already
	}
	return s.tell(claim, corev1.EventTypeWarning, reason, message)
}

func unbound(status *corev1.PersistentVolumeClaimStatus, phase corev1.PersistentVolumeClaimPhase) {
	status.Phase, status.AccessModes, status.Capacity, status.CurrentVolumeAttributesClassName = phase, nil, nil, nil
}

func claimStatus(claim *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaimStatus)) step {
	updated := claim.DeepCopy()
	change(&updated.Status)
	if equality.Semantic.DeepEqual(updated.Status, claim.Status) {
		return step{}
	}
	return step{write: updated, status: true}
}
