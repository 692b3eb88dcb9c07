package app

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/traffic"
)

// known knows the resources and subresources of kinds.
func known(kinds []*registry.Kind) func(traffic.Target) bool {
	type name struct{ group, version, resource, subresource string }
	names := map[name]bool{}
	for _, kind := range kinds {
		of := name{kind.GVR.Group, kind.GVR.Version, kind.GVR.Resource, ""}
		names[of] = true
		for _, sub := range kind.Subresources {
			of.subresource = sub.Name
			names[of] = true
		}
	}
	return func(t traffic.Target) bool { return names[name{t.Group, t.Version, t.Resource, t.Subresource}] }
}

// resources lists what kinds are stored as, each once.
func resources(kinds []*registry.Kind) []schema.GroupResource {
	var out []schema.GroupResource
	seen := map[schema.GroupResource]bool{}
	for _, kind := range kinds {
		if gr := kind.Stored().GroupResource(); !seen[gr] {
			seen[gr] = true
			out = append(out, gr)
		}
	}
	return out
}
