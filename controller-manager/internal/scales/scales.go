// Package scales reads and sets the size of whatever has the subresource scale.
package scales

import (
	"context"
	"encoding/json"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// Source reads scales. It is safe for concurrent use.
type Source struct {
	// Client asks the apiserver.
	Client Getter
	// Custom finds kinds that users have defined.
	Custom func(schema.GroupKind) (object.Kind, bool)
}

// Getter is the part of a client that reads subresources.
type Getter interface {
	GetSubresource(ctx context.Context, kind object.Kind, key object.Key, subresource string) (object.Object, error)
}

var _ Getter = (*client.Client)(nil)

// Kind finds the kind that an API version and a kind's name mean; any version of the group will do.
func (s *Source) Kind(apiVersion, name string) (object.Kind, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return object.Kind{}, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	if kind, ok := object.KindFor(gv.WithKind(name)); ok {
		return kind, nil
	}
	group := schema.GroupKind{Group: gv.Group, Kind: name}
	for _, kind := range object.Kinds() {
		if kind.GVK.GroupKind() == group && !kind.View {
			return kind, nil
		}
	}
	if kind, ok := s.Custom(group); ok {
		return kind, nil
	}
	return object.Kind{}, fmt.Errorf("unable to determine resource for scale target reference: no matches for kind %q in group %q", name, gv.Group)
}

// Get reads a scale as of now. NotFound when there is no such object or its kind has no size.
func (s *Source) Get(ctx context.Context, kind object.Kind, key object.Key) (*autoscalingv1.Scale, error) {
	obj, err := s.Client.GetSubresource(ctx, kind, key, "scale")
	if err != nil {
		return nil, err
	}
	scale, ok := obj.(*autoscalingv1.Scale)
	if !ok {
		return nil, fmt.Errorf("scale of %s %s is a %T", kind.GVK.Kind, key, obj)
	}
	return scale, nil
}

// Set changes the size of an object, if nobody changed the object since the scale was read.
func Set(ctx context.Context, w client.Writer, kind object.Kind, scale *autoscalingv1.Scale, replicas int32) error {
	target := kind.New()
	target.SetNamespace(scale.Namespace)
	target.SetName(scale.Name)
	target.GetObjectKind().SetGroupVersionKind(kind.GVK)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": scale.UID, "resourceVersion": scale.ResourceVersion},
		"spec":     map[string]any{"replicas": replicas},
	})
	if err != nil {
		return err
	}
	_, err = w.Patch(ctx, target, types.MergePatchType, patch, "scale")
	return err
}
