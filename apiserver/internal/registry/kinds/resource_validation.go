package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateResources checks what a container asks for and may use.
func validateResources(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	if len(r.Limits) == 0 && len(r.Requests) == 0 && len(r.Claims) == 0 {
		return nil
	}
	var errs field.ErrorList
	for _, name := range sortedKeys(r.Limits) {
		quantity := r.Limits[name]
		where := at.Child("limits").Key(string(name))
		errs = append(errs, validateContainerResourceName(name, at.Child("limits"))...)
		errs = append(errs, validateQuantity(name, quantity, where)...)
	}
	for _, name := range sortedKeys(r.Requests) {
		quantity := r.Requests[name]
		where := at.Child("requests").Key(string(name))
		errs = append(errs, validateContainerResourceName(name, at.Child("requests"))...)
		errs = append(errs, validateQuantity(name, quantity, where)...)
		limit, limited := r.Limits[name]
		switch {
		case limited && overcommits(name) && quantity.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(at.Child("requests"), quantity.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case limited && !overcommits(name) && quantity.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(at.Child("requests"), quantity.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case !limited && !overcommits(name):
			errs = append(errs, field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		}
	}
	return errs
}

// overcommits tells whether more of a resource may be promised than there is: true for the native ones.
func overcommits(name corev1.ResourceName) bool {
	return isNativeResource(name) && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func isNativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

func validateContainerResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return nil // what is almost always there
	}
	where := at.Key(string(name))
	errs := validateResourceName(name, where)
	if len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(name), "/") {
		switch {
		case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		default:
			return field.ErrorList{field.Invalid(where, name, "must be a standard resource for containers")}
		}
	}
	return nil
}

func validateResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsQualifiedName(string(name)) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	return errs
}

func validateQuantity(name corev1.ResourceName, quantity resource.Quantity, at *field.Path) field.ErrorList {
	if quantity.Sign() < 0 {
		return field.ErrorList{field.Invalid(at, quantity.String(), validation.IsNegativeErrorMsg)}
	}
	fractional := name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || name == corev1.ResourceStorage
	if !fractional && quantity.MilliValue()%1000 != 0 {
		return field.ErrorList{field.Invalid(at, quantity.String(), "must be an integer")}
	}
	return nil
}

func validateResourceList(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedKeys(list) {
		errs = append(errs, validateResourceName(name, at.Key(string(name)))...)
		errs = append(errs, validateQuantity(name, list[name], at.Key(string(name)))...)
	}
	return errs
}
