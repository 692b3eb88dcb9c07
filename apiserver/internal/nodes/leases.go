package nodes

import (
	"context"
	"time"

	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// leaseInterval is how often the Leases of all heard nodes are written, in one batch.
const leaseInterval = 10 * time.Second

// heardAnnotation marks the Leases that masters write. They follow from heartbeats and
// are none themselves: a node that died would outlive itself by them.
const heardAnnotation = "kijabi.dev/heard"

// Leases keeps a Lease for every node that the masters hear, for those who look at
// Leases; the masters themselves go by the connections.
type Leases struct {
	hub      *Hub
	registry registry.Registry
	caller   registry.Caller
	clock    clock.WithTicker
	log      *zap.Logger
}

// NewLeases returns the keeper of a hub's Leases; caller is the user that writes them.
func NewLeases(hub *Hub, reg registry.Registry, caller registry.Caller, clk clock.WithTicker, log *zap.Logger) *Leases {
	return &Leases{hub: hub, registry: reg, caller: caller, clock: clk, log: log}
}

// Run writes Leases while this master leads, until ctx ends.
func (l *Leases) Run(ctx context.Context) error {
	ticker := l.clock.NewTicker(leaseInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		if _, leading := l.hub.cfg.LeadingSince(); !leading {
			continue
		}
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("leases not renewed", zap.Error(err))
		}
	}
}

func (l *Leases) renew(ctx context.Context) error {
	kind := object.KindOf[*coordinationv1.Lease]()
	now := metav1.NewMicroTime(l.clock.Now())
	seen := l.hub.cfg.Directory.All()
	var ops []registry.Operation
	for _, node := range l.hub.cfg.Known() {
		sighting, ok := seen[node]
		if !ok || l.clock.Since(sighting.Heard) > leaseInterval {
			continue
		}
		ref := registry.Ref{Resource: kind.GVR, Namespace: corev1.NamespaceNodeLease, Name: node}
		op := registry.Operation{Verb: registry.VerbUpdate, Ref: ref}
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node, Annotations: map[string]string{heardAnnotation: "true"}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: ptr.To(int32(4 * leaseInterval / time.Second)), RenewTime: &now},
		}
		if _, err := l.registry.Get(ctx, ref); apierrors.IsNotFound(err) {
			op.Verb = registry.VerbCreate
		} else if err != nil {
			return err
		}
		op.Object = lease
		ops = append(ops, op)
	}
	if len(ops) == 0 {
		return nil
	}
	results, err := l.registry.Transact(ctx, l.caller, ops, true)
	if err != nil {
		return err
	}
	for _, result := range results {
		if result.Err != nil && !apierrors.IsAlreadyExists(result.Err) && !apierrors.IsNotFound(result.Err) {
			return result.Err
		}
	}
	return nil
}
