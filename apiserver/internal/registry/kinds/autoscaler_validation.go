package kinds

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Longest times of scaling rules, in seconds.
const (
	maxScalingPeriod       = 1800
	maxStabilizationWindow = 3600
)

func validateAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	path, spec := field.NewPath("spec"), &h.Spec
	var errs field.ErrorList
	if spec.MinReplicas != nil && *spec.MinReplicas < 1 {
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *spec.MinReplicas, "must be greater than or equal to 1"))
	}
	if spec.MaxReplicas < 1 {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), spec.MaxReplicas, "must be greater than 0"))
	}
	if spec.MinReplicas != nil && spec.MaxReplicas < *spec.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateScaled(spec.ScaleTargetRef, path.Child("scaleTargetRef"))...)
	for i := range spec.Metrics {
		errs = append(errs, validateMetric(&spec.Metrics[i], path.Child("metrics").Index(i))...)
	}
	if spec.Behavior != nil {
		errs = append(errs, validateScalingRules(spec.Behavior.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateScalingRules(spec.Behavior.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func validateScaled(ref autoscalingv2.CrossVersionObjectReference, path *field.Path) field.ErrorList {
	errs := validateSegment(ref.Kind, "", path.Child("kind"))
	return append(errs, validateSegment(ref.Name, "", path.Child("name"))...)
}

// validateSegment checks what becomes part of a URL's path.
func validateSegment(value, missing string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, missing)}
	}
	var errs field.ErrorList
	for _, msg := range content.IsPathSegmentName(value) {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

// validateMetric checks the one source that a metric's type names.
func validateMetric(m *autoscalingv2.MetricSpec, path *field.Path) field.ErrorList {
	sources := []struct {
		kind  autoscalingv2.MetricSourceType
		name  string
		given bool
		check func(path *field.Path) field.ErrorList
	}{
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(p *field.Path) field.ErrorList {
			return validateContainerMetric(m.ContainerResource, p)
		}},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(p *field.Path) field.ErrorList { return validateExternalMetric(m.External, p) }},
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(p *field.Path) field.ErrorList { return validateObjectMetric(m.Object, p) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(p *field.Path) field.ErrorList { return validatePodsMetric(m.Pods, p) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(p *field.Path) field.ErrorList {
			return validateResourceMetric(string(m.Resource.Name), &m.Resource.Target, p)
		}},
	}
	var errs field.ErrorList
	var known []autoscalingv2.MetricSourceType
	named := false
	for _, source := range sources {
		known = append(known, source.kind)
		named = named || m.Type == source.kind
		switch {
		case m.Type == source.kind && !source.given:
			errs = append(errs, field.Required(path.Child(source.name), "must populate information for the given metric source"))
		case m.Type != source.kind && source.given:
			errs = append(errs, field.Forbidden(path.Child(source.name), "must populate the given metric source only"))
		case source.given:
			errs = append(errs, source.check(path.Child(source.name))...)
		}
	}
	switch {
	case m.Type == "":
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	case !named:
		errs = append(errs, field.NotSupported(path.Child("type"), m.Type, known))
	}
	return errs
}

const (
	noTarget     = "must set either a target raw value or a target utilization"
	twoTargets   = "may not set both a target raw value and a target utilization"
	noMetricName = "must specify a metric name"
)

func validateResourceMetric(name string, target *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	}
	at := path.Child("target")
	errs = append(errs, validateMetricTarget(target, at)...)
	switch {
	case target.AverageUtilization == nil && target.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("averageUtilization"), noTarget))
	case target.AverageUtilization != nil && target.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("averageValue"), twoTargets))
	}
	return errs
}

func validateContainerMetric(m *autoscalingv2.ContainerResourceMetricSource, path *field.Path) field.ErrorList {
	errs := validateResourceMetric(string(m.Name), &m.Target, path)
	if m.Name != "" {
		for _, err := range validateContainerResourceName(m.Name, path) {
			err.Field = path.Child("name").String()
			errs = append(errs, err)
		}
	}
	if m.Container == "" {
		return append(errs, field.Required(path.Child("container"), "must specify a container"))
	}
	for _, msg := range utilvalidation.IsDNS1123Label(m.Container) {
		errs = append(errs, field.Invalid(path.Child("container"), m.Container, msg))
	}
	return errs
}

