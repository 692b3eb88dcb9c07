package registry

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// resizable refuses to let a claim ask for more than it did unless the class that its volume
// came from can expand volumes. Whether the claim is bound, and whether it may shrink, the
// kind has checked.
func (e *Engine) resizable(kind *Kind, old, obj object.Object) error {
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil
	}
	before := old.(*corev1.PersistentVolumeClaim).Spec.Resources.Requests[corev1.ResourceStorage]
	if after := claim.Spec.Resources.Requests[corev1.ResourceStorage]; after.Cmp(before) <= 0 {
		return nil
	}
	refused := apierrors.NewForbidden(kind.GVR.GroupResource(), claim.Name,
		errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	name := kinds.ClassOfClaim(claim)
	if name == "" {
		return refused
	}
	record, ok := e.store.Get(store.Key{Resource: "storageclasses.storage.k8s.io", Name: name})
	if !ok {
		return refused
	}
	var class storagev1.StorageClass
	if err := class.Unmarshal(record.Value); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("decode storage class %s: %w", name, err))
	}
	if class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return refused
	}
	return nil
}
