// Package traffic is what both doors do with every request besides answering it: note it in
// the audit log.
package traffic

import (
	"strconv"
	"time"

	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/audit"
)

// Request is what a door knows of a request. The door fills it in as it learns; it belongs to
// the one goroutine that serves the request.
type Request struct {
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
	// Epoch under which a component of the leader wrote; 0 for others.
	Epoch uint64
	// Operations of a request that holds several; empty for others.
	Operations string
	// Unaudited requests say nothing about anybody, such as a look at the health.
	Unaudited bool
	// Decision of the authorizer: Allow, Forbid, or empty when it was not asked.
	Decision string
	// Code is the HTTP status of the answer and Reason the metav1.StatusReason of a failure.
	Code   int
	Reason string

	received time.Time
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
	return &Control{cfg: cfg}
}

// Begin notes that a request has come.
func (c *Control) Begin() *Request { return &Request{received: c.cfg.Clock.Now()} }

// End notes that a request has been answered.
func (c *Control) End(r *Request) {
	if c.cfg.Audit != nil && !r.Unaudited {
		c.audit(r, c.cfg.Clock.Now())
	}
}

// Nobody and its group are who has not been authenticated.
const (
	nobody      = "system:anonymous"
	nobodyGroup = "system:unauthenticated"
)

func (c *Control) audit(r *Request, now time.Time) {
	e := audit.Event{
		ID: r.ID, URI: r.Path, Verb: r.Verb, User: audit.User{Name: r.User, Groups: r.Groups},
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
	c.cfg.Audit.Record(&e)
}
