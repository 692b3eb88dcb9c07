package horizontalpodautoscaler

import (
	"context"
	"errors"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Sample is a measured value of a pod.
type Sample struct {
	// Value in thousandths: of cores, of bytes, of the metric's unit.
	Value int64
	// Time of the measurement, and over how long before it was measured.
	Time   time.Time
	Window time.Duration
}

// Metrics are where values come from. Implementations are safe for concurrent use.
type Metrics interface {
	// Resource returns what pods use of a resource, by name; of one container if that is
	// not empty. Pods of which nothing is known are left out; an error if nothing is known
	// of any. It must not wait for nodes.
	Resource(resource corev1.ResourceName, container string, pods []*corev1.Pod) (map[string]Sample, error)
	// Pods returns a metric that describes each pod, by name.
	Pods(ctx context.Context, namespace string, pods labels.Selector, metric autoscalingv2.MetricIdentifier) (map[string]Sample, error)
	// Object returns a metric that describes one object, in thousandths.
	Object(ctx context.Context, namespace string, object autoscalingv2.CrossVersionObjectReference, metric autoscalingv2.MetricIdentifier) (int64, error)
	// External returns a metric from outside the cluster, one value a series, in thousandths.
	External(ctx context.Context, namespace string, metric autoscalingv2.MetricIdentifier) ([]int64, error)
}

// Errors of metrics that there are none of.
var (
	errNoResourceMetrics = errors.New("no metrics returned from resource metrics API")
	errNoCustomMetrics   = errors.New("no metrics API for custom metrics is registered")
	errNoExternalMetrics = errors.New("no metrics API for external metrics is registered")
)

// reading is what was read for one metric of an autoscaler.
type reading struct {
	pods map[string]Sample // of metrics that describe pods
	// values of metrics that describe something else: one, or several to be added up.
	values []int64
	err    error
}

// read reads every metric of an autoscaler.
func read(ctx context.Context, from Metrics, hpa *autoscalingv2.HorizontalPodAutoscaler, selector labels.Selector, pods []*corev1.Pod) []reading {
	out := make([]reading, len(hpa.Spec.Metrics))
	for i := range hpa.Spec.Metrics {
		spec, r := &hpa.Spec.Metrics[i], &out[i]
		switch {
		case spec.Resource != nil:
			r.pods, r.err = from.Resource(spec.Resource.Name, "", pods)
		case spec.ContainerResource != nil:
			r.pods, r.err = from.Resource(spec.ContainerResource.Name, spec.ContainerResource.Container, pods)
		case spec.Pods != nil:
			r.pods, r.err = from.Pods(ctx, hpa.Namespace, selector, spec.Pods.Metric)
		case spec.Object != nil:
			var value int64
			value, r.err = from.Object(ctx, hpa.Namespace, spec.Object.DescribedObject, spec.Object.Metric)
			r.values = []int64{value}
		case spec.External != nil:
			r.values, r.err = from.External(ctx, hpa.Namespace, spec.External.Metric)
		}
	}
	return out
}
