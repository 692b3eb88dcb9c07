package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/admission/dynamic"
	"kijabi.dev/apiserver/internal/registry/customkinds"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
)

// Store is what the registry needs of the store; *store.Store implements it.
type Store interface {
	Get(key store.Key) (*store.Record, bool)
	Snapshot(resource, namespace string) store.Snapshot
	SnapshotAt(ctx context.Context, resource, namespace string, version uint64) (store.Snapshot, error)
	Version() uint64
	Watch(ctx context.Context, opts store.WatchOptions) (*store.Watcher, error)
	SnapshotAndWatch(ctx context.Context, opts store.WatchOptions) (store.Snapshot, *store.Watcher, error)
	Commit(ctx context.Context, group store.Group) ([]store.Result, error)
	Fresh(ctx context.Context) error
	WaitVersion(ctx context.Context, version uint64) error
	Term() store.Term
	TermChanged() <-chan struct{}
	SetAside(key store.Key) error
	Observe(observer store.Observer)
}

var _ Store = (*store.Store)(nil)

// Forwarder passes writes to the master that leads. Errors are *apierrors.StatusError;
// one that says ServiceUnavailable or ServerTimeout may be tried again with the same
// request id. Implementations are safe for concurrent use.
type Forwarder interface {
	// Do performs one write there. The result's Record holds the encoded object.
	Do(ctx context.Context, caller Caller, op Operation) (OperationResult, error)
	Transact(ctx context.Context, caller Caller, ops []Operation, independent bool) ([]OperationResult, error)
	DeleteCollection(ctx context.Context, caller Caller, ref Ref, opts metav1.DeleteOptions, list ListOptions) (int64, error)
}

// Config is what an Engine needs.
type Config struct {
	// Store holds the objects. Required. New adds an observer to it, so it must not run yet.
	Store Store
	// Forwarder reaches the leader; nil when there is no other master.
	Forwarder Forwarder
	// Access decides who may grant what, and fills in aggregated roles; nil: anybody may
	// grant anything. Required outside of tests.
	Access Access
	// Tokens of service accounts; nil: none are issued.
	Tokens TokenIssuer
	// Kinds served; nil means kinds.Default().
	Kinds []*Kind
	// Admission is how strict the rules about other objects are; nil leaves the rules out,
	// quotas excepted.
	Admission *admission.Config
	// Dynamic says how webhooks are called and policies evaluated. Store, Kinds, Types, Clock
	// and Log are the engine's; the others may be left out.
	Dynamic dynamic.Config
	// RootCA is the cluster's CA in PEM, which every namespace holds; empty: none does.
	RootCA []byte
	// Network says which service addresses and node ports there are. Required.
	Network configv1.Network
	// Log. Required.
	Log *zap.Logger
	// Clock; nil means the real one.
	Clock clock.WithTicker
	// WriteTimeout bounds how long a write waits for a leader; 0 means 15 s.
	WriteTimeout time.Duration
}

// Engine implements Registry over the store.
type Engine struct {
	cfg       Config
	store     Store
	defined   *definitions
	addresses *addresses
	rules     *admission.Chain // nil: none
	quotas    *admission.Quotas
	owners    *owners
	dynamic   *dynamic.Admission
	turns     turns
}

var _ Registry = (*Engine)(nil)

// New returns a registry.
func New(cfg Config) (*Engine, error) {
	if cfg.Store == nil || cfg.Log == nil {
		return nil, errors.New("registry: store and log are required")
	}
	if cfg.Kinds == nil {
		cfg.Kinds = kinds.Default()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = 15 * time.Second
	}
	limitCopies()
	services, err := newAddresses(cfg.Network)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if !slices.ContainsFunc(cfg.Kinds, func(kind *Kind) bool { return kind.GroupResource().String() == definitionsResource }) {
		cfg.Kinds = append(slices.Clone(cfg.Kinds), customkinds.Row())
	}
	e := &Engine{
		cfg: cfg, store: cfg.Store, defined: newDefinitions(cfg.Kinds, cfg.Log), addresses: services, owners: newOwners(cfg.Kinds), quotas: admission.NewQuotas(cfg.Store),
	}
	if cfg.Admission != nil {
		if e.rules, err = admission.New(cfg.Store, *cfg.Admission); err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
	}
	cfg.Store.Observe(e.defined)
	cfg.Store.Observe(services)
	cfg.Store.Observe(e.quotas)
	cfg.Dynamic.Store, cfg.Dynamic.Kinds, cfg.Dynamic.Clock, cfg.Dynamic.Log = cfg.Store, e.Kinds, cfg.Clock, cfg.Log
	cfg.Dynamic.Types = e.owners.typesOf
	e.dynamic = dynamic.New(cfg.Dynamic)
	cfg.Store.Observe(e.dynamic)
	return e, nil
}

// Kinds lists every served kind, in discovery order. The slice is the same as long as what
// is served is.
func (e *Engine) Kinds() []*Kind { return e.defined.table.Load().kinds }

// Current returns once Kinds and Kind know every definition acknowledged before the call.
func (e *Engine) Current(ctx context.Context) error { return statusError(e.store.Fresh(ctx)) }

// Kind finds a kind by resource; an empty version means the preferred one.
func (e *Engine) Kind(gvr schema.GroupVersionResource) (*Kind, error) {
	t := e.defined.table.Load()
	if kind, ok := t.byResource[gvr]; ok {
		return kind, nil
	}
	if kind, ok := t.preferred[gvr.GroupResource()]; ok && gvr.Version == "" {
		return kind, nil
	}
	return nil, unknownResource(gvr.GroupResource())
}

// resolve finds the kind of a request and checks the request's scope.
func (e *Engine) resolve(ref Ref, named bool) (*Kind, error) {
	kind, err := e.Kind(ref.Resource)
	if err != nil {
		return nil, err
	}
	switch {
	case named && kind.Namespaced && ref.Namespace == "":
		return nil, apierrors.NewBadRequest("an empty namespace may not be set when a resource name is provided")
	case !kind.Namespaced && ref.Namespace != "":
		return nil, apierrors.NewBadRequest(fmt.Sprintf("namespace may not be set: %s are cluster-scoped", kind.GVR.Resource))
	}
	if ref.Subresource != "" && !kind.HasSubresource(ref.Subresource) {
		return nil, apierrors.NewNotFound(kind.GVR.GroupResource(), ref.Name+"/"+ref.Subresource)
	}
	return kind, nil
}

func keyOf(kind *Kind, namespace, name string) store.Key {
	return store.Key{Resource: kind.Stored().GVR.GroupResource().String(), Namespace: namespace, Name: name}
}

// now is the time that objects carry: whole seconds, as Kubernetes writes it.
func (e *Engine) now() metav1.Time {
	return metav1.Time{Time: e.cfg.Clock.Now().Truncate(time.Second)}
}
