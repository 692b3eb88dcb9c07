package registry

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/volume"
)

// annClassGiven on namespace kube-system, which nobody can delete, says that the cluster was
// given its storage class. What a user deletes or changes after that stays so.
const annClassGiven = "kijabi.dev/storage-class-given"

// storageClass gives the cluster its first storage class, once in its life.
func (b *Bootstrap) storageClass(ctx context.Context) error {
	if b.classed {
		return nil
	}
	record, ok := b.cfg.Engine.store.Get(store.Key{Resource: "namespaces", Name: metav1.NamespaceSystem})
	if !ok {
		return nil // the next beat has it
	}
	var system corev1.Namespace
	if err := system.Unmarshal(record.Value); err != nil {
		return fmt.Errorf("decode namespace %s: %w", metav1.NamespaceSystem, err)
	}
	if _, given := system.Annotations[annClassGiven]; !given {
		if err := b.create(ctx, b.localPath()); err != nil {
			return err
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{annClassGiven: volume.LocalPathClass}}})
		if err != nil {
			return err
		}
		ref := Ref{Resource: corev1.SchemeGroupVersion.WithResource("namespaces"), Name: system.Name}
		if _, err := b.cfg.Engine.Patch(ctx, clusterCaller(), ref, types.MergePatchType, patch, WriteOptions{}); err != nil {
			return fmt.Errorf("note that the storage class was given: %w", err)
		}
	}
	b.classed = true
	return nil
}

// localPath is the class of directories on nodes. It is the default unless a cluster that is
// older than this class has another.
func (b *Bootstrap) localPath() *storagev1.StorageClass {
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: volume.LocalPathClass}, Provisioner: volume.LocalPath,
		ReclaimPolicy:     new(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: new(true),
	}
	var others []*storagev1.StorageClass
	for _, record := range b.cfg.Engine.store.Snapshot("storageclasses.storage.k8s.io", "").Records {
		var other storagev1.StorageClass
		if err := other.Unmarshal(record.Value); err == nil { // one that cannot be read is no default to anybody
			others = append(others, &other)
		}
	}
	if volume.DefaultClass(others) == nil {
		metav1.SetMetaDataAnnotation(&class.ObjectMeta, volume.AnnDefaultClass, "true")
	}
	return class
}
