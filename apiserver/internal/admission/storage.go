package admission

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

// protectStorage gives claims and volumes the finalizers that keep them while they are in use,
// from their first moment on. The controller-manager takes them off.
func protectStorage(_ *Chain, r *Request) error {
	if claim, ok := created[*corev1.PersistentVolumeClaim](r); ok {
		protect(&claim.ObjectMeta, volume.FinalizerClaim)
	}
	if v, ok := created[*corev1.PersistentVolume](r); ok {
		protect(&v.ObjectMeta, volume.FinalizerVolume)
	}
	return nil
}

func protect(meta *metav1.ObjectMeta, finalizer string) {
	if !slices.Contains(meta.Finalizers, finalizer) {
		meta.Finalizers = append(meta.Finalizers, finalizer)
	}
}
