package rest

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
)

// target is what a request's path and method ask for.
type target struct {
	ref  registry.Ref
	kind *registry.Kind
	// sub is nil for the resource itself.
	sub *kinds.Subresource
	// rest is the path below the subresource (proxy).
	rest string
	verb string
}

// gvk is the kind of the request's body.
func (t target) gvk() schema.GroupVersionKind {
	if t.sub != nil && !t.sub.Stream {
		return t.sub.GVK
	}
	return t.kind.GVK
}

// splitPath takes a resource path apart. ok is false for paths that name no resource.
func splitPath(path string) (gv schema.GroupVersion, segments []string, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api" && parts[1] != "":
		return schema.GroupVersion{Version: parts[1]}, parts[2:], true
	case len(parts) >= 4 && parts[0] == "apis" && parts[1] != "" && parts[2] != "":
		return schema.GroupVersion{Group: parts[1], Version: parts[2]}, parts[3:], true
	default:
		return schema.GroupVersion{}, nil, false
	}
}

// resolve finds the resource and the verb of a request.
func (s *Server) resolve(r *http.Request, gv schema.GroupVersion, segments []string) (target, error) {
	t := target{}
	// namespaces/NAME/RESOURCE… is inside a namespace, unless RESOURCE is a
	// subresource of the namespace itself.
	if len(segments) >= 3 && segments[0] == "namespaces" && !s.isNamespaceSubresource(gv, segments[2]) {
		t.ref.Namespace, segments = segments[1], segments[2:]
		if t.ref.Namespace == "" {
			return t, notFound()
		}
	}
	t.ref.Resource = gv.WithResource(segments[0])
	kind, err := s.cfg.Registry.Kind(t.ref.Resource)
	if err != nil {
		return t, notFound()
	}
	t.kind = kind
	if len(segments) > 1 {
		t.ref.Name = segments[1]
		if t.ref.Name == "" {
			return t, notFound()
		}
	}
	if len(segments) > 2 {
		t.ref.Subresource = segments[2]
		i := slices.IndexFunc(kind.Subresources, func(sub kinds.Subresource) bool { return sub.Name == segments[2] })
		if i < 0 {
			return t, notFound()
		}
		t.sub, t.rest = &kind.Subresources[i], strings.Join(segments[3:], "/")
	}
	if !utf8.ValidString(t.ref.Namespace) || !utf8.ValidString(t.ref.Name) {
		return t, notFound() // such names cannot be, and gRPC could not carry them to the leader
	}
	if kind.Namespaced && t.ref.Namespace == "" && t.ref.Name != "" || !kind.Namespaced && t.ref.Namespace != "" {
		return t, notFound()
	}
	t.verb = verbOf(r, t)
	if t.verb == "" || !t.allows() || kind.Namespaced && t.ref.Namespace == "" && t.verb == "create" {
		return t, apierrors.NewMethodNotSupported(t.ref.Resource.GroupResource(), strings.ToLower(r.Method))
	}
	return t, nil
}

// methods lists what may be done with the path of a request.
func (s *Server) methods(r *http.Request, gv schema.GroupVersion, segments []string) []string {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if _, err := s.resolve(&http.Request{Method: method, URL: r.URL}, gv, segments); err == nil {
			allowed = append(allowed, method)
		}
	}
	return allowed
}

// restartName is the subresource of pods that restarts containers.
const restartName = "restart"

// opens tells of a stream that goes both ways.
func (t target) opens() bool {
	return t.sub != nil && t.sub.Stream && t.sub.Name != "log" && t.sub.Name != restartName
}

func (t target) allows() bool {
	switch {
	case t.sub == nil:
		return t.kind.HasVerb(t.verb)
	case t.opens():
		return true // both GET and POST open the stream
	default:
		return slices.Contains(t.sub.Verbs, t.verb)
	}
}

func (s *Server) isNamespaceSubresource(gv schema.GroupVersion, name string) bool {
	if gv.Group != "" {
		return false
	}
	kind, err := s.cfg.Registry.Kind(gv.WithResource("namespaces"))
	return err == nil && kind.HasSubresource(name)
}

func verbOf(r *http.Request, t target) string {
	if t.sub != nil && t.sub.Stream && t.sub.Name == "proxy" {
		return proxyVerb(r)
	}
	if t.opens() {
		// A stream that runs or carries anything needs the right to create, whichever
		// method the transport wants: a WebSocket begins with GET.
		if r.Method == http.MethodGet || r.Method == http.MethodPost {
			return "create"
		}
		return ""
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		switch {
		case t.sub != nil:
			return "get"
		case isTrue(r.URL.Query().Get("watch")):
			return "watch"
		case t.ref.Name != "":
			return "get"
		default:
			return "list"
		}
	case http.MethodPost:
		if t.ref.Name != "" && t.sub == nil {
			return ""
		}
		return "create"
	case http.MethodPut:
		return named(t, "update")
	case http.MethodPatch:
		return named(t, "patch")
	case http.MethodDelete:
		if t.ref.Name == "" {
			return "deletecollection"
		}
		return "delete"
	default:
		return ""
	}
}

func named(t target, verb string) string {
	if t.ref.Name == "" {
		return ""
	}
	return verb
}

func isTrue(v string) bool { return v == "true" || v == "1" }

// notFound answers for a path, not for an object.
func notFound() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
	}}
}
