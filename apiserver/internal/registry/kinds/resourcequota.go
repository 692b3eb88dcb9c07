package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func resourceQuota() *Kind {
	kind := object.KindOf[*corev1.ResourceQuota]()
	return &Kind{
		Kind: kind, Singular: "resourcequota", ShortNames: []string{"quota"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Request", "string", "Use of what may be asked for"), column("Limit", "string", "Use of what limits may add up to"), ageColumn(),
		},
		Row: rowOf(func(q *corev1.ResourceQuota, now time.Time) []any {
			var requests, limits []string
			for _, name := range sortedKeys(q.Status.Hard) {
				used, hard := q.Status.Used[name], q.Status.Hard[name]
				text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
				if strings.HasPrefix(string(name), "limits") {
					limits = append(limits, text)
				} else {
					requests = append(requests, text)
				}
			}
			return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q.CreationTimestamp, now)}
		}),
		ValidateName:     validation.NameIsDNSSubdomain,
		PrepareForCreate: on(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareForUpdate: onBoth(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(q, old *corev1.ResourceQuota) {
			q.Spec = old.Spec
			keepStatusMetadata(&q.ObjectMeta, &old.ObjectMeta, false)
		}),
		Validate: check(func(q *corev1.ResourceQuota) field.ErrorList {
			spec := field.NewPath("spec")
			errs := validateQuotaList(q.Spec.Hard, spec.Child("hard"))
			errs = append(errs, validateQuotaScopes(&q.Spec, spec.Child("scopes"))...)
			if q.Spec.ScopeSelector != nil {
				errs = append(errs, validateScopeSelector(&q.Spec, spec.Child("scopeSelector", "matchExpressions"))...)
			}
			return errs
		}),
		ValidateUpdate: checkBoth(func(q, old *corev1.ResourceQuota) field.ErrorList {
			now, before := slices.Sorted(slices.Values(q.Spec.Scopes)), slices.Sorted(slices.Values(old.Spec.Scopes))
			return validation.ValidateImmutableField(now, before, field.NewPath("spec", "scopes"))
		}),
		ValidateStatusUpdate: checkBoth(func(q, _ *corev1.ResourceQuota) field.ErrorList {
			errs := validateQuotaList(q.Status.Hard, field.NewPath("status", "hard"))
			return append(errs, validateQuotaList(q.Status.Used, field.NewPath("status", "used"))...)
		}),
	}
}

// quotaResources are the names that need no prefix, beside those of huge pages.
func quotaResources() []corev1.ResourceName {
	return slices.Concat(countedResources(), podQuotaResources(), []corev1.ResourceName{
		corev1.ResourceEphemeralStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage, corev1.ResourceRequestsStorage,
	})
}

// countedResources are numbers of objects.
func countedResources() []corev1.ResourceName {
	return []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
}

// podQuotaResources are those by which the scopes of pods can tell pods apart.
func podQuotaResources() []corev1.ResourceName {
	return []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
	}
}

// isQuotaResource tells whether a name without a prefix is one that a quota knows.
func isQuotaResource(name corev1.ResourceName) bool {
	return slices.Contains(quotaResources(), name) ||
		strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

func validateQuotaList(list corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedKeys(list) {
		at := path.Key(string(name))
		found := validateResourceName(name, at)
		if len(found) == 0 && !strings.Contains(string(name), "/") && !isQuotaResource(name) {
			found = field.ErrorList{field.Invalid(at, name, "must be a standard resource type or fully qualified")}
		}
		errs = append(errs, found...)
		errs = append(errs, validateQuotaAmount(name, list, at)...)
	}
	return errs
}

// validateQuotaAmount wants whole numbers of what can only be counted.
func validateQuotaAmount(name corev1.ResourceName, list corev1.ResourceList, at *field.Path) field.ErrorList {
	quantity := list[name]
	if quantity.Sign() < 0 {
		return field.ErrorList{field.Invalid(at, quantity.String(), validation.IsNegativeErrorMsg)}
	}
	if slices.Contains(countedResources(), name) && quantity.MilliValue()%1000 != 0 {
		return field.ErrorList{field.Invalid(at, quantity.String(), "must be an integer")}
	}
	return nil
}

func quotaScopes() []corev1.ResourceQuotaScope {
	return []corev1.ResourceQuotaScope{
		corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass,
	}
}

// scopeCovers tells whether a scope can tell objects apart that a resource counts. Of
// resources with a prefix only their owners know.
func scopeCovers(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch {
	case !isQuotaResource(name):
		return true
	case scope == corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case scope == corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return slices.Contains(podQuotaResources(), name)
}

func validateQuotaScopes(spec *corev1.ResourceQuotaSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, scope := range spec.Scopes {
		if !slices.Contains(quotaScopes(), scope) {
			errs = append(errs, field.Invalid(at, spec.Scopes, "unsupported scope"))
			continue
		}
		for _, name := range sortedKeys(spec.Hard) {
			if !scopeCovers(scope, name) {
				errs = append(errs, field.Invalid(at, spec.Scopes, "unsupported scope applied to resource"))
			}
		}
	}
	if conflictingScopes(spec.Scopes) {
		errs = append(errs, field.Invalid(at, spec.Scopes, "conflicting scopes"))
	}
	return errs
}

func conflictingScopes(scopes []corev1.ResourceQuotaScope) bool {
	both := func(a, b corev1.ResourceQuotaScope) bool {
		return slices.Contains(scopes, a) && slices.Contains(scopes, b)
	}
	return both(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) ||
		both(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating)
}

func validateScopeSelector(spec *corev1.ResourceQuotaSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var present []corev1.ResourceQuotaScope
	for i, r := range spec.ScopeSelector.MatchExpressions {
		at := path.Index(i)
		if !slices.Contains(quotaScopes(), r.ScopeName) {
			errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
		} else {
			for _, name := range sortedKeys(spec.Hard) {
				if !scopeCovers(r.ScopeName, name) {
					errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope applied to resource"))
				}
			}
		}
		valued := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
		if !valued && r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		}
		if r.Operator == corev1.ScopeSelectorOpExists {
			present = append(present, r.ScopeName)
		}
	}
	if conflictingScopes(present) {
		errs = append(errs, field.Invalid(path, present, "conflicting scopes"))
	}
	return errs
}
