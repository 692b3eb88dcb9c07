package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"math"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// proposal is what one metric asks for.
type proposal struct {
	replicas int32
	name     string // as told to users
	status   autoscalingv2.MetricStatus
	// reason of the condition that tells of err, which is nil if the metric could be used.
	reason string
	err    error
}

// propose computes what each metric asks for.
func (in input) propose() []proposal {
	out := make([]proposal, len(in.hpa.Spec.Metrics))
	for i := range in.hpa.Spec.Metrics {
		out[i] = in.proposeOne(&in.hpa.Spec.Metrics[i], in.readings[i])
	}
	return out
}

func (in input) proposeOne(spec *autoscalingv2.MetricSpec, r reading) proposal {
	p := proposal{status: autoscalingv2.MetricStatus{Type: spec.Type}}
	switch {
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		p.reason = "FailedGetResourceMetric"
		current := in.resource(&p, spec.Resource.Name, "", spec.Resource.Target, r)
		p.status.Resource = &autoscalingv2.ResourceMetricStatus{Name: spec.Resource.Name, Current: current}
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		p.reason = "FailedGetContainerResourceMetric"
		source := spec.ContainerResource
		current := in.resource(&p, source.Name, source.Container, source.Target, r)
		p.status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: source.Name, Container: source.Container, Current: current}
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		p.reason, p.name = "FailedGetPodsMetric", "pods metric "+spec.Pods.Metric.Name
		p.status.Pods = &autoscalingv2.PodsMetricStatus{Metric: spec.Pods.Metric}
		if r.err != nil {
			p.err = fmt.Errorf("failed to get pods metric value: unable to get metric %s: %w", spec.Pods.Metric.Name, r.err)
			break
		}
		average := int64(0)
		p.replicas, average, p.err = in.byAverage("", spec.Pods.Target, r)
		p.status.Pods.Current.AverageValue = milli(average)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		p.reason = "FailedGetObjectMetric"
		p.name = fmt.Sprintf("%s metric %s", spec.Object.DescribedObject.Kind, spec.Object.Metric.Name)
		p.status.Object = &autoscalingv2.ObjectMetricStatus{Metric: spec.Object.Metric, DescribedObject: spec.Object.DescribedObject}
		in.total(&p, &p.status.Object.Current, spec.Object.Target, r, fmt.Sprintf("failed to get object metric value: unable to get metric %s: %s on %s %s",
			spec.Object.Metric.Name, spec.Object.DescribedObject.Kind, in.hpa.Namespace, spec.Object.DescribedObject.Name))
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		p.reason = "FailedGetExternalMetric"
		selector := metav1.FormatLabelSelector(spec.External.Metric.Selector)
		p.name = fmt.Sprintf("external metric %s(%s)", spec.External.Metric.Name, selector)
		p.status.External = &autoscalingv2.ExternalMetricStatus{Metric: spec.External.Metric}
		in.total(&p, &p.status.External.Current, spec.External.Target, r, fmt.Sprintf("failed to get %s external metric value: unable to get external metric %s/%s/%s",
			spec.External.Metric.Name, in.hpa.Namespace, spec.External.Metric.Name, selector))
	default:
		p.reason, p.err = "InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", string(spec.Type))
	}
	if p.err != nil {
		p.status = autoscalingv2.MetricStatus{}
	}
	return p
}

