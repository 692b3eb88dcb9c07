// Package dynamic admits writes by what users have configured in
// admissionregistration.k8s.io: webhooks, which it asks over HTTPS, and policies, which it
// evaluates. Configurations are followed in the store's memory; while there are none, a write
// costs one look at a pointer.
//
// A Session is one write's way through all of it: Mutate before the object is validated, then
// Validate. Both may take seconds, so they must not be called by the store's single writer.
// Cluster operators are protected from what they configure: some requests are shown to nobody
// (see Request.exempt and hook.sees), a webhook that fails is left alone for a while (see
// breaker), and a session has a budget of time.
package dynamic

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/admission/expression"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// Budget is how long a session may wait for webhooks in all.
const Budget = 10 * time.Second

// Store is where configurations, and what they are about, are found; *store.Store implements it.
type Store interface {
	Get(key store.Key) (*store.Record, bool)
	Snapshot(resource, namespace string) store.Snapshot
}

// Meter counts what is decided; *metrics.Metrics implements it. kind is "admit" for what may
// change objects and "validating" for what may not. Safe for concurrent use.
type Meter interface {
	// Webhook counts a call, however it ended. code is the HTTP status of a refusal, else 0.
	Webhook(name, kind, operation string, code int, took time.Duration)
	// WebhookRejected counts a refusal; cause is no_error when the webhook itself refused.
	WebhookRejected(name, kind, operation, cause string, code int)
	// WebhookFailedOpen counts a failure that was ignored.
	WebhookFailedOpen(name, kind string)
	// Policy counts a check; action is deny, warn, audit or allow.
	Policy(policy, binding, action string, took time.Duration)
}

// Config of an Admission.
type Config struct {
	// Store. Required.
	Store Store
	// Kinds lists every served kind. Required.
	Kinds func() []*kinds.Kind
	// Rights answers what expressions ask about users' rights; nil: nobody has any.
	Rights expression.Rights
	// Meter; nil counts nothing.
	Meter Meter
	// ClientCertificate is presented to webhooks that ask for one; nil: none is.
	ClientCertificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Types returns what merges apply configurations of a kind; nil: nothing does.
	Types func(kind *kinds.Kind) (managedfields.TypeConverter, error)
	// Dial opens connections; nil: to every address that a webhook may have.
	Dial DialFunc
	// Clock; nil means the real one.
	Clock clock.PassiveClock
	// Log. Required.
	Log *zap.Logger
}

// Admission follows the configurations. It must observe the store. Safe for concurrent use.
type Admission struct {
	cfg   Config
	state atomic.Pointer[state] // nil: nothing is configured

	mu      sync.Mutex
	stored  map[store.Key]*entry
	targets map[string]*target // by what they were made of
}

var _ store.Observer = (*Admission)(nil)

// New returns an Admission.
func New(cfg Config) *Admission {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Meter == nil {
		cfg.Meter = unmetered{}
	}
	return &Admission{cfg: cfg, stored: map[store.Key]*entry{}, targets: map[string]*target{}}
}

type unmetered struct{}

func (unmetered) Webhook(string, string, string, int, time.Duration)  {}
func (unmetered) WebhookRejected(string, string, string, string, int) {}
func (unmetered) WebhookFailedOpen(string, string)                    {}
func (unmetered) Policy(string, string, string, time.Duration)        {}

// configured are the resources that are followed.
var configured = map[string]object.Kind{ //nolint:gochecknoglobals // a constant
	"mutatingwebhookconfigurations." + admissionregistrationv1.GroupName:     object.KindOf[*admissionregistrationv1.MutatingWebhookConfiguration](),
	"validatingwebhookconfigurations." + admissionregistrationv1.GroupName:   object.KindOf[*admissionregistrationv1.ValidatingWebhookConfiguration](),
	"validatingadmissionpolicies." + admissionregistrationv1.GroupName:       object.KindOf[*admissionregistrationv1.ValidatingAdmissionPolicy](),
	"validatingadmissionpolicybindings." + admissionregistrationv1.GroupName: object.KindOf[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](),
	"mutatingadmissionpolicies." + admissionregistrationv1.GroupName:         object.KindOf[*admissionregistrationv1.MutatingAdmissionPolicy](),
	"mutatingadmissionpolicybindings." + admissionregistrationv1.GroupName:   object.KindOf[*admissionregistrationv1.MutatingAdmissionPolicyBinding](),
}

// Reset starts over from all objects.
func (a *Admission) Reset(all iter.Seq[*store.Record]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.stored)
	for record := range all {
		a.learn(record)
	}
	a.rebuild()
}

// Begin does nothing: nothing is reserved.
func (*Admission) Begin() {}

// Apply follows committed changes.
func (a *Admission) Apply(events []store.Event) {
	changed := false
	for i := range events {
		record := events[i].Record
		if _, ok := configured[record.Key.Resource]; !ok {
			continue
		}
		if !changed {
			a.mu.Lock()
			defer a.mu.Unlock()
			changed = true
		}
		if events[i].Type == store.Deleted {
			delete(a.stored, record.Key)
		} else {
			a.learn(record)
		}
	}
	if changed {
		a.rebuild()
	}
}

