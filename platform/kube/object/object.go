// Package object knows the kinds of the cluster and how their objects travel.
//
// Objects are the Go types of k8s.io/api. On the wire and in the store they are
// Kubernetes protobuf; over gRPC that encoding travels in google.protobuf.Any
// under the message's real name, such as k8s.io.api.apps.v1.Deployment. The types
// are no proto.Message since k8s.io/api v0.36, so this package fills and empties
// the Any by hand, from an explicit table of kinds. Objects of kinds that users define
// are of the type Custom and travel as kijabi.object.v1.JSONObject.
package object

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/types/known/anypb"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is a Kubernetes API object with metadata and a protobuf encoding.
// All pointer types of k8s.io/api's kinds satisfy it.
type Object interface {
	metav1.Object
	runtime.Object
	Marshal() ([]byte, error)
	MarshalToSizedBuffer(data []byte) (int, error)
	Unmarshal(data []byte) error
	Size() int
}

// Key names an object within its kind. Namespace is empty for cluster-scoped kinds.
type Key struct{ Namespace, Name string }

// KeyOf returns the key of an object.
func KeyOf(obj metav1.Object) Key { return Key{Namespace: obj.GetNamespace(), Name: obj.GetName()} }

// String returns "namespace/name", or "name" for cluster-scoped objects.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

const typeURLPrefix = "type.googleapis.com/"

// Pack encodes an object for the wire. The object is not kept.
func Pack(obj Object) (*anypb.Any, error) {
	kind, err := KindOfObject(obj)
	if err != nil {
		return nil, err
	}
	value, err := obj.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", kind.GVK.Kind, KeyOf(obj), err)
	}
	return PackBytes(kind, value), nil
}

// PackBytes wraps an already encoded object of a kind. The bytes are shared, not copied.
func PackBytes(kind Kind, value []byte) *anypb.Any {
	return &anypb.Any{TypeUrl: kind.TypeURL(), Value: value}
}

// Unpack decodes an object from the wire and sets its apiVersion and kind.
func Unpack(packed *anypb.Any) (Object, error) {
	kind, ok := KindForTypeURL(packed.GetTypeUrl())
	if !ok {
		return nil, fmt.Errorf("decode object: unknown type %q", packed.GetTypeUrl())
	}
	return Decode(kind, packed.GetValue())
}

// Decode decodes an encoded object of a kind and sets its apiVersion and kind.
// The object does not share memory with value.
func Decode(kind Kind, value []byte) (Object, error) {
	obj := kind.New()
	if err := obj.Unmarshal(value); err != nil {
		return nil, fmt.Errorf("decode %s: %w", kind.GVK.Kind, err)
	}
	if !kind.GVK.Empty() { // of a custom object only its encoding may know
		obj.GetObjectKind().SetGroupVersionKind(kind.GVK)
	}
	if set, ok := obj.(*appsv1.StatefulSet); ok {
		// Claims inside of a set carry their kind as well, which no protobuf encoding holds.
		for i := range set.Spec.VolumeClaimTemplates {
			set.Spec.VolumeClaimTemplates[i].SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
		}
	}
	return obj, nil
}

// FormatVersion writes a resource version as clients see it.
func FormatVersion(version uint64) string { return strconv.FormatUint(version, 10) }

// ParseVersion reads a resource version; empty means 0.
func ParseVersion(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	version, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resource version %q is not a number", s)
	}
	return version, nil
}

// KindOf returns the kind of a Go type; T is a pointer type such as *corev1.Pod.
// It panics for a type that is not in the table, which is a programming error.
func KindOf[T Object]() Kind {
	var zero T
	kind, err := KindOfObject(zero)
	if err != nil {
		panic(err)
	}
	return kind
}

// GroupResource returns the kind's group and resource.
func (k Kind) GroupResource() schema.GroupResource { return k.GVR.GroupResource() }

// TypeURL is what an Any holding this kind carries.
func (k Kind) TypeURL() string { return k.typeURL }
