// Package horizontalpodautoscaler sets the size of workloads by what their pods use and by
// other metrics.
package horizontalpodautoscaler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/scales"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexNamespace is the index by namespace that the informers of autoscalers and pods must have.
const IndexNamespace = "horizontalpodautoscaler-namespace"

// Config lists what the controller reads; every field is required.
type Config struct {
	Autoscalers *informer.Informer[*autoscalingv2.HorizontalPodAutoscaler]
	Pods        *informer.Informer[*corev1.Pod]
	Scales      *scales.Source
	Metrics     Metrics
	// Every is how often each autoscaler decides.
	Every time.Duration
	Clock clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller scales workloads. It remembers recommendations and changes of the last hour.
type Controller struct {
	cfg Config

	mu     sync.Mutex
	memory map[object.Key]memory
}

// memory is what is known of an autoscaler beside what is stored of it.
type memory struct {
	history    history
	generation int64
	decided    time.Time
	selector   string // of its target's pods
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg, memory: map[object.Key]memory{}} }

// Name is "horizontalpodautoscaler".
func (*Controller) Name() string { return "horizontalpodautoscaler" }

// Inputs are autoscalers; pods are only read, and metrics asked for by the clock.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.Autoscalers), controller.Reads(c.cfg.Pods)}
}

// Outputs are autoscalers' status and the size of what they scale.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.StatusOf[*autoscalingv2.HorizontalPodAutoscaler](),
		controller.ScalesAny("an autoscaler targets it"),
	}
}

// Reconcile decides for one autoscaler, once in each period and when its spec changes.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	hpa, err := c.cfg.Autoscalers.Get(key)
	if apierrors.IsNotFound(err) {
		c.mu.Lock()
		delete(c.memory, key)
		c.mu.Unlock()
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read autoscaler %s: %w", key, err)
	}
	if hpa.DeletionTimestamp != nil {
		return 0, nil
	}
	now := c.cfg.Clock.Now()
	c.mu.Lock()
	mem := c.memory[key]
	c.mu.Unlock()
	if left := mem.decided.Add(c.cfg.Every).Sub(now); left > 0 && mem.generation == hpa.Generation {
		return left, nil // its own status, most likely
	}
	mem.decided, mem.generation = now, hpa.Generation
	err = c.autoscale(ctx, w, hpa, &mem, log)
	c.mu.Lock()
	c.memory[key] = mem
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.cfg.Every, nil
}

func (c *Controller) autoscale(ctx context.Context, w client.Writer, hpa *autoscalingv2.HorizontalPodAutoscaler, mem *memory, log *zap.Logger) error {
	target := hpa.Spec.ScaleTargetRef
	kind, err := c.cfg.Scales.Kind(target.APIVersion, target.Kind)
	var scale *autoscalingv1.Scale
	if err == nil {
		scale, err = c.cfg.Scales.Get(ctx, kind, object.Key{Namespace: hpa.Namespace, Name: target.Name})
	}
	if err != nil {
		c.cfg.Event(hpa, corev1.EventTypeWarning, "FailedGetScale", err.Error())
		status := hpa.Status.DeepCopy()
		status.Conditions = setCondition(status.Conditions, mem.decided, autoscalingv2.AbleToScale, false, "FailedGetScale",
			fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err))
		return c.report(ctx, w, hpa, *status)
	}
	in := input{hpa: hpa, scale: scale, history: mem.history, now: mem.decided}
	if err := c.see(ctx, &in, mem); err != nil {
		return err
	}
	p := decide(in)
	log.Debug("decided", zap.Int32("replicas", scale.Spec.Replicas), zap.Int32("wanted", p.status.DesiredReplicas))
	var failure error
	if p.rescale {
		if failure = scales.Set(ctx, w, kind, scale, p.replicas); failure != nil {
			p.failed(in, failure)
		} else {
			p.rescaled(in)
		}
	}
	mem.history = p.history
	for _, e := range p.events {
		c.cfg.Event(hpa, e.severity, e.reason, e.message)
	}
	if err := c.report(ctx, w, hpa, p.status); err != nil {
		return err
	}
	return failure
}

// see reads the pods that a scale selects, and the metrics.
func (c *Controller) see(ctx context.Context, in *input, mem *memory) error {
	mem.selector = in.scale.Status.Selector
	if mem.selector == "" {
		in.readings = make([]reading, len(in.hpa.Spec.Metrics))
		return nil
	}
	selector, err := labels.Parse(mem.selector)
	if err != nil {
		return fmt.Errorf("selector of the scale: %w", err)
	}
	for _, pod := range c.cfg.Pods.ByIndex(IndexNamespace, in.hpa.Namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			in.pods = append(in.pods, pod)
		}
	}
	in.ambiguous = c.ambiguous(in.hpa, in.pods, mem.selector)
	in.readings = read(ctx, c.cfg.Metrics, in.hpa, selector, in.pods)
	return nil
}

// ambiguous says which other autoscalers scale pods of this one: they would pull at the
// same pods.
func (c *Controller) ambiguous(hpa *autoscalingv2.HorizontalPodAutoscaler, pods []*corev1.Pod, mine string) string {
	var others []string
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.cfg.Autoscalers.ByIndex(IndexNamespace, hpa.Namespace) {
		theirs := c.memory[object.KeyOf(other)].selector
		if other.UID == hpa.UID || theirs == "" {
			continue
		}
		selector, err := labels.Parse(theirs)
		if err == nil && slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return selector.Matches(labels.Set(pod.Labels)) }) {
			others = append(others, object.KeyOf(other).String())
		}
	}
	if len(others) == 0 {
		return ""
	}
	others = append(others, object.KeyOf(hpa).String())
	slices.Sort(others)
	return fmt.Sprintf("pods by selector %s are controlled by multiple HPAs: [%s]", mine, strings.Join(others, " "))
}

// report writes the status, if it is another one.
func (c *Controller) report(ctx context.Context, w client.Writer, hpa *autoscalingv2.HorizontalPodAutoscaler, status autoscalingv2.HorizontalPodAutoscalerStatus) error {
	if equality.Semantic.DeepEqual(status, hpa.Status) {
		return nil
	}
	updated := hpa.DeepCopy()
	updated.Status = status
	updated.ResourceVersion = "" // nobody else writes the status
	if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status of autoscaler %s: %w", object.KeyOf(hpa), err)
	}
	return nil
}
