package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func limitRange() *Kind {
	return &Kind{
		Kind: object.KindOf[*corev1.LimitRange](), Singular: "limitrange", ShortNames: []string{"limits"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("Created At", "string", "When the object was created")},
		Row: rowOf(func(l *corev1.LimitRange, _ time.Time) []any {
			return []any{l.Name, l.CreationTimestamp.UTC().Format(time.RFC3339)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(l *corev1.LimitRange) {
			for i := range l.Spec.Limits {
				if item := &l.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
					// Without a default limit the maximum is one; what is asked for follows the
					// default limit, or else the minimum.
					item.Default = fillResources(item.Default, item.Max)
					item.DefaultRequest = fillResources(item.DefaultRequest, item.Default)
					item.DefaultRequest = fillResources(item.DefaultRequest, item.Min)
				}
			}
		}),
		Validate: check(validateLimitRange),
	}
}

// fillResources adds what a list lacks from another one.
func fillResources(list, from corev1.ResourceList) corev1.ResourceList {
	for name, quantity := range from {
		if _, ok := list[name]; ok {
			continue
		}
		if list == nil {
			list = corev1.ResourceList{}
		}
		list[name] = quantity.DeepCopy()
	}
	return list
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(item.Type, at.Child("type"))...)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		errs = append(errs, validateLimitItem(item, at)...)
	}
	return errs
}

func validateLimitType(kind corev1.LimitType, at *field.Path) field.ErrorList {
	errs := messages(utilvalidation.IsQualifiedName(string(kind)), kind, at)
	if len(errs) > 0 || strings.Contains(string(kind), "/") {
		return errs
	}
	switch kind {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	return field.ErrorList{field.Invalid(at, kind, "must be a standard limit type or fully qualified")}
}

func validateLimitItem(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := corev1.ResourceList{}
	for _, part := range []struct {
		field string
		list  corev1.ResourceList
	}{{"max", item.Max}, {"min", item.Min}, {"default", item.Default}, {"defaultRequest", item.DefaultRequest}, {"maxLimitRequestRatio", item.MaxLimitRequestRatio}} {
		if len(part.list) == 0 {
			continue
		}
		where := at.Child(part.field)
		if item.Type == corev1.LimitTypePod && (part.field == "default" || part.field == "defaultRequest") {
			errs = append(errs, field.Forbidden(where, "may not be specified when `type` is 'Pod'"))
			continue
		}
		for _, name := range sortedKeys(part.list) {
			if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
				errs = append(errs, validateContainerResourceName(name, where)...)
			} else {
				errs = append(errs, validateResourceName(name, where.Key(string(name)))...)
			}
			if quantity := part.list[name]; quantity.Sign() < 0 {
				errs = append(errs, field.Invalid(where.Key(string(name)), quantity.String(), validation.IsNegativeErrorMsg))
			}
			names[name] = part.list[name]
		}
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, least := item.Min[corev1.ResourceStorage]
		_, most := item.Max[corev1.ResourceStorage]
		if !least && !most {
			errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	for _, name := range sortedKeys(names) {
		errs = append(errs, validateLimitOrder(item, name, at)...)
	}
	return errs
}

// validateLimitOrder checks that min <= defaultRequest <= default <= max for one resource.
func validateLimitOrder(item *corev1.LimitRangeItem, name corev1.ResourceName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	key := string(name)
	type value struct {
		field, text string
		list        corev1.ResourceList
	}
	least, request := value{"min", "min", item.Min}, value{"defaultRequest", "default request", item.DefaultRequest}
	limit, most := value{"default", "default", item.Default}, value{"max", "max", item.Max}
	pairs := []struct {
		low, high value
		reported  string
	}{
		{least, most, "min"}, {least, request, "defaultRequest"}, {request, most, "defaultRequest"}, {request, limit, "defaultRequest"},
		{least, limit, "default"}, {limit, most, "default"},
	}
	for _, pair := range pairs {
		low, okLow := pair.low.list[name]
		high, okHigh := pair.high.list[name]
		if !okLow || !okHigh || low.Cmp(high) <= 0 {
			continue
		}
		text := fmt.Sprintf("%s value %s is greater than %s value %s", pair.low.text, low.String(), pair.high.text, high.String())
		given := low
		if pair.reported == pair.high.field {
			given, text = high, fmt.Sprintf("%s value %s is less than %s value %s", pair.high.text, high.String(), pair.low.text, low.String())
		}
		errs = append(errs, field.Invalid(at.Child(pair.reported).Key(key), given.String(), text))
	}
	if ratio, ok := item.MaxLimitRequestRatio[name]; ok {
		errs = append(errs, validateLimitRatio(item, name, ratio, at.Child("maxLimitRequestRatio").Key(key))...)
	}
	asked, okAsked := item.DefaultRequest[name]
	ceiling, okMost := item.Default[name]
	if item.Type == corev1.LimitTypeContainer && !overcommits(name) && okAsked && okMost && asked.Cmp(ceiling) != 0 {
		errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(key), asked.String(),
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", ceiling.String(), asked.String(), name)))
	}
	return errs
}

func validateLimitRatio(item *corev1.LimitRangeItem, name corev1.ResourceName, ratio resource.Quantity, at *field.Path) field.ErrorList {
	if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
		return field.ErrorList{field.Invalid(at, ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String()))}
	}
	least, okLeast := item.Min[name]
	most, okMost := item.Max[name]
	if !okLeast || !okMost || least.Sign() <= 0 {
		return nil
	}
	if bound := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > bound {
		return field.ErrorList{field.Invalid(at, ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), bound))}
	}
	return nil
}
