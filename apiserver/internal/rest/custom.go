package rest

import (
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/openapi"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// view is what clients are told of what is served. It is made anew when that changes.
type view struct {
	kinds     []*registry.Kind
	discovery *discovery
	documents *openapi.Documents
}

// view returns the one of now.
func (s *Server) view() *view {
	kinds := s.cfg.Registry.Kinds()
	if v := s.seen.Load(); v != nil && sameSlice(v.kinds, kinds) {
		return v
	}
	s.viewing.Lock()
	defer s.viewing.Unlock()
	before := s.seen.Load()
	if before != nil && sameSlice(before.kinds, kinds) {
		return before
	}
	v := &view{kinds: kinds, discovery: newDiscovery(kinds)}
	if before == nil {
		v.documents = newDocuments(kinds)
	} else {
		v.documents = before.documents.With(resourcesOf(kinds))
	}
	s.seen.Store(v)
	return v
}

// sameSlice tells whether two slices are one; what is in them is not looked at.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// mayBeDefined tells whether users can define kinds in a group. Its name has a dot.
func mayBeDefined(group string) bool { return strings.Contains(group, ".") }

// isCustom tells whether the body is an object of a kind that users have defined.
func (t target) isCustom() bool {
	return t.kind != nil && t.kind.Custom != nil && t.gvk() == t.kind.GVK
}

// decodeCustom reads a body that is an object of a kind that users have defined. It drops
// what the kind's schema does not know and deals with that as codec.decode does.
func decodeCustom(body []byte, enc encoding, kind *registry.Kind, validation string) (object.Object, []string, error) {
	want := kind.GVK
	bad := func(err error) error { return cannotHandle(want, err) }
	var texts []string
	switch enc {
	case encodeProtobuf:
		return nil, nil, unsupportedMediaType(mediaProtobuf, mediaJSON, mediaYAML)
	case encodeYAML:
		text, err := yaml.YAMLToJSON(body)
		if err != nil {
			return nil, nil, bad(err)
		}
		if _, err := yaml.YAMLToJSONStrict(body); err != nil {
			texts = append(texts, err.Error())
		}
		body = text
	case encodeJSON:
	}
	obj, strict, err := object.DecodeCustom(body)
	if err != nil {
		return nil, nil, bad(err)
	}
	switch got := obj.GroupVersionKind(); {
	case got.Kind == "":
		return nil, nil, apierrors.NewBadRequest("Object 'Kind' is missing in the body")
	case got != want:
		return nil, nil, mismatch(got, want)
	}
	for _, one := range strict {
		texts = append(texts, one.Error())
	}
	for _, path := range kind.Custom.Prune(obj) {
		texts = append(texts, fmt.Sprintf("unknown field %q", path))
	}
	switch {
	case len(texts) == 0 || validation == metav1.FieldValidationIgnore:
		return obj, nil, nil
	case validation == metav1.FieldValidationStrict:
		return nil, nil, bad(fmt.Errorf("strict decoding error: %s", strings.Join(texts, ", ")))
	}
	return obj, texts, nil
}

// customResources documents a kind that users have defined.
func customResources(k *registry.Kind) []openapi.Resource {
	custom := &openapi.Custom{Kind: k, Name: modelName(k.GVK), Schema: k.Custom.Schema}
	main := openapi.Resource{GVR: k.GVR, GVK: k.GVK, Namespaced: k.Namespaced, Verbs: k.Verbs, Custom: custom}
	out := []openapi.Resource{main}
	for _, sub := range k.Subresources {
		r := openapi.Resource{GVR: k.GVR, GVK: sub.GVK, Subresource: sub.Name, Parent: k.GVK.Kind, Namespaced: k.Namespaced, Verbs: sub.Verbs, Custom: custom}
		if body, ok := object.KindFor(sub.GVK); ok {
			r.Custom, r.Type = nil, structType(body.New())
		}
		out = append(out, r)
	}
	return out
}

// modelName is what documents call a kind: "com.example.v1.Widget".
func modelName(gvk schema.GroupVersionKind) string {
	labels := strings.Split(gvk.Group, ".")
	slices.Reverse(labels)
	return strings.Join(append(labels, gvk.Version, gvk.Kind), ".")
}
