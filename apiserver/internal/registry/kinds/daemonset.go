package kinds

import (
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func daemonSet() *Kind {
	kind := object.KindOf[*appsv1.DaemonSet]()
	return &Kind{
		Kind: kind, Singular: "daemonset", ShortNames: []string{"ds"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Desired", "integer", "Number of nodes that should run a pod"),
			column("Current", "integer", "Number of those that have one"), column("Ready", "integer", "Number of those whose pod is ready"),
			column("Up-to-date", "integer", "Number of nodes that have a pod of the newest template"),
			column("Available", "integer", "Number of nodes whose pod has been ready for at least minReadySeconds"),
			column("Node Selector", "string", "Labels of the nodes"), ageColumn(),
			wide("Containers", "string", "Names of the containers"), wide("Images", "string", "Images of the containers"),
			wide("Selector", "string", "Label selector of the pods"),
		},
		Row: rowOf(func(d *appsv1.DaemonSet, now time.Time) []any {
			names, images := containersAndImages(&d.Spec.Template.Spec)
			return []any{
				d.Name, int64(d.Status.DesiredNumberScheduled), int64(d.Status.CurrentNumberScheduled), int64(d.Status.NumberReady),
				int64(d.Status.UpdatedNumberScheduled), int64(d.Status.NumberAvailable), formatLabels(d.Spec.Template.Spec.NodeSelector),
				age(d.CreationTimestamp, now), names, images, formatSelector(d.Spec.Selector),
			}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(defaultDaemonSet),
		PrepareForCreate: on(func(d *appsv1.DaemonSet) {
			d.Status = appsv1.DaemonSetStatus{}
			setTemplateGeneration(d, max(templateGeneration(d), 1))
		}),
		PrepareForUpdate: onBoth(func(d, old *appsv1.DaemonSet) {
			d.Status = old.Status
			generation := templateGeneration(old)
			if !specEqual(func(d *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &d.Spec.Template })(d, old) {
				generation++
			}
			setTemplateGeneration(d, generation)
		}),
		PrepareForStatusUpdate: onBoth(func(d, old *appsv1.DaemonSet) {
			d.Spec = old.Spec
			keepStatusMetadata(&d.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual: specEqual(func(d *appsv1.DaemonSet) *appsv1.DaemonSetSpec { return &d.Spec }),
		Validate:  check(validateDaemonSet),
		ValidateUpdate: checkBoth(func(d, old *appsv1.DaemonSet) field.ErrorList {
			return validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
		}),
		ValidateStatusUpdate: checkBoth(validateDaemonSetStatus),
	}
}

// templateGeneration counts the changes of a set's template. It lives in an annotation since
// apps/v1 dropped the field, and clients still read it.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, generation int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(generation, 10)
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	spec := &d.Spec
	setDefault(&spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setDefaultPtr(&spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setDefaultPtr(&spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		setDefaultPtr(&spec.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	setDefaultPtr(&spec.RevisionHistoryLimit, 10)
	defaultPodSpec(&spec.Template.Spec)
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	path, spec := field.NewPath("spec"), &d.Spec
	errs := validateWorkloadSelector(spec.Selector, "daemonset", path.Child("selector"))
	errs = append(errs, validateWorkloadTemplate(&spec.Template, spec.Selector, "DaemonSet", path.Child("template"))...)
	errs = append(errs, nonNegative(int64(spec.MinReadySeconds), path.Child("minReadySeconds"))...)
	errs = append(errs, nonNegative(int64(valueOf(spec.RevisionHistoryLimit)), path.Child("revisionHistoryLimit"))...)
	return append(errs, validateDaemonStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
}

func validateDaemonStrategy(strategy *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch strategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, strategy.Type, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType,
		})}
	}
	at := path.Child("rollingUpdate")
	if strategy.RollingUpdate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	unavailable, surge := *strategy.RollingUpdate.MaxUnavailable, *strategy.RollingUpdate.MaxSurge
	var errs field.ErrorList
	for _, limit := range []struct {
		name  string
		value intstr.IntOrString
	}{{"maxUnavailable", unavailable}, {"maxSurge", surge}} {
		errs = append(errs, validateIntOrPercent(limit.value, at.Child(limit.name))...)
		errs = append(errs, validateAtMostAll(limit.value, at.Child(limit.name))...)
	}
	// A node's pod is either replaced after it has gone or joined by the new one.
	switch {
	case !isZero(unavailable) && !isZero(surge):
		errs = append(errs, field.Invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case isZero(unavailable) && isZero(surge):
		errs = append(errs, field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	errs := nonNegative(s.ObservedGeneration, path.Child("observedGeneration"))
	for _, count := range []replicaCount{
		{"currentNumberScheduled", s.CurrentNumberScheduled}, {"numberMisscheduled", s.NumberMisscheduled},
		{"desiredNumberScheduled", s.DesiredNumberScheduled}, {"numberReady", s.NumberReady},
		{"updatedNumberScheduled", s.UpdatedNumberScheduled}, {"numberAvailable", s.NumberAvailable},
		{"numberUnavailable", s.NumberUnavailable},
	} {
		errs = append(errs, nonNegative(int64(count.value), path.Child(count.name))...)
	}
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, path)...)
}
