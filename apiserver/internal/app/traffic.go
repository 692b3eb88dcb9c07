package app

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/traffic"
)

// known knows the resources and subresources that are served at the time.
func known(served func(schema.GroupVersionResource) (*registry.Kind, error)) func(traffic.Target) bool {
	return func(t traffic.Target) bool {
		if t.Version == "" {
			return false
		}
		kind, err := served(schema.GroupVersionResource{Group: t.Group, Version: t.Version, Resource: t.Resource})
		return err == nil && (t.Subresource == "" || kind.HasSubresource(t.Subresource))
	}
}

// resources lists what the kinds that are served are stored as, each once.
func resources(engine *registry.Engine) func() []schema.GroupResource {
	return func() []schema.GroupResource {
		var out []schema.GroupResource
		seen := map[schema.GroupResource]bool{}
		for _, kind := range engine.Kinds() {
			if gr := kind.Stored().GroupResource(); !seen[gr] {
				seen[gr] = true
				out = append(out, gr)
			}
		}
		return out
	}
}
