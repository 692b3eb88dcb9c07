package rest

import (
	"cmp"
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

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/platform/rpc"
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(plain http.ResponseWriter, r *http.Request) {
	rpc.GrowStack()
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

	s.awaitBody(w, r)
	known, wrong := s.authenticate(r)
	caller := known.Caller
	if known.token != "" {
		r = r.WithContext(context.WithValue(r.Context(), tokenKey{}, known.token))
	}
	seen.by(caller)
	w.Header().Set("Audit-Id", caller.RequestID)
	if s.serveOpen(w, r) {
		return
	}
	if wrong != nil {
		s.fail(w, r, wrong)
		return
	}
	if site := r.Header.Get("Sec-Fetch-Site"); known.certificate && (site == "cross-site" || site == "same-site") && !(r.Method == http.MethodGet && r.Header.Get("Upgrade") == "") {
		// A browser presents its user's certificate to whichever page asks.
		s.fail(w, r, apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("requests from other sites are refused")))
		return
	}
	caller, r, err := s.impersonate(r, caller)
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
		if s.allowRead(w, r) {
			s.serveHealth(w, r)
		}
	case "version":
		if s.allowRead(w, r) {
			s.writeJSON(w, r, s.version())
		}
	default:
		return false
	}
	return true
}

// serveKnown answers a caller of whom is known who it is, if only that it does not say.
func (s *Server) serveKnown(w http.ResponseWriter, r *http.Request, caller registry.Caller) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	gv, segments, isResource := splitPath(path)
	if !isResource {
		s.servePath(w, r, caller, path)
		return
	}
	question, namespace, isReview := reviewAt(gv, segments)
	switch {
	case isReview && r.Method == http.MethodPost:
		s.serveReview(w, r, caller, question, namespace)
	default:
		s.serveResource(w, r, caller, gv, segments)
	}
}

// servePath answers for a path that names no resource.
func (s *Server) servePath(w http.ResponseWriter, r *http.Request, caller registry.Caller, path string) {
	attr := authz.Attributes{Verb: strings.ToLower(r.Method), Path: cmp.Or(path, "/")}
	if attr.Verb == "head" {
		attr.Verb = "get"
	}
	if err := s.authorize(r.Context(), caller, attr); err != nil {
		observation(r).Decision = traffic.Forbid
		s.fail(w, r, err)
		return
	}
	observation(r).Decision = traffic.Allow
	if !s.allowRead(w, r) {
		return
	}
	switch {
	case path == "":
		s.serveRoot(w, r)
	case path == metricsPath || strings.HasPrefix(path, metricsPath+"/"):
		s.serveMetrics(w, r, path)
	case path == profilePath || strings.HasPrefix(path, profilePath+"/"):
		s.serveProfile(w, r, path)
	case path == wellKnownPath, path == jwksPath:
		s.serveIssuer(w, r, path)
	case strings.HasPrefix(path, "/openapi/"):
		s.serveOpenAPI(w, r, path)
	case path == "/api" || path == "/apis" || strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/"):
		s.serveDiscovery(w, r, path)
	default:
		s.fail(w, r, notFound())
	}
}

// serveResource authorizes and dispatches a request for a resource.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, caller registry.Caller, gv schema.GroupVersion, segments []string) {
	t, err := s.resolved(r, gv, segments)
	if t.kind == nil && caller.User != authn.UserAnonymous && mayBeDefined(gv.Group) {
		// Another master may have answered that the kind is served.
		s.catchUp(r)
		t, err = s.resolve(r, gv, segments)
	}
	if err != nil {
		if caller.User == authn.UserAnonymous {
			err = unauthorized() // what there is concerns only who is known
		}
		if apierrors.IsMethodNotSupported(err) {
			w.Header().Set("Allow", strings.Join(s.methods(r, gv, segments), ", "))
		}
		s.fail(w, r, err)
		return
	}
	attr := authz.Attributes{
		Verb: t.verb, Resource: t.ref.Resource.GroupResource(), Subresource: t.ref.Subresource,
		Namespace: t.ref.Namespace, Name: t.ref.Name, FieldSelector: r.URL.Query().Get("fieldSelector"),
	}
	attr.User, attr.Groups = caller.User, caller.Groups
	admitted, attr, err := s.admit(r.Context(), attr, t)
	if err != nil {
		observation(r).Decision = traffic.Forbid
		s.failSoon(w, r, hideFromStrangers(caller, err))
		return
	}
	observation(r).Decision = traffic.Allow
	if t.kind.Custom != nil && t.kind.Custom.Warning != "" {
		warn(w, []string{t.kind.Custom.Warning})
	}
	still := func(ctx context.Context) error { return s.stillMay(ctx, caller, attr) }
	switch {
	case t.sub != nil && t.sub.Stream:
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // what is passed on may take its time
		s.serveStream(w, r, caller, t, still)
		return
	case t.verb == "watch":
		s.serveWatch(w, r, t, still)
		return
	}
	ctx, cancel := context.WithTimeout(admitted, timeoutOf(r))
	defer cancel()
	r = r.WithContext(ctx)
	compressed := newCompressor(w, r)
	defer compressed.close()
	s.serveShort(compressed, r, caller, t)
}

// catchUp makes sure that what other masters have acknowledged is known here, as far as
// that can be had: what is served may have changed.
func (s *Server) catchUp(r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), catchUpTimeout)
	defer cancel()
	if err := s.cfg.Registry.Current(ctx); err != nil {
		s.cfg.Log.Debug("kinds may not be those of now", zap.Error(err))
	}
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
		s.failSoon(w, r, err)
	}
}

// timeoutOf bounds a short request; a client may ask for less.
func timeoutOf(r *http.Request) time.Duration {
	if asked, err := time.ParseDuration(r.URL.Query().Get("timeout")); err == nil && asked > 0 && asked < requestTimeout {
		return asked
	}
	return requestTimeout
}
