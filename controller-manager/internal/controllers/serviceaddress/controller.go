// Package serviceaddress tells of services whose address or node port is another's too, or
// none that is given: after a recovery, or after the ranges have changed. The apiserver gives
// each address once, from memory made of all services, so none leaks and nothing is repaired.
package serviceaddress

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexTaken is the index of services by their addresses and ports, with Taken, that the
// service informer must have.
const IndexTaken = "taken"

// Taken is IndexTaken's function.
func Taken(svc *corev1.Service) []string {
	out := addresses(svc)
	for _, port := range ports(svc) {
		out = append(out, fmt.Sprint(port))
	}
	return out
}

// Config lists what the controller reads; every field is required.
type Config struct {
	Services *informer.Informer[*corev1.Service]
	// Range of service addresses, and the first and last node port.
	Range                       netip.Prefix
	FirstNodePort, LastNodePort int32
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller looks at addresses.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "serviceaddress".
func (*Controller) Name() string { return "serviceaddress" }

// Inputs are services.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.Services)}
}

// Outputs: none, it only reports.
func (*Controller) Outputs() []controller.Output { return nil }

// again is how often a problem that remains is told again.
const again = 3 * time.Minute

// Reconcile looks at one service.
func (c *Controller) Reconcile(_ context.Context, key object.Key, _ client.Writer, log *zap.Logger) (time.Duration, error) {
	svc, err := c.cfg.Services.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read service %s: %w", key, err)
	}
	var sharing []*corev1.Service
	for _, value := range Taken(svc) {
		sharing = append(sharing, c.cfg.Services.ByIndex(IndexTaken, value)...)
	}
	problems := decide(svc, sharing, ranges{c.cfg.Range, c.cfg.FirstNodePort, c.cfg.LastNodePort})
	for _, p := range problems {
		log.Warn("address of a service is wrong", zap.String("reason", p.reason), zap.String("what", p.message))
		c.cfg.Event(svc, corev1.EventTypeWarning, p.reason, p.message)
	}
	if len(problems) > 0 {
		return again, nil
	}
	return 0, nil
}
