package rest

import (
	"context"
	"net"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/metrics"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/traffic"
)

// observed is a request on its way through the door, as everything that is not its answer
// sees it.
type observed struct {
	*traffic.Request

	server *Server
	w      *deadlineWriter
	// target and targetErr are what resolve made of the path; asked once.
	target    target
	targetErr error
	resolved  bool
}

type observedKey struct{}

// observe begins to watch a request. The returned request carries what is learned of it.
func (s *Server) observe(w *deadlineWriter, r *http.Request) (*observed, *http.Request) {
	o := &observed{Request: s.cfg.Traffic.Begin(metrics.DoorREST), server: s, w: w}
	o.Path, o.Query, o.Verb, o.UserAgent = r.URL.Path, r.URL.RawQuery, strings.ToLower(r.Method), r.UserAgent()
	o.SourceIP, _, _ = net.SplitHostPort(r.RemoteAddr)
	return o, r.WithContext(context.WithValue(r.Context(), observedKey{}, o))
}

// observation returns what observe began; never nil within ServeHTTP.
func observation(r *http.Request) *observed {
	o, _ := r.Context().Value(observedKey{}).(*observed)
	return o
}

// end notes the outcome.
func (o *observed) end() {
	o.Code = o.w.code
	if o.Code == 0 && o.w.started {
		o.Code = http.StatusOK
	}
	o.server.cfg.Traffic.End(o.Request)
}

// by notes who was authenticated.
func (o *observed) by(caller registry.Caller) {
	o.ID, o.User, o.Groups = caller.RequestID, caller.User, caller.Groups
}

// Headers that tell which objects limited a request.
const (
	headerFlowSchema    = "X-Kubernetes-Pf-Flowschema-Uid"
	headerPriorityLevel = "X-Kubernetes-Pf-Prioritylevel-Uid"
)

// as notes whom the user acts as, if it is another, and what it wants, and waits until its
// turn has come.
func (o *observed) as(r *http.Request, caller registry.Caller) error {
	if caller.User != o.User {
		o.ActingUser, o.ActingGroups = caller.User, caller.Groups
	}
	o.Epoch = caller.Epoch
	o.resolve(r)
	control := o.server.cfg.Traffic
	if err := control.Start(r.Context(), o.Request); err != nil {
		return err
	}
	if schema, level := o.Deciders(); schema != "" || level != "" {
		o.w.Header().Set(headerFlowSchema, schema)
		o.w.Header().Set(headerPriorityLevel, level)
	}
	if o.Long {
		o.w.begun = func(code int) { o.Code = code; control.Answering(o.Request) }
	}
	return nil
}

// resolve notes what is asked for.
func (o *observed) resolve(r *http.Request) {
	gv, segments, ok := splitPath(strings.TrimSuffix(r.URL.Path, "/"))
	if !ok {
		return
	}
	o.resolved = true
	o.target, o.targetErr = o.server.resolve(r, gv, segments)
	if o.targetErr == nil {
		ref, sub := o.target.ref, o.target.sub
		o.Verb, o.DryRun = o.target.verb, r.URL.Query().Has("dryRun")
		o.Long = o.Verb == "watch" || sub != nil && sub.Stream
		o.Target = traffic.Target{
			Group: ref.Resource.Group, Version: ref.Resource.Version, Resource: ref.Resource.Resource,
			Subresource: ref.Subresource, Namespace: ref.Namespace, Name: ref.Name,
		}
		return
	}
	o.Target = unresolved(gv, segments)
	if o.Verb == "post" {
		o.Verb = "create"
	}
}

// resolved is resolve, asked once a request.
func (s *Server) resolved(r *http.Request, gv schema.GroupVersion, segments []string) (target, error) {
	if o := observation(r); o.resolved {
		return o.target, o.targetErr
	}
	return s.resolve(r, gv, segments)
}

// unresolved is what a path names that is no kind: a review, or something unknown.
func unresolved(gv schema.GroupVersion, segments []string) traffic.Target {
	t := traffic.Target{Group: gv.Group, Version: gv.Version}
	if len(segments) > 2 && segments[0] == "namespaces" {
		t.Namespace, segments = segments[1], segments[2:]
	}
	t.Resource = segments[0]
	if len(segments) > 1 {
		t.Name = segments[1]
	}
	return t
}

// failed notes why a request failed.
func (o *observed) failed(status metav1.Status) {
	if o != nil {
		o.Reason = string(status.Reason)
	}
}
