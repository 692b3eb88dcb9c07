package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePodUpdate allows what a running pod can follow, and refuses the rest of the spec.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(spec.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	if before, after := old.Spec.ActiveDeadlineSeconds, p.Spec.ActiveDeadlineSeconds; before != nil {
		switch {
		case after == nil:
			errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), after, "must not update from a positive integer to nil value"))
		case *after > *before:
			errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), *after, "must be less than or equal to previous value"))
		}
	}
	for i := range old.Spec.Tolerations {
		if !slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return sameToleration(&t, &old.Spec.Tolerations[i]) }) {
			errs = append(errs, field.Forbidden(spec.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
			break
		}
	}
	for _, gate := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, gate) {
			errs = append(errs, field.Forbidden(spec.Child("schedulingGates"), "only deletion is allowed, but found new scheduling gate '"+gate.Name+"'"))
		}
	}
	// What is left once the allowed changes are undone must be the old spec.
	rest := p.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds, rest.Tolerations, rest.SchedulingGates = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations, old.Spec.SchedulingGates
	if grace := old.Spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 && valueOf(rest.TerminationGracePeriodSeconds) == 1 {
		rest.TerminationGracePeriodSeconds = grace
	}
	if len(old.Spec.SchedulingGates) > 0 {
		// A gated pod has no node yet: whatever directs it to one may still change.
		rest.NodeSelector, rest.Affinity = old.Spec.NodeSelector, old.Spec.Affinity
	}
	same := specEqual(func(p *corev1.Pod) *corev1.PodSpec { return &p.Spec })
	if !same(&corev1.Pod{Spec: *rest}, &corev1.Pod{Spec: old.Spec}) {
		errs = append(errs, field.Forbidden(spec, "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"))
	}
	return errs
}

// sameToleration compares all but the seconds, which may change.
func sameToleration(a, b *corev1.Toleration) bool {
	return a.Key == b.Key && a.Operator == b.Operator && a.Value == b.Value && a.Effect == b.Effect
}

func validatePodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	status := field.NewPath("status")
	var errs field.ErrorList
	if name := p.Status.NominatedNodeName; name != "" {
		for _, msg := range validation.NameIsDNSSubdomain(name, false) {
			errs = append(errs, field.Invalid(status.Child("nominatedNodeName"), name, msg))
		}
	}
	if old.Status.QOSClass != "" && p.Status.QOSClass != old.Status.QOSClass {
		errs = append(errs, field.Invalid(status.Child("qosClass"), p.Status.QOSClass, validation.FieldImmutableErrorMsg))
	}
	seen := map[corev1.PodConditionType]bool{}
	for i, condition := range p.Status.Conditions {
		for _, msg := range utilvalidation.IsQualifiedName(string(condition.Type)) {
			errs = append(errs, field.Invalid(status.Child("conditions").Index(i).Child("type"), condition.Type, msg))
		}
		if seen[condition.Type] {
			errs = append(errs, field.Duplicate(status.Child("conditions").Index(i).Child("type"), condition.Type))
		}
		seen[condition.Type] = true
	}
	for i, ip := range p.Status.PodIPs {
		errs = append(errs, utilvalidation.IsValidIPForLegacyField(status.Child("podIPs").Index(i), ip.IP, false, nil)...)
	}
	// A container of a pod that is not to restart does not come back.
	if p.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, validateNoRevival(p.Status.ContainerStatuses, old.Status.ContainerStatuses, p.Spec.RestartPolicy, status.Child("containerStatuses"))...)
	}
	return errs
}

func validateNoRevival(now, before []corev1.ContainerStatus, policy corev1.RestartPolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range before {
		was := before[i].State.Terminated
		if was == nil || policy == corev1.RestartPolicyOnFailure && was.ExitCode != 0 {
			continue
		}
		for j := range now {
			if now[j].Name == before[i].Name && now[j].State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(j).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}
