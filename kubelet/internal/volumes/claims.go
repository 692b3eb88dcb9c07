package volumes

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClaimName returns the claim that a volume of a pod is made of, empty if it needs none.
func ClaimName(pod *corev1.Pod, volume *corev1.Volume) string {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		return pod.Name + "-" + volume.Name
	}
	return ""
}

// BoundTo returns the name of the PersistentVolume that a claim has, empty until it has one.
func BoundTo(claim *corev1.PersistentVolumeClaim) string {
	if claim.Status.Phase != corev1.ClaimBound {
		return ""
	}
	return claim.Spec.VolumeName
}

// persistent is a PersistentVolume as one volume of a pod uses it.
type persistent struct {
	volume   *corev1.PersistentVolume
	readOnly bool
	// alone says that no other pod may use it at the same time.
	alone bool
}

// resolve finds the PersistentVolume behind a volume of a pod. The messages are those that
// people know from Kubernetes, where it has one.
func (v *Volumes) resolve(pod *corev1.Pod, volume *corev1.Volume) (persistent, error) {
	name := ClaimName(pod, volume)
	refuse := func(format string, args ...any) (persistent, error) {
		return persistent{}, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, fmt.Errorf(format, args...))
	}
	claim, err := v.cfg.Claim(pod.Namespace, name)
	if err != nil {
		return refuse("failed to fetch PVC from API server: %w", err)
	}
	switch {
	case volume.Ephemeral != nil && !metav1.IsControlledBy(claim, pod):
		return refuse("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
	case claim.DeletionTimestamp != nil:
		return refuse("PVC is being deleted")
	case claim.Status.Phase == corev1.ClaimLost:
		return refuse("PVC has lost its volume %s", claim.Spec.VolumeName)
	case BoundTo(claim) == "":
		return refuse("PVC is not bound")
	}
	bound, err := v.cfg.Volume(claim.Spec.VolumeName)
	if err != nil {
		return refuse("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	}
	switch owner := bound.Spec.ClaimRef; {
	case owner == nil:
		return refuse("found PV %s with nil ClaimRef, indicating that it is not yet bound to the claim", bound.Name)
	case owner.UID != claim.UID || owner.Namespace != claim.Namespace || owner.Name != claim.Name:
		return refuse("found PV %s with a ClaimRef that does not point to the claim", bound.Name)
	}
	if mode := bound.Spec.VolumeMode; mode != nil && *mode != corev1.PersistentVolumeFilesystem {
		return persistent{}, fmt.Errorf("PersistentVolume %s has volumeMode %s, which this kubelet does not support", bound.Name, *mode)
	}
	if err := admits(bound.Spec.NodeAffinity, v.cfg.NodeName, v.cfg.NodeLabels()); err != nil {
		return persistent{}, fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", bound.Name, err)
	}
	modes := bound.Spec.AccessModes
	result := persistent{volume: bound, alone: slices.Contains(modes, corev1.ReadWriteOncePod)}
	result.readOnly = len(modes) > 0 && !slices.ContainsFunc(modes, func(m corev1.PersistentVolumeAccessMode) bool { return m != corev1.ReadOnlyMany })
	if source := volume.PersistentVolumeClaim; source != nil {
		result.readOnly = result.readOnly || source.ReadOnly
	}
	return result, nil
}

// sourceKind names the type of storage of a PersistentVolume as its specification does.
func sourceKind(source *corev1.PersistentVolumeSource) string {
	data, err := json.Marshal(source)
	if err != nil {
		return "unknown"
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return "unknown"
	}
	for name := range fields {
		return name // there is one
	}
	return "unknown"
}

var errAffinity = errors.New("no matching NodeSelectorTerms")
