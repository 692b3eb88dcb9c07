// Package endpointslice publishes, for every Service with a selector, which pods
// serve it and whether they are ready.
package endpointslice

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexNamespace is the index by namespace that the service informer must have, IndexLabel
// the one by Label that the pod informer must have and IndexNode its index by node.
const (
	IndexNamespace = "namespace"
	IndexLabel     = "label"
	IndexNode      = "node"
)

// Label is IndexLabel's value for the pods of a namespace that have a label.
func Label(namespace, key, value string) string { return namespace + "/" + key + "=" + value }

// Labels is IndexLabel's function.
func Labels(pod *corev1.Pod) []string {
	out := make([]string, 0, len(pod.Labels))
	for key, value := range pod.Labels {
		out = append(out, Label(pod.Namespace, key, value))
	}
	return out
}

// Config lists what the controller reads; every field is required.
type Config struct {
	Services *informer.Informer[*corev1.Service]
	Pods     *informer.Informer[*corev1.Pod]
	Nodes    *informer.Informer[*corev1.Node]
	Slices   *informer.Informer[*discoveryv1.EndpointSlice]
}

// Controller publishes endpoints.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "endpointslice".
func (*Controller) Name() string { return "endpointslice" }

// Inputs are services, what endpoints say of the pods they select, the zones of nodes, and slices.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Services),
		controller.Triggered(c.followPods),
		controller.Triggered(c.followZones),
		controller.OwnedBy(c.cfg.Slices, "Service"),
	}
}

// Outputs are slices of services.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*discoveryv1.EndpointSlice]("Service")}
}

// followPods makes the services due that select a pod, before or after a change that
// endpoints show. Most changes of pods are none: images, annotations, heartbeats of containers.
func (c *Controller) followPods(enqueue func(object.Key)) {
	c.cfg.Pods.OnChange(func(before, after *corev1.Pod) {
		if before != nil && after != nil && sameEndpoint(before, after) {
			return
		}
		for _, pod := range []*corev1.Pod{before, after} {
			if pod != nil {
				c.eachSelecting(pod, enqueue)
			}
		}
	})
}

// followZones makes the services due whose pods' node has come to another zone.
func (c *Controller) followZones(enqueue func(object.Key)) {
	zone := func(node *corev1.Node) string {
		if node == nil {
			return ""
		}
		return node.Labels[corev1.LabelTopologyZone]
	}
	c.cfg.Nodes.OnChange(func(before, after *corev1.Node) {
		if after == nil || zone(before) == zone(after) {
			return
		}
		for _, pod := range c.cfg.Pods.ByIndex(IndexNode, after.Name) {
			c.eachSelecting(pod, enqueue)
		}
	})
}

func sameEndpoint(a, b *corev1.Pod) bool {
	return a.UID == b.UID && a.Spec.NodeName == b.Spec.NodeName && a.Status.PodIP == b.Status.PodIP &&
		slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		podstate.Finished(a) == podstate.Finished(b) && podstate.Ready(a) == podstate.Ready(b) && maps.Equal(a.Labels, b.Labels)
}

func (c *Controller) eachSelecting(pod *corev1.Pod, enqueue func(object.Key)) {
	for _, svc := range c.cfg.Services.ByIndex(IndexNamespace, pod.Namespace) {
		if published(svc) && selects(svc, pod) {
			enqueue(object.KeyOf(svc))
		}
	}
}

// published tells whether this loop publishes a Service: without a selector somebody else does.
func published(svc *corev1.Service) bool {
	return len(svc.Spec.Selector) > 0 && svc.Spec.Type != corev1.ServiceTypeExternalName
}

func selects(svc *corev1.Service, pod *corev1.Pod) bool {
	for key, value := range svc.Spec.Selector {
		if have, ok := pod.Labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// selected finds the pods of a Service among those that have the rarest of its labels.
func (c *Controller) selected(svc *corev1.Service) []*corev1.Pod {
	var fewest []*corev1.Pod
	first := true
	for key, value := range svc.Spec.Selector {
		having := c.cfg.Pods.ByIndex(IndexLabel, Label(svc.Namespace, key, value))
		if first || len(having) < len(fewest) {
			fewest, first = having, false
		}
	}
	return slices.DeleteFunc(fewest, func(pod *corev1.Pod) bool { return !selects(svc, pod) })
}

func (c *Controller) zone(node string) string {
	found, err := c.cfg.Nodes.Get(object.Key{Name: node})
	if err != nil {
		return ""
	}
	return found.Labels[corev1.LabelTopologyZone]
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
	if svc.DeletionTimestamp != nil || !published(svc) {
		return 0, nil
	}
	p := decide(svc, c.selected(svc), c.zone, c.cfg.Slices.OwnedBy(svc.UID))
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("update", len(p.update)), zap.Int("delete", len(p.remove)))
	return 0, apply(ctx, w, p)
}

// slicesAtOnce bounds a transaction: a request may have 3 MiB, and a slice has some 30 KiB.
const slicesAtOnce = 32

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
	for some := range slices.Chunk(ops, slicesAtOnce) {
		results, err := w.Transact(ctx, some, true)
		if err != nil {
			return fmt.Errorf("slices: %w", err)
		}
		for _, result := range results {
			if result.Err != nil && !expected(result.Err) {
				return fmt.Errorf("slice: %w", result.Err)
			}
		}
	}
	return nil
}

// expected errors need no retry: the slice is there or gone already, or its namespace is going.
func expected(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}