func validateObjectMetric(m *autoscalingv2.ObjectMetricSource, path *field.Path) field.ErrorList {
	errs := validateScaled(m.DescribedObject, path.Child("describedObject"))
	errs = append(errs, validateMetricIdentifier(&m.Metric, path.Child("metric"))...)
	errs = append(errs, validateMetricTarget(&m.Target, path.Child("target"))...)
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternalMetric(m *autoscalingv2.ExternalMetricSource, path *field.Path) field.ErrorList {
	errs := validateMetricIdentifier(&m.Metric, path.Child("metric"))
	errs = append(errs, validateMetricTarget(&m.Target, path.Child("target"))...)
	switch {
	case m.Target.Value == nil && m.Target.AverageValue == nil:
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case m.Target.Value != nil && m.Target.AverageValue != nil:
		errs = append(errs, field.Forbidden(path.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePodsMetric(m *autoscalingv2.PodsMetricSource, path *field.Path) field.ErrorList {
	errs := validateMetricIdentifier(&m.Metric, path.Child("metric"))
	errs = append(errs, validateMetricTarget(&m.Target, path.Child("target"))...)
	if m.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateMetricIdentifier(id *autoscalingv2.MetricIdentifier, path *field.Path) field.ErrorList {
	errs := validateSegment(id.Name, noMetricName, path.Child("name"))
	return append(errs, metavalidation.ValidateLabelSelector(id.Selector, metavalidation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
}

func validateMetricTarget(t *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	case "":
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	default:
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("value"), t.Value.String(), "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("averageValue"), t.AverageValue.String(), "must be positive"))
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

func validateScalingRules(rules *autoscalingv2.HPAScalingRules, path *field.Path) field.ErrorList {
	if rules == nil {
		return nil
	}
	var errs field.ErrorList
	if window := rules.StabilizationWindowSeconds; window != nil {
		at := path.Child("stabilizationWindowSeconds")
		switch {
		case *window < 0:
			errs = append(errs, field.Invalid(at, *window, "must be greater than or equal to zero"))
		case *window > maxStabilizationWindow:
			errs = append(errs, field.Invalid(at, *window, fmt.Sprintf("must be less than or equal to %d", maxStabilizationWindow)))
		}
	}
	switch policy := valueOf(rules.SelectPolicy); policy {
	case "", autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect:
	default:
		errs = append(errs, field.NotSupported(path.Child("selectPolicy"), policy, []autoscalingv2.ScalingPolicySelect{
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect,
		}))
	}
	if rules.Tolerance != nil && rules.Tolerance.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), rules.Tolerance.String(), "must be greater than or equal to 0"))
	}
	policies := path.Child("policies")
	if len(rules.Policies) == 0 {
		errs = append(errs, field.Required(policies, "must specify at least one Policy"))
	}
	for i, policy := range rules.Policies {
		at := policies.Index(i)
		if policy.Type != autoscalingv2.PodsScalingPolicy && policy.Type != autoscalingv2.PercentScalingPolicy {
			errs = append(errs, field.NotSupported(at.Child("type"), policy.Type, []autoscalingv2.HPAScalingPolicyType{
				autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy,
			}))
		}
		if policy.Value <= 0 {
			errs = append(errs, field.Invalid(at.Child("value"), policy.Value, "must be greater than zero"))
		}
		switch {
		case policy.PeriodSeconds <= 0:
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero"))
		case policy.PeriodSeconds > maxScalingPeriod:
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxScalingPeriod)))
		}
	}
	return errs
}

func validateAutoscalerStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	path := field.NewPath("status")
	errs := nonNegative(int64(h.Status.CurrentReplicas), path.Child("currentReplicas"))
	return append(errs, nonNegative(int64(h.Status.DesiredReplicas), path.Child("desiredReplicas"))...)
}
