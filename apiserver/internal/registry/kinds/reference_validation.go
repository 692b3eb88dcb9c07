package kinds

import (
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How objects refer to others, by name or by labels, is checked in the same way everywhere.

// validateSubdomain checks the name of an object that is referred to; an empty one passes.
func validateSubdomain(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return nil
	}
	return messages(validation.NameIsDNSSubdomain(name, false), name, at)
}

// validateNamespaceReference checks the name of a namespace; an empty one passes.
func validateNamespaceReference(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return nil
	}
	return messages(validation.ValidateNamespaceName(name, false), name, at)
}

// messages makes an error of each message about a value.
func messages(list []string, value any, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range list {
		errs = append(errs, field.Invalid(at, value, msg))
	}
	return errs
}

// validateTypedReference checks a reference to an object of any kind.
func validateTypedReference(group *string, kind, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if group != nil {
		errs = append(errs, messages(utilvalidation.IsDNS1123Subdomain(*group), *group, at.Child("apiGroup"))...)
	}
	return append(errs, validatePathSegments(at, segmentField{"kind", kind, true}, segmentField{"name", name, true})...)
}

// validatePathSegmentName is for kinds that take any name that can stand in a URL.
func validatePathSegmentName(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// segmentField is a field whose value stands in a URL.
type segmentField struct {
	name, value string
	required    bool
}

func validatePathSegments(at *field.Path, fields ...segmentField) field.ErrorList {
	var errs field.ErrorList
	for _, f := range fields {
		if f.value == "" {
			if f.required {
				errs = append(errs, field.Required(at.Child(f.name), ""))
			}
			continue
		}
		errs = append(errs, messages(content.IsPathSegmentName(f.value), f.value, at.Child(f.name))...)
	}
	return errs
}

func validateSelector(selector *metav1.LabelSelector, at *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, at)
}
