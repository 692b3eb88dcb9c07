package kinds

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Annotations in which objects of autoscaling/v1 carry what that version has no fields for,
// as JSON: metrics beside the use of CPU, their present values, the conditions (all three in
// autoscaling/v1's own types), and the behavior.
const (
	metricsAnnotation        = "autoscaling.alpha.kubernetes.io/metrics"
	currentMetricsAnnotation = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation     = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation       = "autoscaling.alpha.kubernetes.io/behavior"
)

// carried is what those annotations hold.
type carried struct {
	metrics    []autoscalingv1.MetricSpec
	current    []autoscalingv1.MetricStatus
	conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	behavior   *autoscalingv2.HorizontalPodAutoscalerBehavior
}

// each calls f with every annotation, where its content goes and whether there is any.
func (c *carried) each(f func(key string, content any, present bool)) {
	f(metricsAnnotation, &c.metrics, len(c.metrics) > 0)
	f(currentMetricsAnnotation, &c.current, len(c.current) > 0)
	f(conditionsAnnotation, &c.conditions, len(c.conditions) > 0)
	f(behaviorAnnotation, &c.behavior, c.behavior != nil)
}

// validateAutoscalerAnnotations refuses annotations that cannot be read.
func validateAutoscalerAnnotations(h *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
	var errs field.ErrorList
	var content carried
	content.each(func(key string, at any, _ bool) {
		text, ok := h.Annotations[key]
		if !ok {
			return
		}
		if err := json.Unmarshal([]byte(text), at); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(key), text, err.Error()))
		}
	})
	return errs
}

// autoscalerFromV1 converts to the stored version. Annotations that can be read become
// fields; others stay, for validateAutoscalerAnnotations to refuse.
func autoscalerFromV1(h *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	h = h.DeepCopy()
	out := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(h.Spec.ScaleTargetRef),
			MinReplicas:    h.Spec.MinReplicas, MaxReplicas: h.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration, LastScaleTime: h.Status.LastScaleTime,
			CurrentReplicas: h.Status.CurrentReplicas, DesiredReplicas: h.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	var content carried
	content.each(func(key string, at any, _ bool) {
		if text, ok := out.Annotations[key]; ok && json.Unmarshal([]byte(text), at) == nil {
			delete(out.Annotations, key)
		}
	})
	if len(out.Annotations) == 0 {
		out.Annotations = nil
	}
	if target := h.Spec.TargetCPUUtilizationPercentage; target != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuMetric(*target))
	}
	for i := range content.metrics {
		out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&content.metrics[i]))
	}
	out.Spec.Behavior = content.behavior
	for i := range content.current {
		out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, metricStatusFromV1(&content.current[i]))
	}
	if share := h.Status.CurrentCPUUtilizationPercentage; share != nil {
		setCPUShare(out, share)
	}
	for _, c := range content.conditions {
		out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
			Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}

// setCPUShare notes the present use of CPU, which the annotation may know in more detail.
func setCPUShare(h *autoscalingv2.HorizontalPodAutoscaler, share *int32) {
	for i := range h.Status.CurrentMetrics {
		if r := h.Status.CurrentMetrics[i].Resource; r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			r.Current.AverageUtilization = share
			return
		}
	}
	h.Status.CurrentMetrics = append([]autoscalingv2.MetricStatus{{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: share},
		},
	}}, h.Status.CurrentMetrics...)
}

// autoscalerToV1 converts from the stored version. The first metric that asks for a share
// of the requested CPU time has a field; the others go into an annotation.
func autoscalerToV1(h *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	h = h.DeepCopy()
	out := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(h.Spec.ScaleTargetRef),
			MinReplicas:    h.Spec.MinReplicas, MaxReplicas: h.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration, LastScaleTime: h.Status.LastScaleTime,
			CurrentReplicas: h.Status.CurrentReplicas, DesiredReplicas: h.Status.DesiredReplicas,
		},
	}
	out.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	content := carried{behavior: h.Spec.Behavior}
	for i := range h.Spec.Metrics {
		metric := &h.Spec.Metrics[i]
		if r := metric.Resource; out.Spec.TargetCPUUtilizationPercentage == nil && r != nil && r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil {
			out.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		content.metrics = append(content.metrics, metricToV1(metric))
	}
	for i := range h.Status.CurrentMetrics {
		metric := &h.Status.CurrentMetrics[i]
		if r := metric.Resource; out.Status.CurrentCPUUtilizationPercentage == nil && r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
		content.current = append(content.current, metricStatusToV1(metric))
	}
	for _, c := range h.Status.Conditions {
		content.conditions = append(content.conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	annotations := maps.Clone(out.Annotations)
	content.each(func(key string, value any, present bool) {
		if !present {
			return
		}
		text, err := json.Marshal(value)
		if err != nil {
			return // no type of these can fail to encode
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[key] = string(text)
	})
	out.Annotations = annotations
	return out
}

// quantity returns what a pointer of autoscaling/v2 points to: v1 has zero for none.
func quantity(q *resource.Quantity) resource.Quantity { return valueOf(q) }

// given is the reverse of quantity.
func given(q resource.Quantity) *resource.Quantity {
	if q.IsZero() {
		return nil
	}
	return &q
}

// currentValue is what autoscaling/v1 measures: a value, which may be 0, or one per pod.
func currentValue(value resource.Quantity, average *resource.Quantity) autoscalingv2.MetricValueStatus {
	if average != nil {
		return autoscalingv2.MetricValueStatus{Value: given(value), AverageValue: average}
	}
	return autoscalingv2.MetricValueStatus{Value: &value}
}

// target makes one of what autoscaling/v1 has in separate fields.
func target(value, average *resource.Quantity, utilization *int32) autoscalingv2.MetricTarget {
	out := autoscalingv2.MetricTarget{Value: value, AverageValue: average, AverageUtilization: utilization}
	switch {
	case utilization != nil:
		out.Type = autoscalingv2.UtilizationMetricType
	case average != nil:
		out.Type = autoscalingv2.AverageValueMetricType
	default:
		out.Type = autoscalingv2.ValueMetricType
	}
	return out
}

func metricFromV1(m *autoscalingv1.MetricSpec) autoscalingv2.MetricSpec {
	out := autoscalingv2.MetricSpec{Type: autoscalingv2.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		out.Object = &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
			Metric:          autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Target:          target(given(o.TargetValue), o.AverageValue, nil),
		}
	}
	if p := m.Pods; p != nil {
		out.Pods = &autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: p.MetricName, Selector: p.Selector},
			Target: target(nil, &p.TargetAverageValue, nil),
		}
	}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv2.ResourceMetricSource{Name: r.Name, Target: target(nil, r.TargetAverageValue, r.TargetAverageUtilization)}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricSource{
			Name: r.Name, Container: r.Container, Target: target(nil, r.TargetAverageValue, r.TargetAverageUtilization),
		}
	}
	if e := m.External; e != nil {
		out.External = &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: e.MetricName, Selector: e.MetricSelector},
			Target: target(e.TargetValue, e.TargetAverageValue, nil),
		}
	}
	return out
}

