// Package nodelease removes the Leases of nodes that are gone.
package nodelease

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Nodes *informer.Informer[*corev1.Node]
	// Leases must hold those of the namespace kube-node-lease; others are left alone.
	Leases *informer.Informer[*coordinationv1.Lease]
}

// Controller removes Leases. Its keys are names of nodes.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "nodelease".
func (*Controller) Name() string { return "nodelease" }

// Inputs are Leases that come, and nodes that go: Leases are renewed all the time.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.TriggeredBy(func(enqueue func(object.Key)) {
			c.cfg.Leases.OnChange(func(before, after *coordinationv1.Lease) {
				if before == nil && after.Namespace == corev1.NamespaceNodeLease {
					enqueue(object.Key{Name: after.Name})
				}
			})
			c.cfg.Nodes.OnChange(func(before, after *corev1.Node) {
				if after == nil {
					enqueue(object.KeyOf(before))
				}
			})
		}, c.all),
	}
}

func (c *Controller) all() []object.Key {
	var keys []object.Key
	for _, lease := range c.cfg.Leases.List() {
		if lease.Namespace == corev1.NamespaceNodeLease {
			keys = append(keys, object.Key{Name: lease.Name})
		}
	}
	return keys
}

// Outputs are deletions of Leases.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Deletes[*coordinationv1.Lease]("its node is gone")}
}

// Reconcile judges one node's Lease.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	lease, err := c.cfg.Leases.Get(object.Key{Namespace: corev1.NamespaceNodeLease, Name: key.Name})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read lease %s: %w", key, err)
	}
	// The node may be newer than what this cache has seen, but not newer than its Lease.
	if err := c.cfg.Nodes.WaitVersion(ctx, lease.ResourceVersion); err != nil {
		return 0, err
	}
	if _, err := c.cfg.Nodes.Get(key); !apierrors.IsNotFound(err) {
		return 0, err
	}
	if err := w.Delete(ctx, lease, client.DeleteOptions{UID: lease.UID}); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("delete lease %s: %w", key, err)
	}
	return 0, nil
}
