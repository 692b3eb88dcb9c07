// Package traffic is what both doors do with every request besides answering it: have it wait
// its turn, count it and note it in the audit log.
package traffic

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/audit"
	"kijabi.dev/apiserver/internal/flowcontrol"
	"kijabi.dev/apiserver/internal/metrics"
)

// Request is what a door knows of a request. The door fills it in as it learns; it belongs to
// the one goroutine that serves the request.
type Request struct {
	// Door is metrics.DoorREST or DoorGRPC.
	Door string
	// ID is what the client is told as Audit-Id.
	ID string
	// Path of a URL, or the full gRPC method.
	Path string
	// Query of a URL; it is left out of the audit log where it may hold what is not ours.
	Query string
	// Verb as it is authorized: get, list, …; a lower-case HTTP method or the name of the gRPC
	// method where no resource is meant.
	Verb string
	// User and Groups as authenticated; empty for nobody.
	User   string
	Groups []string
	// ActingUser and ActingGroups are set when the user impersonates another.
	ActingUser   string
	ActingGroups []string
	SourceIP     string
	UserAgent    string
	// Target is the object or collection; its Resource is empty for other requests.
	Target Target
	// DryRun writes nothing.
	DryRun bool
	// Long requests last as long as their client likes: watches, streams.
	Long bool
	// Epoch under which a component of the leader wrote; 0 for others.
	Epoch uint64
	// Operations of a request that holds several; empty for others.
	Operations string
	// Annotations of webhooks and policies, for the audit log.
	Annotations []audit.Annotation
	// Unaudited requests say nothing about anybody, such as a look at the health.
	Unaudited bool
	// Decision of the authorizer: Allow, Forbid, or empty when it was not asked.
	Decision string
	// Code is the HTTP status of the answer and Reason the metav1.StatusReason of a failure.
	Code   int
	Reason string

	received time.Time
	// series the request is counted in while started.
	series  metrics.Request
	started bool
	seat    flowcontrol.Seat
	// sent counts a watch's events; nil for others.
	sent prometheus.Counter
}

// Decisions of the authorizer.
const (
	Allow  = "allow"
	Forbid = "forbid"
)

// Target is what a request is about.
type Target struct {
	Group, Version, Resource, Subresource, Namespace, Name string
}

// Config of a Control.
type Config struct {
	// Audit log; nil for none.
	Audit *audit.Log
	// Metrics; nil for none.
	Metrics *metrics.Metrics
	// Limiter of requests; nil for none.
	Limiter *flowcontrol.Limiter
	// Known says whether requests for a target's resource and subresource are counted by these
	// names; others are counted without, lest clients make up series. Nil knows none.
	Known func(Target) bool
	// Clock; real when nil.
	Clock clock.PassiveClock
}

// Control sees every request of the doors. All methods are safe for concurrent use.
type Control struct{ cfg Config }

// New returns a control.
func New(cfg Config) *Control {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Known == nil {
		cfg.Known = func(Target) bool { return false }
	}
	return &Control{cfg: cfg}
}

// Begin notes that a request has come through a door.
func (c *Control) Begin(door string) *Request {
	return &Request{Door: door, received: c.cfg.Clock.Now()}
}

// Start is called once it is known what a request wants, before it is served. It waits until
// the request's turn has come; the error is a TooManyRequests StatusError or ctx's. Of long
// requests only watches are limited, and these until Answering.
func (c *Control) Start(ctx context.Context, r *Request) error {
	if c.cfg.Limiter != nil && !r.Unaudited && (!r.Long || r.Verb == "watch") {
		var err error
		if r.seat, err = c.cfg.Limiter.Acquire(ctx, r.judged()); err != nil {
			return err
		}
	}
	if c.cfg.Metrics != nil {
		r.series, r.started = c.seriesOf(r), true
		c.cfg.Metrics.Began(r.series)
		if r.Verb == "watch" && r.series.Resource != "" {
			r.sent = c.cfg.Metrics.Watched(r.Target.Group, r.Target.Version, r.Target.Resource)
		}
	}
	return nil
}

// Answering is called when the answer of a long request begins. It needs no seat any more; a
// stream other than a watch is noted in the audit log now, too, for it may outlast this program.
func (c *Control) Answering(r *Request) {
	r.seat.Release()
	if c.cfg.Audit != nil && r.Verb != "watch" && r.Code < http.StatusBadRequest {
		c.audit(r, c.cfg.Clock.Now(), true)
	}
}

// Deciders are the UIDs of the FlowSchema and PriorityLevelConfiguration that a started request
// was judged by; empty for built-in ones.
func (r *Request) Deciders() (flowSchema, priorityLevel string) {
	return r.seat.SchemaUID, r.seat.LevelUID
}

