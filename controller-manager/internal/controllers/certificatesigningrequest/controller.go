// Package certificatesigningrequest removes requests for certificates that have served
// their purpose, or that nobody has answered. The apiserver signs them.
package certificatesigningrequest

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Requests *informer.Informer[*certificatesv1.CertificateSigningRequest]
	Clock    clock.PassiveClock
}

// Controller removes requests.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "certificatesigningrequest".
func (*Controller) Name() string { return "certificatesigningrequest" }

// Inputs are requests.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.Requests)}
}

// Outputs are deletions of requests.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Deletes[*certificatesv1.CertificateSigningRequest]("it is old")}
}

// Reconcile judges one request.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	request, err := c.cfg.Requests.Get(key)
	if apierrors.IsNotFound(err) || err == nil && request.DeletionTimestamp != nil {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read certificate request %s: %w", key, err)
	}
	remove, in := decide(request, c.cfg.Clock.Now())
	if !remove {
		return in, nil
	}
	if err := w.Delete(ctx, request, client.DeleteOptions{UID: request.UID}); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("delete certificate request %s: %w", key, err)
	}
	return 0, nil
}
