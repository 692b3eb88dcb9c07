// Package endpoints shows the EndpointSlices of Services with selectors as Endpoints, for
// programs that know no slices.
package endpoints

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Services  *informer.Informer[*corev1.Service]
	Slices    *informer.Informer[*discoveryv1.EndpointSlice]
	Endpoints *informer.Informer[*endpointsObject]
}

// Controller keeps Endpoints.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "endpoints".
func (*Controller) Name() string { return "endpoints" }

// Inputs are services, their slices, and Endpoints.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Services),
		controller.OwnedBy(c.cfg.Slices, "Service"),
		controller.Mapped(c.cfg.Endpoints, func(e *endpointsObject) []object.Key {
			if e.Labels[managedByLabel] != managedBy {
				return nil
			}
			return []object.Key{object.KeyOf(e)}
		}),
	}
}

// Outputs are Endpoints of services with selectors.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*endpointsObject]("Service")}
}

// Reconcile keeps the Endpoints of one service.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	now, err := c.cfg.Endpoints.Get(key)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("read endpoints %s: %w", key, err)
	}
	svc, err := c.cfg.Services.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, remove(ctx, w, now)
	}
	if err != nil {
		return 0, fmt.Errorf("read service %s: %w", key, err)
	}
	if svc.DeletionTimestamp != nil || len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return 0, nil // somebody else's
	}
	want := decide(svc, c.cfg.Slices.OwnedBy(svc.UID), now)
	switch {
	case want == nil:
		return 0, nil
	case now == nil:
		_, err = w.Create(ctx, want)
	default:
		_, err = w.Update(ctx, want)
	}
	if err != nil && !expected(err) {
		return 0, fmt.Errorf("endpoints %s: %w", key, err)
	}
	return 0, nil
}

// remove deletes what this loop has made for a service that is gone.
func remove(ctx context.Context, w client.Writer, now *endpointsObject) error {
	if now == nil || now.Labels[managedByLabel] != managedBy {
		return nil
	}
	if err := w.Delete(ctx, now, client.DeleteOptions{UID: now.UID}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete endpoints %s: %w", object.KeyOf(now), err)
	}
	return nil
}

// expected errors need no retry: somebody made or removed the object, or its namespace is going.
func expected(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}