// judged is what the limiter goes by: who acts.
func (r *Request) judged() flowcontrol.Request {
	q := flowcontrol.Request{
		User: r.User, Groups: r.Groups, Verb: r.Verb, Path: r.Path,
		Group: r.Target.Group, Resource: r.Target.Resource, Namespace: r.Target.Namespace,
	}
	switch {
	case r.ActingUser != "":
		q.User, q.Groups = r.ActingUser, r.ActingGroups
	case r.User == "":
		q.User, q.Groups = nobody, []string{nobodyGroup}
	}
	if r.Target.Subresource != "" {
		q.Resource += "/" + r.Target.Subresource
	}
	return q
}

// End notes that a request has been answered.
func (c *Control) End(r *Request) {
	r.seat.Release()
	now := c.cfg.Clock.Now()
	if m := c.cfg.Metrics; m != nil {
		if r.started {
			m.Ended(r.series)
		} else {
			r.series = c.seriesOf(r)
		}
		m.Answered(r.series, r.Code, now.Sub(r.received))
	}
	if c.cfg.Audit != nil && !r.Unaudited {
		c.audit(r, now, false)
	}
}

// Sent notes that events were sent to a watch, which has been started.
func (r *Request) Sent(events int) {
	if r.sent != nil && events > 0 {
		r.sent.Add(float64(events))
	}
}

// verbs are what metrics call those of the authorizer.
var verbs = map[string]string{ //nolint:gochecknoglobals // a constant
	"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH",
	"delete": "DELETE", "deletecollection": "DELETECOLLECTION", "post": "POST", "put": "PUT", "head": "HEAD", "options": "OPTIONS",
}

// seriesOf names the series of a request. What clients make up makes no new ones.
func (c *Control) seriesOf(r *Request) metrics.Request {
	s := metrics.Request{Door: r.Door, Verb: verbs[r.Verb], DryRun: r.DryRun, Long: r.Long}
	switch {
	case s.Verb == "" && r.Door == metrics.DoorGRPC && r.Code != http.StatusUnauthorized:
		s.Verb, s.Mutating = r.Verb, r.Operations != "" // a method of ours: others do not get here
	case s.Verb == "":
		s.Verb = "other"
	default:
		s.Mutating = r.Verb != "get" && r.Verb != "list" && r.Verb != "watch" && r.Verb != "head"
	}
	if !c.cfg.Known(r.Target) {
		return s
	}
	s.Group, s.Version, s.Resource, s.Subresource = r.Target.Group, r.Target.Version, r.Target.Resource, r.Target.Subresource
	switch {
	case r.Target.Name != "":
		s.Scope = "resource"
	case r.Target.Namespace != "":
		s.Scope = "namespace"
	default:
		s.Scope = "cluster"
	}
	if r.Long && r.Verb != "watch" {
		s.Verb = "CONNECT"
	}
	return s
}

// Nobody and its group are who has not been authenticated.
const (
	nobody      = "system:anonymous"
	nobodyGroup = "system:unauthenticated"
)

func (c *Control) audit(r *Request, now time.Time, started bool) {
	e := audit.Event{
		Started: started,
		ID:      r.ID, URI: r.Path, Verb: r.Verb, User: audit.User{Name: r.User, Groups: r.Groups},
		Impersonated: audit.User{Name: r.ActingUser, Groups: r.ActingGroups}, SourceIP: r.SourceIP, UserAgent: r.UserAgent,
		Code: r.Code, Reason: r.Reason, Received: r.received, Answered: now,
	}
	if r.User == "" {
		e.User = audit.User{Name: nobody, Groups: []string{nobodyGroup}}
	}
	// The query of a proxied request is the pod's business and may hold its secrets.
	if r.Query != "" && r.Target.Subresource != "proxy" {
		e.URI += "?" + r.Query
	}
	if r.Target.Resource != "" {
		e.Object = &audit.ObjectRef{
			Group: r.Target.Group, Version: r.Target.Version, Resource: r.Target.Resource,
			Subresource: r.Target.Subresource, Namespace: r.Target.Namespace, Name: r.Target.Name,
		}
	}
	var annotations [3]audit.Annotation
	e.Annotations = annotations[:0]
	if r.Decision != "" {
		e.Annotations = append(e.Annotations, audit.Annotation{Key: "authorization.k8s.io/decision", Value: r.Decision})
	}
	if r.Epoch != 0 {
		e.Annotations = append(e.Annotations, audit.Annotation{Key: "kijabi.dev/epoch", Value: strconv.FormatUint(r.Epoch, 10)})
	}
	if r.Operations != "" {
		e.Annotations = append(e.Annotations, audit.Annotation{Key: "kijabi.dev/operations", Value: r.Operations})
	}
	e.Annotations = append(e.Annotations, r.Annotations...)
	c.cfg.Audit.Record(&e)
}
