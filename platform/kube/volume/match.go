package volume

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Best returns the volume that a claim should get of those given, nil if none will do. One
// that refers to the claim goes before all others. Of the rest, which nobody refers to, it is
// the one with the fewest access modes beyond those asked for, then the smallest, then the
// first by name; with reservedOnly there is no rest. fits, unless nil, says whether a volume
// can be reached from where the claim is needed.
func Best(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, reservedOnly bool, fits func(*corev1.PersistentVolume) bool) *corev1.PersistentVolume {
	selector, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	if err != nil {
		return nil // validation has refused it
	}
	if claim.Spec.Selector == nil {
		selector = labels.Everything()
	}
	var best *corev1.PersistentVolume
	reserved := false
	for _, v := range volumes {
		if v.DeletionTimestamp != nil || !large(v, claim) || !SameMode(v, claim) || !sameAttributes(v, claim) || !allows(v, claim) {
			continue
		}
		switch {
		case ReservedFor(v, claim):
			if !reserved || rank(v, best) < 0 {
				best, reserved = v, true
			}
		case reserved || reservedOnly || v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable:
		case ClassOf(v) != ClassOfClaim(claim) || !selector.Matches(labels.Set(v.Labels)) || fits != nil && !fits(v):
		case best == nil || rank(v, best) < 0:
			best = v
		}
	}
	if reserved && fits != nil && !fits(best) {
		return nil // the claim has its volume; elsewhere
	}
	return best
}

func rank(a, b *corev1.PersistentVolume) int {
	return cmp.Or(
		len(a.Spec.AccessModes)-len(b.Spec.AccessModes),
		size(a).Cmp(*size(b)),
		cmp.Compare(a.Name, b.Name),
	)
}

// Unsuitable says why a claim cannot have the volume that it names, "" if it can. The words
// are Kubernetes'.
func Unsuitable(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	switch {
	case !large(v, claim):
		return "requested PV is too small"
	case ClassOf(v) != ClassOfClaim(claim):
		return "storageClassName does not match"
	case !SameMode(v, claim):
		return "incompatible volumeMode"
	case !allows(v, claim):
		return "incompatible accessMode"
	case !sameAttributes(v, claim):
		return "volumeAttributesClassName does not match"
	}
	return ""
}

func large(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return size(v).Cmp(wanted) >= 0
}

// SameMode says whether claim and volume are both file systems or both raw devices.
func SameMode(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	mode := func(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
		if m == nil {
			return corev1.PersistentVolumeFilesystem
		}
		return *m
	}
	return mode(v.Spec.VolumeMode) == mode(claim.Spec.VolumeMode)
}

func sameAttributes(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	name := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	return name(v.Spec.VolumeAttributesClassName) == name(claim.Spec.VolumeAttributesClassName)
}

// allows says whether a volume can be used in every way that a claim asks for.
func allows(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	return !slices.ContainsFunc(claim.Spec.AccessModes, func(mode corev1.PersistentVolumeAccessMode) bool {
		return !slices.Contains(v.Spec.AccessModes, mode)
	})
}

func size(v *corev1.PersistentVolume) *resource.Quantity {
	out := v.Spec.Capacity[corev1.ResourceStorage]
	return &out
}
