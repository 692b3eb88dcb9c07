package kinds

import (
	"fmt"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// Autoscalers are stored once, as autoscaling/v2; autoscaling/v1 shows the same objects.
func autoscaler() *Kind {
	kind := object.KindOf[*autoscalingv2.HorizontalPodAutoscaler]()
	return &Kind{
		Kind: kind, Singular: "horizontalpodautoscaler", ShortNames: []string{"hpa"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources:           []Subresource{statusSubresource(kind)},
		Columns:                autoscalerColumns(),
		Row:                    rowOf(autoscalerRow),
		ValidateName:           validation.NameIsDNSSubdomain,
		Default:                on(defaultAutoscaler),
		PrepareForCreate:       on(resetAutoscalerStatus),
		PrepareForUpdate:       onBoth(keepAutoscalerStatus),
		PrepareForStatusUpdate: onBoth(keepAutoscalerSpec),
		Validate:               check(validateAutoscaler),
		ValidateStatusUpdate:   checkBoth(validateAutoscalerStatus),
	}
}

// oldAutoscaler is the view of autoscaling/v1. What it has no fields for, its objects carry
// in annotations; see autoscalerFromV1. Its rules are those of the stored kind, which is
// also where the fields named in errors are.
func oldAutoscaler(stored *Kind) *Kind {
	kind := object.KindOf[*autoscalingv1.HorizontalPodAutoscaler]()
	change := func(h *autoscalingv1.HorizontalPodAutoscaler, f func(*autoscalingv2.HorizontalPodAutoscaler)) {
		current := autoscalerFromV1(h)
		f(current)
		*h = *autoscalerToV1(current)
	}
	changeBoth := func(f func(h, old *autoscalingv2.HorizontalPodAutoscaler)) func(obj, old object.Object) {
		return onBoth(func(h, old *autoscalingv1.HorizontalPodAutoscaler) {
			change(h, func(current *autoscalingv2.HorizontalPodAutoscaler) { f(current, autoscalerFromV1(old)) })
		})
	}
	return &Kind{
		Kind: kind, Singular: stored.Singular, ShortNames: stored.ShortNames, Categories: stored.Categories, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		StoredAs:     stored,
		ToStored: func(obj object.Object) object.Object {
			return autoscalerFromV1(obj.(*autoscalingv1.HorizontalPodAutoscaler))
		},
		FromStored: func(obj object.Object) object.Object {
			return autoscalerToV1(obj.(*autoscalingv2.HorizontalPodAutoscaler))
		},
		Columns: autoscalerColumns(),
		Row: rowOf(func(h *autoscalingv1.HorizontalPodAutoscaler, now time.Time) []any {
			return autoscalerRow(autoscalerFromV1(h), now)
		}),
		ValidateName:           stored.ValidateName,
		Default:                on(func(h *autoscalingv1.HorizontalPodAutoscaler) { change(h, defaultAutoscaler) }),
		PrepareForCreate:       on(func(h *autoscalingv1.HorizontalPodAutoscaler) { change(h, resetAutoscalerStatus) }),
		PrepareForUpdate:       changeBoth(keepAutoscalerStatus),
		PrepareForStatusUpdate: changeBoth(keepAutoscalerSpec),
		Validate: check(func(h *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
			return append(validateAutoscalerAnnotations(h), validateAutoscaler(autoscalerFromV1(h))...)
		}),
		ValidateStatusUpdate: checkBoth(func(h, old *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
			return validateAutoscalerStatus(autoscalerFromV1(h), autoscalerFromV1(old))
		}),
	}
}

func resetAutoscalerStatus(h *autoscalingv2.HorizontalPodAutoscaler) {
	h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
}

func keepAutoscalerStatus(h, old *autoscalingv2.HorizontalPodAutoscaler) { h.Status = old.Status }

func keepAutoscalerSpec(h, old *autoscalingv2.HorizontalPodAutoscaler) {
	h.Spec = old.Spec
	keepStatusMetadata(&h.ObjectMeta, &old.ObjectMeta, false)
}

// defaultUtilization of the requested CPU time is aimed at when no metric is named.
const defaultUtilization = 80

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	setDefaultPtr(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultUtilization)}
	}
	if behavior := h.Spec.Behavior; behavior != nil {
		behavior.ScaleUp = defaultScalingRules(behavior.ScaleUp, autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: ptr[int32](0),
			Policies: []autoscalingv2.HPAScalingPolicy{
				{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
				{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
			},
		})
		// How long to wait before scaling down is the controller's to choose.
		behavior.ScaleDown = defaultScalingRules(behavior.ScaleDown, autoscalingv2.HPAScalingRules{
			Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}},
		})
	}
}