func metricToV1(m *autoscalingv2.MetricSpec) autoscalingv1.MetricSpec {
	out := autoscalingv1.MetricSpec{Type: autoscalingv1.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		out.Object = &autoscalingv1.ObjectMetricSource{
			Target: autoscalingv1.CrossVersionObjectReference(o.DescribedObject), MetricName: o.Metric.Name, Selector: o.Metric.Selector,
			TargetValue: quantity(o.Target.Value), AverageValue: o.Target.AverageValue,
		}
	}
	if p := m.Pods; p != nil {
		out.Pods = &autoscalingv1.PodsMetricSource{MetricName: p.Metric.Name, Selector: p.Metric.Selector, TargetAverageValue: quantity(p.Target.AverageValue)}
	}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv1.ResourceMetricSource{
			Name: r.Name, TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue,
		}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricSource{
			Name: r.Name, Container: r.Container, TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue,
		}
	}
	if e := m.External; e != nil {
		out.External = &autoscalingv1.ExternalMetricSource{
			MetricName: e.Metric.Name, MetricSelector: e.Metric.Selector, TargetValue: e.Target.Value, TargetAverageValue: e.Target.AverageValue,
		}
	}
	return out
}

func metricStatusFromV1(m *autoscalingv1.MetricStatus) autoscalingv2.MetricStatus {
	out := autoscalingv2.MetricStatus{Type: autoscalingv2.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		out.Object = &autoscalingv2.ObjectMetricStatus{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
			Metric:          autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Current:         currentValue(o.CurrentValue, o.AverageValue),
		}
	}
	if p := m.Pods; p != nil {
		out.Pods = &autoscalingv2.PodsMetricStatus{
			Metric:  autoscalingv2.MetricIdentifier{Name: p.MetricName, Selector: p.Selector},
			Current: autoscalingv2.MetricValueStatus{AverageValue: &p.CurrentAverageValue},
		}
	}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: autoscalingv2.MetricValueStatus{
			AverageValue: &r.CurrentAverageValue, AverageUtilization: r.CurrentAverageUtilization,
		}}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: autoscalingv2.MetricValueStatus{
			AverageValue: &r.CurrentAverageValue, AverageUtilization: r.CurrentAverageUtilization,
		}}
	}
	if e := m.External; e != nil {
		out.External = &autoscalingv2.ExternalMetricStatus{
			Metric:  autoscalingv2.MetricIdentifier{Name: e.MetricName, Selector: e.MetricSelector},
			Current: currentValue(e.CurrentValue, e.CurrentAverageValue),
		}
	}
	return out
}

func metricStatusToV1(m *autoscalingv2.MetricStatus) autoscalingv1.MetricStatus {
	out := autoscalingv1.MetricStatus{Type: autoscalingv1.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		out.Object = &autoscalingv1.ObjectMetricStatus{
			Target: autoscalingv1.CrossVersionObjectReference(o.DescribedObject), MetricName: o.Metric.Name, Selector: o.Metric.Selector,
			CurrentValue: quantity(o.Current.Value), AverageValue: o.Current.AverageValue,
		}
	}
	if p := m.Pods; p != nil {
		out.Pods = &autoscalingv1.PodsMetricStatus{MetricName: p.Metric.Name, Selector: p.Metric.Selector, CurrentAverageValue: quantity(p.Current.AverageValue)}
	}
	if r := m.Resource; r != nil {
		out.Resource = &autoscalingv1.ResourceMetricStatus{
			Name: r.Name, CurrentAverageUtilization: r.Current.AverageUtilization, CurrentAverageValue: quantity(r.Current.AverageValue),
		}
	}
	if r := m.ContainerResource; r != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricStatus{
			Name: r.Name, Container: r.Container, CurrentAverageUtilization: r.Current.AverageUtilization, CurrentAverageValue: quantity(r.Current.AverageValue),
		}
	}
	if e := m.External; e != nil {
		out.External = &autoscalingv1.ExternalMetricStatus{
			MetricName: e.Metric.Name, MetricSelector: e.Metric.Selector, CurrentValue: quantity(e.Current.Value), CurrentAverageValue: e.Current.AverageValue,
		}
	}
	return out
}
