package kinds

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func scaleSubresource() Subresource {
	return Subresource{Name: "scale", GVK: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Verbs: []string{"get", "patch", "update"}}
}

func deployment() *Kind {
	kind := object.KindOf[*appsv1.Deployment]()
	return &Kind{
		Kind: kind, Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{scaleSubresource(), statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Ready", "string", "Number of ready pods of the wanted ones"),
			column("Up-to-date", "string", "Number of pods of the newest template"),
			column("Available", "string", "Number of pods ready for at least minReadySeconds"), ageColumn(),
			wide("Containers", "string", "Names of the containers"), wide("Images", "string", "Images of the containers"),
			wide("Selector", "string", "Label selector of the pods"),
		},
		Row: rowOf(func(d *appsv1.Deployment, now time.Time) []any {
			names, images := containersAndImages(&d.Spec.Template.Spec)
			return []any{
				d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, valueOf(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas),
				int64(d.Status.AvailableReplicas), age(d.CreationTimestamp, now), names, images, formatSelector(d.Spec.Selector),
			}
		}),
		ValidateName:     validation.NameIsDNSSubdomain,
		Default:          on(defaultDeployment),
		PrepareForCreate: on(func(d *appsv1.Deployment) { d.Status = appsv1.DeploymentStatus{} }),
		PrepareForUpdate: onBoth(func(d, old *appsv1.Deployment) { d.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(d, old *appsv1.Deployment) {
			d.Spec = old.Spec
			keepStatusMetadata(&d.ObjectMeta, &old.ObjectMeta, false)
		}),
		// Annotations carry the revision history, so a change of them counts as well.
		SpecEqual: func(obj, old object.Object) bool {
			a, b := obj.(*appsv1.Deployment), old.(*appsv1.Deployment)
			return specEqual(func(d *appsv1.Deployment) *appsv1.DeploymentSpec { return &d.Spec })(a, b) &&
				apiequality.Semantic.DeepEqual(a.Annotations, b.Annotations)
		},
		Validate: check(validateDeployment),
		ValidateUpdate: checkBoth(func(d, old *appsv1.Deployment) field.ErrorList {
			return validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
		}),
		ValidateStatusUpdate: checkBoth(validateDeploymentStatus),
		Scale: &ScaleAccess{
			Get: func(obj object.Object) (int32, int32, string) {
				d := obj.(*appsv1.Deployment)
				return valueOf(d.Spec.Replicas), d.Status.Replicas, scaleSelector(d.Spec.Selector)
			},
			Set: func(obj object.Object, replicas int32) { obj.(*appsv1.Deployment).Spec.Replicas = &replicas },
		},
	}
}

func replicaSet() *Kind {
	kind := object.KindOf[*appsv1.ReplicaSet]()
	return &Kind{
		Kind: kind, Singular: "replicaset", ShortNames: []string{"rs"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{scaleSubresource(), statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Desired", "integer", "Number of wanted pods"), column("Current", "integer", "Number of pods"),
			column("Ready", "integer", "Number of ready pods"), ageColumn(),
			wide("Containers", "string", "Names of the containers"), wide("Images", "string", "Images of the containers"),
			wide("Selector", "string", "Label selector of the pods"),
		},
		Row: rowOf(func(r *appsv1.ReplicaSet, now time.Time) []any {
			names, images := containersAndImages(&r.Spec.Template.Spec)
			return []any{
				r.Name, int64(valueOf(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				age(r.CreationTimestamp, now), names, images, formatSelector(r.Spec.Selector),
			}
		}),
		SelectableFields: []string{"status.replicas"},
		Fields: fieldsOf(func(r *appsv1.ReplicaSet) map[string]string {
			return map[string]string{"status.replicas": fmt.Sprint(r.Status.Replicas)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(r *appsv1.ReplicaSet) {
			setDefaultPtr(&r.Spec.Replicas, 1)
			defaultPodSpec(&r.Spec.Template.Spec)
		}),
		PrepareForCreate: on(func(r *appsv1.ReplicaSet) { r.Status = appsv1.ReplicaSetStatus{} }),
		PrepareForUpdate: onBoth(func(r, old *appsv1.ReplicaSet) { r.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(r, old *appsv1.ReplicaSet) {
			r.Spec = old.Spec
			keepStatusMetadata(&r.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual: specEqual(func(r *appsv1.ReplicaSet) *appsv1.ReplicaSetSpec { return &r.Spec }),
		Validate:  check(validateReplicaSet),
		ValidateUpdate: checkBoth(func(r, old *appsv1.ReplicaSet) field.ErrorList {
			return validation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
		}),
		ValidateStatusUpdate: checkBoth(validateReplicaSetStatus),
		Scale: &ScaleAccess{
			Get: func(obj object.Object) (int32, int32, string) {
				r := obj.(*appsv1.ReplicaSet)
				return valueOf(r.Spec.Replicas), r.Status.Replicas, scaleSelector(r.Spec.Selector)
			},
			Set: func(obj object.Object, replicas int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &replicas },
		},
	}
}

func defaultDeployment(d *appsv1.Deployment) {
	spec := &d.Spec
	setDefaultPtr(&spec.Replicas, 1)
	setDefault(&spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if spec.Strategy.RollingUpdate == nil {
			spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		setDefaultPtr(&spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setDefaultPtr(&spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	setDefaultPtr(&spec.RevisionHistoryLimit, 10)
	setDefaultPtr(&spec.ProgressDeadlineSeconds, 600)
	defaultPodSpec(&spec.Template.Spec)
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	path := field.NewPath("spec")
	spec := &d.Spec
	errs := nonNegative(int64(valueOf(spec.Replicas)), path.Child("replicas"))
	errs = append(errs, validateWorkloadSelector(spec.Selector, "deployment", path.Child("selector"))...)
	errs = append(errs, validateWorkloadTemplate(&spec.Template, spec.Selector, "ReplicaSet", path.Child("template"))...)
	errs = append(errs, validateStrategy(&spec.Strategy, path.Child("strategy"))...)
	errs = append(errs, nonNegative(int64(spec.MinReadySeconds), path.Child("minReadySeconds"))...)
	if spec.RevisionHistoryLimit != nil {
		errs = append(errs, nonNegative(int64(*spec.RevisionHistoryLimit), path.Child("revisionHistoryLimit"))...)
	}
	if spec.ProgressDeadlineSeconds != nil {
		errs = append(errs, nonNegative(int64(*spec.ProgressDeadlineSeconds), path.Child("progressDeadlineSeconds"))...)
		if *spec.ProgressDeadlineSeconds <= spec.MinReadySeconds {
			errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), *spec.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateReplicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	path := field.NewPath("spec")
	errs := nonNegative(int64(valueOf(r.Spec.Replicas)), path.Child("replicas"))
	errs = append(errs, nonNegative(int64(r.Spec.MinReadySeconds), path.Child("minReadySeconds"))...)
	errs = append(errs, validateWorkloadSelector(r.Spec.Selector, "replicaset", path.Child("selector"))...)
	return append(errs, validateWorkloadTemplate(&r.Spec.Template, r.Spec.Selector, "ReplicaSet", path.Child("template"))...)
}

func validateWorkloadSelector(selector *metav1.LabelSelector, owner string, path *field.Path) field.ErrorList {
	if selector == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, path)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, selector, "empty selector is invalid for "+owner))
	}
	return errs
}

// validateWorkloadTemplate checks a template of pods that are always restarted and
// must match their owner's selector.
func validateWorkloadTemplate(template *corev1.PodTemplateSpec, selector *metav1.LabelSelector, owner string, path *field.Path) field.ErrorList {
	errs := validateTemplateLabels(template, selector, path)
	errs = append(errs, validatePodTemplate(template, path)...)
	if template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+owner+" is not Supported"))
	}
	return errs
}

// validateTemplateLabels makes sure that the owner of a template will find its pods again.
func validateTemplateLabels(template *corev1.PodTemplateSpec, selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if selector == nil || len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		return nil // reported at the selector
	}
	if parsed, err := metav1.LabelSelectorAsSelector(selector); err == nil && !parsed.Matches(labels.Set(template.Labels)) {
		return field.ErrorList{field.Invalid(path.Child("metadata", "labels"), template.Labels, "`selector` does not match template `labels`")}
	}
	return nil
}

func validateStrategy(strategy *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if strategy.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(strategy.Type)+"'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, strategy.Type, []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType,
		})}
	}
	rolling, at := strategy.RollingUpdate, path.Child("rollingUpdate")
	if rolling == nil {
		return field.ErrorList{field.Required(at, "this should be defaulted and never be nil")}
	}
	errs := validateIntOrPercent(*rolling.MaxUnavailable, at.Child("maxUnavailable"))
	errs = append(errs, validateIntOrPercent(*rolling.MaxSurge, at.Child("maxSurge"))...)
	if isZero(*rolling.MaxUnavailable) && isZero(*rolling.MaxSurge) {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), *rolling.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, validateAtMostAll(*rolling.MaxUnavailable, at.Child("maxUnavailable"))...)
}

// validateAtMostAll refuses more than 100%.
func validateAtMostAll(value intstr.IntOrString, path *field.Path) field.ErrorList {
	if percent, ok := percentOf(value); ok && percent > 100 {
		return field.ErrorList{field.Invalid(path, value, "must not be greater than 100%")}
	}
	return nil
}

func validateIntOrPercent(value intstr.IntOrString, path *field.Path) field.ErrorList {
	if value.Type == intstr.Int {
		return nonNegative(int64(value.IntVal), path)
	}
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsValidPercent(value.StrVal) {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

func percentOf(value intstr.IntOrString) (int, bool) {
	if value.Type != intstr.String || len(utilvalidation.IsValidPercent(value.StrVal)) > 0 {
		return 0, false
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(&value, 100, false)
	return n, err == nil
}

func isZero(value intstr.IntOrString) bool {
	if percent, ok := percentOf(value); ok {
		return percent == 0
	}
	return value.Type == intstr.Int && value.IntVal == 0
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	errs := nonNegative(s.ObservedGeneration, path.Child("observedGeneration"))
	errs = append(errs, validateReplicaCounts(path, s.Replicas, []replicaCount{
		{"updatedReplicas", s.UpdatedReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas},
	})...)
	errs = append(errs, nonNegative(int64(s.UnavailableReplicas), path.Child("unavailableReplicas"))...)
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, path)...)
}

// validateCollisions checks the count of hash collisions in a status, which only grows.
func validateCollisions(count, before *int32, status *field.Path) field.ErrorList {
	at := status.Child("collisionCount")
	errs := nonNegative(int64(valueOf(count)), at)
	if valueOf(count) < valueOf(before) {
		errs = append(errs, field.Invalid(at, valueOf(count), "cannot be decremented"))
	}
	return errs
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	path, s := field.NewPath("status"), &r.Status
	errs := nonNegative(s.ObservedGeneration, path.Child("observedGeneration"))
	errs = append(errs, validateReplicaCounts(path, s.Replicas, []replicaCount{
		{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas},
	})...)
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

type replicaCount struct {
	name  string
	value int32
}

func validateReplicaCounts(path *field.Path, replicas int32, parts []replicaCount) field.ErrorList {
	errs := nonNegative(int64(replicas), path.Child("replicas"))
	for _, part := range parts {
		errs = append(errs, nonNegative(int64(part.value), path.Child(part.name))...)
		if part.value > replicas {
			errs = append(errs, field.Invalid(path.Child(part.name), part.value, "cannot be greater than status.replicas"))
		}
	}
	return errs
}

func nonNegative(value int64, path *field.Path) field.ErrorList {
	return validation.ValidateNonnegativeField(value, path)
}

func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func scaleSelector(selector *metav1.LabelSelector) string {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return ""
	}
	return parsed.String()
}

func containersAndImages(spec *corev1.PodSpec) (names, images string) {
	var n, i []string
	for j := range spec.Containers {
		n, i = append(n, spec.Containers[j].Name), append(i, spec.Containers[j].Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}