// resource is what a resource of pods, or of one container of each, asks for.
func (in input) resource(p *proposal, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget, r reading) (current autoscalingv2.MetricValueStatus) {
	of := string(name)
	if container != "" {
		of += " container"
	}
	switch {
	case target.AverageValue != nil:
		p.name = fmt.Sprintf("%s resource", of)
		if r.err != nil {
			p.err = fmt.Errorf("failed to get %s usage: unable to get metrics for resource %s: %w", of, name, r.err)
			return current
		}
		var average int64
		p.replicas, average, p.err = in.byAverage(name, target, r)
		current.AverageValue = milli(average)
	case target.AverageUtilization != nil:
		p.name = fmt.Sprintf("%s resource utilization (percentage of request)", of)
		if r.err != nil {
			p.err = fmt.Errorf("failed to get %s utilization: unable to get metrics for resource %s: %w", of, name, r.err)
			return current
		}
		var percent int32
		var average int64
		p.replicas, percent, average, p.err = in.byUtilization(name, container, *target.AverageUtilization, r)
		current.AverageUtilization, current.AverageValue = &percent, milli(average)
		if p.err != nil {
			p.err = fmt.Errorf("failed to get %s utilization: %w", of, p.err)
		}
	default:
		p.err = errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	return current
}

// total is what a metric asks for that describes no single pod.
func (in input) total(p *proposal, current *autoscalingv2.MetricValueStatus, target autoscalingv2.MetricTarget, r reading, failure string) {
	if r.err != nil {
		p.err = fmt.Errorf("%s: %w", failure, r.err)
		return
	}
	var usage int64
	for _, value := range r.values {
		usage += value
	}
	switch {
	case target.Value != nil && target.Value.MilliValue() > 0:
		current.Value = milli(usage)
		ratio := float64(usage) / float64(target.Value.MilliValue())
		switch {
		case in.scale.Spec.Replicas == 0:
			p.replicas = ceil(ratio)
		case in.tolerates(ratio):
			p.replicas = in.scale.Spec.Replicas
		default:
			p.replicas = ceil(ratio * float64(in.running()))
		}
	case target.AverageValue != nil && target.AverageValue.MilliValue() > 0:
		each := target.AverageValue.MilliValue()
		p.replicas = in.scale.Status.Replicas
		if p.replicas == 0 || !in.tolerates(float64(usage)/(float64(each)*float64(p.replicas))) {
			p.replicas = ceil(float64(usage) / float64(each))
		}
		average := usage
		if in.scale.Status.Replicas > 0 {
			average = int64(math.Ceil(float64(usage) / float64(in.scale.Status.Replicas)))
		}
		current.AverageValue = milli(average)
	default:
		p.err = errors.New("invalid metric source: neither a value target nor an average value target was set")
	}
}

// running is how many pods run and are ready.
func (in input) running() int {
	n := 0
	for _, pod := range in.pods {
		if pod.Status.Phase == corev1.PodRunning && ready(pod) {
			n++
		}
	}
	return n
}

// tolerates says whether use is near enough to the target to be left alone; behaviour may
// say what near is, in each direction.
func (in input) tolerates(ratio float64) bool {
	down, up := defaultTolerance, defaultTolerance
	if b := in.hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return ratio >= 1-down && ratio <= 1+up
}

// byUtilization compares use with a percentage of what pods request.
func (in input) byUtilization(name corev1.ResourceName, container string, target int32, r reading) (replicas, percent int32, average int64, err error) {
	groups, err := in.group(name, r.pods)
	if err != nil {
		return 0, 0, 0, err
	}
	requests, err := in.requests(name, container)
	if err != nil {
		return 0, 0, 0, err
	}
	ratio := func(use map[string]int64) (float64, int32, int64, error) {
		var used, requested, n int64
		for pod, value := range use {
			used, requested, n = used+value, requested+requests[pod], n+1
		}
		if requested == 0 {
			return 0, 0, 0, errors.New("no metrics returned matched known pods")
		}
		percent := int32(min(used*100/requested, math.MaxInt32))
		return float64(percent) / float64(target), percent, used / n, nil
	}
	first, percent, average, err := ratio(groups.use)
	if err != nil {
		return 0, 0, 0, err
	}
	replicas, err = in.weigh(groups, first, func(pod string) int64 {
		return requests[pod] * int64(max(100, target)) / 100 // missing pods do not hasten a scale-down
	}, func(use map[string]int64) (float64, error) {
		again, _, _, err := ratio(use)
		return again, err
	})
	return replicas, percent, average, err
}

// byAverage compares the average of pods with a value.
func (in input) byAverage(name corev1.ResourceName, spec autoscalingv2.MetricTarget, r reading) (replicas int32, average int64, err error) {
	if spec.AverageValue == nil || spec.AverageValue.MilliValue() <= 0 {
		return 0, 0, errors.New("invalid metric source: no average value target was set")
	}
	target := spec.AverageValue.MilliValue()
	groups, err := in.group(name, r.pods)
	if err != nil {
		return 0, 0, err
	}
	mean := func(use map[string]int64) int64 {
		var used int64
		for _, value := range use {
			used += value
		}
		return used / int64(len(use))
	}
	ratio := func(use map[string]int64) (float64, error) { return float64(mean(use)) / float64(target), nil }
	average = mean(groups.use)
	first, _ := ratio(groups.use)
	replicas, err = in.weigh(groups, first, func(string) int64 { return target }, ratio)
	return replicas, average, err
}

// weigh turns the ratio of use to target into a number of pods. Pods whose use is unknown
// are assumed to be such that they dampen the change: none when there is too much use,
// missing(pod) when there is too little. A change that this turns round is not made.
func (in input) weigh(g groups, first float64, missing func(pod string) int64, ratio func(map[string]int64) (float64, error)) (int32, error) {
	current := in.scale.Spec.Replicas
	growing := len(g.unready) > 0 && first > 1
	if !growing && len(g.missing) == 0 {
		if in.tolerates(first) {
			return current, nil
		}
		return ceil(first * float64(len(g.use))), nil
	}
	for _, pod := range g.missing {
		switch {
		case first < 1:
			g.use[pod] = missing(pod)
		case first > 1:
			g.use[pod] = 0
		}
	}
	if growing {
		for _, pod := range g.unready {
			g.use[pod] = 0
		}
	}
	second, err := ratio(g.use)
	if err != nil {
		return 0, err
	}
	if in.tolerates(second) || first < 1 && second > 1 || first > 1 && second < 1 {
		return current, nil
	}
	replicas := ceil(second * float64(len(g.use)))
	if second < 1 && replicas > current || second > 1 && replicas < current {
		return current, nil
	}
	return replicas, nil
}

// ceil rounds up to a number of pods.
func ceil(f float64) int32 {
	return int32(min(math.Ceil(f), math.MaxInt32))
}

func milli(value int64) *resource.Quantity {
	return ptr.To(*resource.NewMilliQuantity(value, resource.DecimalSI))
}
