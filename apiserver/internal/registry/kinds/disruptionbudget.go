package kinds

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func disruptionBudget() *Kind {
	kind := object.KindOf[*policyv1.PodDisruptionBudget]()
	return &Kind{
		Kind: kind, Singular: "poddisruptionbudget", ShortNames: []string{"pdb"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Min Available", "string", "Number of pods that must stay available"),
			column("Max Unavailable", "string", "Number of pods that may be unavailable"),
			column("Allowed Disruptions", "integer", "Number of pods that may be evicted now"), ageColumn(),
		},
		Row: rowOf(func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
			return []any{
				b.Name, formatLimit(b.Spec.MinAvailable), formatLimit(b.Spec.MaxUnavailable),
				int64(b.Status.DisruptionsAllowed), age(b.CreationTimestamp, now),
			}
		}),
		ValidateName:     validation.NameIsDNSSubdomain,
		PrepareForCreate: on(func(b *policyv1.PodDisruptionBudget) { b.Status = policyv1.PodDisruptionBudgetStatus{} }),
		PrepareForUpdate: onBoth(func(b, old *policyv1.PodDisruptionBudget) { b.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(b, old *policyv1.PodDisruptionBudget) {
			b.Spec = old.Spec
			keepStatusMetadata(&b.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual:            specEqual(func(b *policyv1.PodDisruptionBudget) *policyv1.PodDisruptionBudgetSpec { return &b.Spec }),
		Validate:             check(validateDisruptionBudget),
		ValidateStatusUpdate: checkBoth(validateDisruptionBudgetStatus),
	}
}

func formatLimit(limit *intstr.IntOrString) string {
	if limit == nil {
		return "N/A"
	}
	return limit.String()
}

func validateDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	path, spec := field.NewPath("spec"), &b.Spec
	var errs field.ErrorList
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, limit := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", spec.MinAvailable}, {"maxUnavailable", spec.MaxUnavailable}} {
		if limit.value != nil {
			errs = append(errs, validateIntOrPercent(*limit.value, path.Child(limit.name))...)
			errs = append(errs, validateAtMostAll(*limit.value, path.Child(limit.name))...)
		}
	}
	errs = append(errs, metavalidation.ValidateLabelSelector(spec.Selector, metavalidation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
	if policy := spec.UnhealthyPodEvictionPolicy; policy != nil && *policy != policyv1.IfHealthyBudget && *policy != policyv1.AlwaysAllow {
		errs = append(errs, field.NotSupported(path.Child("unhealthyPodEvictionPolicy"), *policy, []policyv1.UnhealthyPodEvictionPolicyType{
			policyv1.AlwaysAllow, policyv1.IfHealthyBudget,
		}))
	}
	return errs
}

func validateDisruptionBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	path, s := field.NewPath("status"), &b.Status
	errs := metavalidation.ValidateConditions(s.Conditions, path.Child("conditions"))
	for _, count := range []replicaCount{
		{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods},
	} {
		errs = append(errs, nonNegative(int64(count.value), path.Child(count.name))...)
	}
	return errs
}