func (a *Admission) learn(record *store.Record) {
	kind, ok := configured[record.Key.Resource]
	if !ok {
		return
	}
	obj, err := object.Decode(kind, record.Value)
	if err != nil {
		a.cfg.Log.Error("a stored configuration of admission cannot be read", zap.String("kind", kind.GVK.Kind), zap.String("name", record.Key.Name), zap.Error(err))
		delete(a.stored, record.Key)
		return
	}
	a.stored[record.Key] = &entry{obj: obj}
}

// entry is a stored configuration with what is compiled of it on demand.
type entry struct {
	obj        object.Object
	policy     once[*compiledPolicy]
	mutations  once[*compiledMutations]
	conditions []*conditions // of its webhooks
}

// state is everything that is configured at a moment. It is immutable.
type state struct {
	mutating, validating []*hook // in the order of their configurations' names
	policies             []*policy
	// mutations are the bound mutating policies, each with one of its bindings.
	mutations []*boundMutation
}

// rebuild makes the state anew. What costs, compiling and connecting, is left to the first
// use. The caller holds mu.
func (a *Admission) rebuild() {
	used := map[string]*target{}
	next := &state{}
	next.mutating = a.hooksOf(used, admit)
	next.validating = a.hooksOf(used, validate)
	next.policies = a.policies()
	next.mutations = a.mutations()
	for key, t := range a.targets {
		if used[key] == nil {
			t.close()
		}
	}
	a.targets = used
	if len(next.mutating)+len(next.validating)+len(next.policies)+len(next.mutations) == 0 {
		next = nil
	}
	a.state.Store(next)
}

// Session begins the admission of one write; nil if nothing is configured.
func (a *Admission) Session(ctx context.Context) *Session {
	st := a.state.Load()
	if st == nil {
		return nil
	}
	return &Session{admission: a, state: st, ctx: ctx, left: Budget}
}

// Session is one write's way through webhooks and policies, by what was configured when it
// began. It is for one goroutine.
type Session struct {
	admission *Admission
	state     *state
	ctx       context.Context //nolint:containedctx // a session is one request's
	left      time.Duration

	// Warnings for the client.
	Warnings []string
	// Annotations for the audit log.
	Annotations []Annotation
}

// Concerned tells whether a webhook or policy may want to see a request. It asks none and
// returns at once.
func (s *Session) Concerned(r *Request) bool {
	if r.exempt() {
		return false
	}
	for _, hooks := range [][]*hook{s.state.mutating, s.state.validating} {
		for _, h := range hooks {
			if h.sees(s, r) != nil {
				return true
			}
		}
	}
	for _, p := range s.state.policies {
		if s.match(&p.scope, r) != nil {
			return true
		}
	}
	return slices.ContainsFunc(s.state.mutations, func(b *boundMutation) bool { return s.match(&b.scope, r) != nil })
}

// Mutate lets policies and then webhooks change the request's Object, one after the other.
// settle brings a changed object into form: it sets defaults and, when all have had their turn
// (last), applies the built-in rules again. Who asks for it sees what was changed after its
// turn, once. The error is a StatusError.
func (s *Session) Mutate(r *Request, settle func(last bool) error) error {
	if r.exempt() {
		return nil
	}
	m := &mutation{session: s, request: r, settle: settle}
	if err := m.round(0); err != nil || !m.changed {
		return err
	}
	if err := m.builtin(); err != nil || len(m.again) == 0 {
		return err
	}
	return m.round(1)
}

// Validate lets policies and webhooks refuse the request as it is. The error is a StatusError.
func (s *Session) Validate(r *Request) error {
	if r.exempt() {
		return nil
	}
	if err := s.checkPolicies(r); err != nil {
		return err
	}
	return s.askValidating(r)
}

// waiting begins a wait; the returned function takes from the session's budget what it has cost.
func (s *Session) waiting() func() {
	began := s.admission.cfg.Clock.Now()
	return func() { s.left -= s.admission.cfg.Clock.Since(began) }
}

func (s *Session) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

func (s *Session) annotate(key, value string) {
	if len(s.Annotations) < maxAnnotations && len(key) <= maxKey {
		s.Annotations = append(s.Annotations, Annotation{key, value[:min(len(value), maxAnnotation)]})
	}
}

const (
	// maxAnnotations, maxKey and maxAnnotation, the latter two in bytes, bound what goes into
	// the audit log.
	maxAnnotations = 64
	maxKey         = 512
	maxAnnotation  = 4 << 10
	// maxWarnings bounds what a webhook tells clients.
	maxWarnings = 32
)

// once compiles something when it is first needed.
type once[T any] struct {
	sync.Once

	value T
	err   error
}

func (o *once[T]) get(compile func() (T, error)) (T, error) {
	o.Do(func() { o.value, o.err = compile() })
	return o.value, o.err
}

func internalError(format string, args ...any) error {
	return apierrors.NewInternalError(fmt.Errorf(format, args...))
}

// isStatus tells an answer to the client from a failure.
func isStatus(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}
