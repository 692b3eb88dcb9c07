// Package ownership makes and undoes the bond between a controlling owner and its objects.
package ownership

import (
	"encoding/json"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// Adopt makes the owner, of a kind of the object table, the controller of an object, if
// nobody changed that object meanwhile.
func Adopt(owner, obj object.Object) (client.Op, error) {
	return AdoptWith(owner, obj, obj.GetFinalizers())
}

// AdoptWith is Adopt, and gives the object these finalizers.
func AdoptWith(owner, obj object.Object, finalizers []string) (client.Op, error) {
	kind, err := object.KindOfObject(owner)
	if err != nil {
		return client.Op{}, err
	}
	return patch(obj, metav1.NewControllerRef(owner, kind.GVK), finalizers), nil
}

// Release takes the controller from an object, if nobody changed that object meanwhile.
func Release(obj object.Object) client.Op { return ReleaseWith(obj, obj.GetFinalizers()) }

// ReleaseWith is Release, and gives the object these finalizers.
func ReleaseWith(obj object.Object, finalizers []string) client.Op {
	return patch(obj, nil, finalizers)
}

// patch sets or removes the controlling owner of an object, if it is still the same.
func patch(obj object.Object, owner *metav1.OwnerReference, finalizers []string) client.Op {
	owners := []metav1.OwnerReference{}
	for _, ref := range obj.GetOwnerReferences() {
		if !ptr.Deref(ref.Controller, false) {
			owners = append(owners, ref)
		}
	}
	if owner != nil {
		owners = append(owners, *owner)
	}
	metadata := map[string]any{"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), "ownerReferences": owners}
	if !slices.Equal(finalizers, obj.GetFinalizers()) {
		metadata["finalizers"] = finalizers
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(err) // owner references always encode
	}
	return client.PatchOp(obj, types.MergePatchType, patch, "")
}

// IndexOrphans is the index of objects without a controller, by namespace; see Orphans.
const IndexOrphans = "ownership-orphans"

// Orphans is IndexOrphans' function: the namespace of an object without a controller.
func Orphans[T object.Object](obj T) []string {
	if metav1.GetControllerOfNoCopy(obj) != nil {
		return nil
	}
	return []string{obj.GetNamespace()}
}
