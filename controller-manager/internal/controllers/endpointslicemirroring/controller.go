// Package endpointslicemirroring makes EndpointSlices of the Endpoints that users write for
// Services without a selector, since everybody else reads slices.
package endpointslicemirroring

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
	Endpoints *informer.Informer[*endpointsObject]
	Slices    *informer.Informer[*discoveryv1.EndpointSlice]
}

// Controller keeps slices.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "endpointslicemirroring".
func (*Controller) Name() string { return "endpointslicemirroring" }

// Inputs are Endpoints, the services of their names, and slices.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Endpoints),
		controller.Self(c.cfg.Services),
		controller.OwnedBy(c.cfg.Slices, "Endpoints"),
	}
}

// Outputs are slices of Endpoints.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*discoveryv1.EndpointSlice]("Endpoints")}
}

// Reconcile keeps the slices of one Endpoints.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	e, err := c.cfg.Endpoints.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // the garbage collector removes its slices
	}
	if err != nil {
		return 0, fmt.Errorf("read endpoints %s: %w", key, err)
	}
	svc, err := c.cfg.Services.Get(key)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("read service %s: %w", key, err)
	}
	p := decide(e, svc, c.cfg.Slices.OwnedBy(e.UID))
	var ops []client.Op
	for _, slice := range p.create {
		ops = append(ops, client.CreateOp(slice))
	}
	for _, slice := range p.update {
		ops = append(ops, client.UpdateOp(slice, ""))
	}
	for _, slice := range p.remove {
		ops = append(ops, client.DeleteOp(slice, client.DeleteOptions{UID: slice.UID}))
	}
	results, err := w.Transact(ctx, ops, true)
	if err != nil {
		return 0, fmt.Errorf("slices of %s: %w", key, err)
	}
	for _, result := range results {
		if result.Err != nil && !expected(result.Err) {
			return 0, fmt.Errorf("slice of %s: %w", key, result.Err)
		}
	}
	return 0, nil
}

// expected errors need no retry: the slice is there or gone already, or its namespace is going.
func expected(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}
