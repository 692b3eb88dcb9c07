// Package ephemeralvolumes makes the claims of pods' generic ephemeral volumes. The pod owns
// them, so that the garbage collector removes them with it.
package ephemeralvolumes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/controller-manager/internal/storage"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Claims *informer.Informer[*corev1.PersistentVolumeClaim]
	// Pods have index IndexPodClaims of package storage.
	Pods *informer.Informer[*corev1.Pod]
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller makes claims; its keys are pods.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "ephemeralvolumes".
func (*Controller) Name() string { return "ephemeralvolumes" }

// Inputs are pods with ephemeral volumes, and claims: their own, and one of a foreign name
// that goes away.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Mapped(c.cfg.Pods, func(pod *corev1.Pod) []object.Key {
			for _, use := range volume.Uses(pod) {
				if use.Ephemeral {
					return []object.Key{object.KeyOf(pod)}
				}
			}
			return nil
		}),
		controller.Mapped(c.cfg.Claims, func(claim *corev1.PersistentVolumeClaim) []object.Key {
			var keys []object.Key
			for _, pod := range c.cfg.Pods.ByIndex(storage.IndexPodClaims, object.KeyOf(claim).String()) {
				keys = append(keys, object.KeyOf(pod))
			}
			return keys
		}),
	}
}

// Outputs are the claims.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*corev1.PersistentVolumeClaim]("Pod")}
}

// Reconcile makes one pod's claims. A conflict is an error, so that it is looked at again: the
// claim in the way may be deleted.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	pod, err := c.cfg.Pods.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read pod %s: %w", key, err)
	}
	p := decide(pod, func(key object.Key) *corev1.PersistentVolumeClaim {
		claim, err := c.cfg.Claims.Get(key)
		if err != nil {
			return nil
		}
		return claim
	})
	var failures []error
	for _, message := range p.conflicts {
		c.cfg.Event(pod, corev1.EventTypeWarning, "FailedBinding", message)
		failures = append(failures, errors.New(message))
	}
	for _, claim := range p.create {
		_, err := w.Create(ctx, claim)
		if err == nil {
			continue
		}
		// One that exists already is looked at again, once the cache shows whose it is.
		failures = append(failures, fmt.Errorf("create claim: %w", err))
		if !apierrors.IsAlreadyExists(err) {
			c.cfg.Event(pod, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("create PVC %s: %v", claim.Name, err))
		}
	}
	return 0, errors.Join(failures...)
}
