// Package volumeexpansion makes volumes grow with what their claims ask for. Volumes of class
// local-path it grows itself, which is a number in two objects; of others it says that
// their driver's resizer has to. That claims may only grow, and only if their class allows
// it, the apiserver sees to.
package volumeexpansion

import (
	"context"
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
)

// Config lists what the controller reads; every field is required.
type Config struct {
	// Claims have index IndexClaimVolume.
	Claims  *informer.Informer[*corev1.PersistentVolumeClaim]
	Volumes *informer.Informer[*corev1.PersistentVolume]
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller expands volumes; its keys are claims.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "volumeexpansion".
func (*Controller) Name() string { return "volumeexpansion" }

// Inputs are claims and their volumes.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Claims),
		controller.Mapped(c.cfg.Volumes, func(v *corev1.PersistentVolume) []object.Key {
			var keys []object.Key
			for _, claim := range c.cfg.Claims.ByIndex(storage.IndexClaimVolume, v.Name) {
				keys = append(keys, object.KeyOf(claim))
			}
			return keys
		}),
	}
}

// Outputs are sizes, and who is to change them.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Fields[*corev1.PersistentVolume]("spec.capacity"),
		controller.Fields[*corev1.PersistentVolumeClaim]("annotation of the resizer"),
		controller.StatusPart[*corev1.PersistentVolumeClaim]("capacity"),
	}
}

// Reconcile takes one claim's expansion a step on; the write makes it due again.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	claim, err := c.cfg.Claims.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read claim %s: %w", key, err)
	}
	v, err := c.cfg.Volumes.Get(object.Key{Name: claim.Spec.VolumeName})
	if apierrors.IsNotFound(err) {
		return 0, nil // it may not be known yet; it makes the claim due
	}
	if err != nil {
		return 0, fmt.Errorf("read volume %s: %w", claim.Spec.VolumeName, err)
	}
	p := decide(claim, v)
	switch {
	case p.volume != nil:
		_, err = w.Update(ctx, p.volume)
	case p.claim != nil:
		_, err = w.Update(ctx, p.claim)
	case p.status != nil:
		_, err = w.UpdateStatus(ctx, p.status)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("expand volume of claim %s: %w", key, err)
	}
	if p.reason != "" && err == nil {
		c.cfg.Event(claim, corev1.EventTypeNormal, p.reason, p.message)
	}
	return 0, nil
}
