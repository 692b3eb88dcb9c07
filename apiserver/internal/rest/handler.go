package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/traffic"
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(plain http.ResponseWriter, r *http.Request) {
	w := &deadlineWriter{ResponseWriter: plain, timeout: s.writeTimeout}
	seen, r := s.observe(w, r)
	defer seen.end()
	defer w.end()
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if cause == http.ErrAbortHandler { //nolint:errorlint // the very value
			panic(cause)
		}
		s.cfg.Log.Error("panic in a request", zap.String("path", r.URL.Path), zap.Any("panic", cause), zap.ByteString("stack", debug.Stack()))
		if w.started {
			panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
		}
		s.fail(w, r, apierrors.NewInternalError(fmt.Errorf("panic in %s %s", r.Method, r.URL.Path)))
	}()

	caller, known := authenticate(r)
	seen.by(caller)
	w.Header().Set("Audit-Id", caller.RequestID)
	if s.serveOpen(w, r) {
		return
	}
	if !known {
		s.fail(w, r, unauthorized())
		return
	}
	if site := r.Header.Get("Sec-Fetch-Site"); (site == "cross-site" || site == "same-site") && !(r.Method == http.MethodGet && r.Header.Get("Upgrade") == "") {
		// A browser presents its user's certificate to whichever page asks.
		s.fail(w, r, apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("requests from other sites are refused")))
		return
	}
	caller, err := s.impersonate(r, caller)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if err := seen.as(r, caller); err != nil {
		s.fail(w, r, err)
		return
	}
	s.serveKnown(w, r, caller)
}

// serveOpen answers what anybody may ask.
func (s *Server) serveOpen(w http.ResponseWriter, r *http.Request) bool {
	first, _, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	switch first {
	case "livez", "readyz", "healthz":
		observation(r).Unaudited = true
		s.serveHealth(w, r)
	case "version":
		s.writeJSON(w, r, s.version())
	default:
		return false
	}
	return true
}

// noCustomResources is the list of kinds that users have defined: none. kubectl asks for
// it, whatever discovery says, before it tells its user that a kind is not known.
const noCustomResources = `{"kind":"CustomResourceDefinitionList","apiVersion":"apiextensions.k8s.io/v1","metadata":{},"items":[]}`

// serveKnown answers an authenticated caller.
func (s *Server) serveKnown(w http.ResponseWriter, r *http.Request, caller registry.Caller) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	if path == "" {
		s.serveRoot(w, r)
		return
	}
	gv, segments, ok := splitPath(path)
	switch {
	case path == metricsPath:
		s.serveMetrics(w, r, caller)
	case strings.HasPrefix(path, "/openapi/"):
		s.serveOpenAPI(w, r, path)
	case !ok && (path == "/api" || path == "/apis" || strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/")):
		s.serveDiscovery(w, r, path)
	case !ok:
		s.fail(w, r, notFound())
	case r.Method == http.MethodPost && len(segments) == 1 && isReview(gv, segments[0]),
		r.Method == http.MethodPost && len(segments) == 3 && segments[0] == "namespaces" && isReview(gv, segments[2]):
		s.serveReview(w, r, caller, gv, segments)
	case r.Method == http.MethodGet && path == "/apis/apiextensions.k8s.io/v1/customresourcedefinitions":
		writeBody(w, mediaJSON, http.StatusOK, []byte(noCustomResources))
	default:
		s.serveResource(w, r, caller, gv, segments)
	}
}

// serveResource authorizes and dispatches a request for a resource.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, caller registry.Caller, gv schema.GroupVersion, segments []string) {
	t, err := s.resolved(r, gv, segments)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	sub := t.ref.Subresource
	if err := s.cfg.Authorizer.Authorize(r.Context(), caller, t.verb, t.ref.Resource, sub, t.ref.Namespace, t.ref.Name); err != nil {
		observation(r).Decision = traffic.Forbid
		s.fail(w, r, err)
		return
	}
	observation(r).Decision = traffic.Allow
	switch {
	case t.sub != nil && t.sub.Stream:
		s.serveStream(w, r, caller, t)
		return
	case t.verb == "watch":
		s.serveWatch(w, r, t)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r))
	defer cancel()
	r = r.WithContext(ctx)
	compressed := newCompressor(w, r)
	defer compressed.close()
	s.serveShort(compressed, r, caller, t)
}

// serveShort answers everything but watches and streams.
func (s *Server) serveShort(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) {
	var err error
	switch t.verb {
	case "get":
		err = s.get(w, r, t)
	case "list":
		err = s.list(w, r, t)
	case "create":
		err = s.create(w, r, caller, t)
	case "update":
		err = s.update(w, r, caller, t)
	case "patch":
		err = s.patch(w, r, caller, t)
	case "delete":
		err = s.remove(w, r, caller, t)
	case "deletecollection":
		err = s.removeCollection(w, r, caller, t)
	default:
		err = apierrors.NewMethodNotSupported(t.ref.Resource.GroupResource(), t.verb)
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

// timeoutOf bounds a short request; a client may ask for less.
func timeoutOf(r *http.Request) time.Duration {
	if asked, err := time.ParseDuration(r.URL.Query().Get("timeout")); err == nil && asked > 0 && asked < requestTimeout {
		return asked
	}
	return requestTimeout
}