// defaultScalingRules completes rules (nil for none given) from those that hold otherwise.
func defaultScalingRules(rules *autoscalingv2.HPAScalingRules, otherwise autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	if rules == nil {
		rules = &autoscalingv2.HPAScalingRules{}
	}
	setDefaultPtr(&rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if rules.StabilizationWindowSeconds == nil {
		rules.StabilizationWindowSeconds = otherwise.StabilizationWindowSeconds
	}
	if rules.Policies == nil {
		rules.Policies = otherwise.Policies
	}
	return rules
}

func cpuMetric(utilization int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name:   corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &utilization},
	}}
}

func autoscalerColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(), column("Reference", "string", "What is scaled"), column("Targets", "string", "Metrics as they are and as they should be"),
		column("MinPods", "string", "Least number of pods"), column("MaxPods", "integer", "Greatest number of pods"),
		column("Replicas", "integer", "Number of pods"), ageColumn(),
	}
}

func autoscalerRow(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
	least := "<unset>"
	if h.Spec.MinReplicas != nil {
		least = fmt.Sprint(*h.Spec.MinReplicas)
	}
	return []any{
		h.Name, h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name, formatMetrics(h.Spec.Metrics, h.Status.CurrentMetrics),
		least, int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), age(h.CreationTimestamp, now),
	}
}

// shownMetrics is how many metrics fit into a column.
const shownMetrics = 2

func formatMetrics(metrics []autoscalingv2.MetricSpec, current []autoscalingv2.MetricStatus) string {
	if len(metrics) == 0 {
		return "<none>"
	}
	var shown []string
	for i := range metrics[:min(len(metrics), shownMetrics)] {
		var status autoscalingv2.MetricStatus
		if i < len(current) {
			status = current[i]
		}
		shown = append(shown, formatMetric(&metrics[i], &status))
	}
	text := strings.Join(shown, ", ")
	if more := len(metrics) - len(shown); more > 0 {
		text += fmt.Sprintf(" + %d more...", more)
	}
	return text
}

func formatMetric(metric *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	var target autoscalingv2.MetricTarget
	var now autoscalingv2.MetricValueStatus
	prefix, perPod := "", " (avg)"
	switch {
	case metric.External != nil:
		target = metric.External.Target
		if status.External != nil {
			now = status.External.Current
		}
	case metric.Object != nil:
		target = metric.Object.Target
		if status.Object != nil {
			now = status.Object.Current
		}
	case metric.Pods != nil:
		target, perPod = metric.Pods.Target, ""
		if status.Pods != nil {
			now = status.Pods.Current
		}
	case metric.Resource != nil:
		target, prefix, perPod = metric.Resource.Target, string(metric.Resource.Name)+": ", ""
		if status.Resource != nil {
			now = status.Resource.Current
		}
	case metric.ContainerResource != nil:
		target, prefix, perPod = metric.ContainerResource.Target, string(metric.ContainerResource.Name)+": ", ""
		if status.ContainerResource != nil {
			now = status.ContainerResource.Current
		}
	default:
		return "<unknown type>"
	}
	switch {
	case target.AverageValue != nil:
		return prefix + formatQuantity(now.AverageValue) + "/" + target.AverageValue.String() + perPod
	case prefix != "": // a share of what the pods request
		return prefix + formatShare(now.AverageUtilization, "<unknown>") + "/" + formatShare(target.AverageUtilization, "<auto>")
	}
	return formatQuantity(now.Value) + "/" + formatQuantity(target.Value)
}

func formatQuantity(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}

func formatShare(percent *int32, otherwise string) string {
	if percent == nil {
		return otherwise
	}
	return fmt.Sprintf("%d%%", *percent)
}
