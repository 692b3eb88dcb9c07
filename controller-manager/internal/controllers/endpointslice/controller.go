// Package endpointslice publishes, for every Service with a selector, which pods
// serve it and whether they are ready.
package endpointslice

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexNamespace is the index by namespace that pod and service informers must have.
const IndexNamespace = "namespace"

// Config lists what the controller reads; every field is required.
type Config struct {
	Services *informer.Informer[*corev1.Service]
	Pods     *informer.Informer[*corev1.Pod]
	Slices   *informer.Informer[*discoveryv1.EndpointSlice]
}

// Controller publishes endpoints.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "endpointslice".
func (*Controller) Name() string { return "endpointslice" }

// Inputs are services, the pods they select, and slices.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Services),
		controller.Mapped(c.cfg.Pods, c.selecting),
		controller.OwnedBy(c.cfg.Slices, "Service"),
	}
}

// Outputs are slices of services.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*discoveryv1.EndpointSlice]("Service")}
}

// selecting lists the services that select a pod.
func (c *Controller) selecting(pod *corev1.Pod) []object.Key {
	var keys []object.Key
	for _, svc := range c.cfg.Services.ByIndex(IndexNamespace, pod.Namespace) {
		if len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			keys = append(keys, object.KeyOf(svc))
		}
	}
	return keys
}

// Reconcile publishes one service's endpoints.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	svc, err := c.cfg.Services.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // the garbage collector removes its slices
	}
	if err != nil {
		return 0, fmt.Errorf("read service %s: %w", key, err)
	}
	if svc.DeletionTimestamp != nil || len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return 0, nil // without a selector, somebody else publishes
	}
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	var pods []*corev1.Pod
	for _, pod := range c.cfg.Pods.ByIndex(IndexNamespace, svc.Namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	p := decide(svc, pods, c.cfg.Slices.OwnedBy(svc.UID))
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("update", len(p.update)), zap.Int("delete", len(p.remove)))
	return 0, apply(ctx, w, p)
}

func apply(ctx context.Context, w client.Writer, p plan) error {
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
		return fmt.Errorf("slices: %w", err)
	}
	for _, result := range results {
		if result.Err != nil && !apierrors.IsAlreadyExists(result.Err) && !apierrors.IsNotFound(result.Err) {
			return fmt.Errorf("slice: %w", result.Err)
		}
	}
	return nil
}
