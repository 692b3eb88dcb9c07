package kinds

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxMatchConditions = 64
	everything         = "*"
)

func allOperations() []admissionregistrationv1.OperationType {
	return []admissionregistrationv1.OperationType{
		admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create,
		admissionregistrationv1.Delete, admissionregistrationv1.Update,
	}
}

// validateAdmissionRule checks which operations on which resources a rule is about.
func validateAdmissionRule(rule *admissionregistrationv1.RuleWithOperations, allowed []admissionregistrationv1.OperationType, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	operations := at.Child("operations")
	if len(rule.Operations) == 0 {
		errs = append(errs, field.Required(operations, ""))
	}
	if len(rule.Operations) > 1 && slices.Contains(rule.Operations, admissionregistrationv1.OperationAll) {
		errs = append(errs, field.Invalid(operations, rule.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, operation := range rule.Operations {
		if !slices.Contains(allowed, operation) {
			errs = append(errs, field.NotSupported(operations.Index(i), operation, allowed))
		}
	}
	errs = append(errs, validateWildcardList(rule.APIGroups, "API groups", true, at.Child("apiGroups"))...)
	errs = append(errs, validateWildcardList(rule.APIVersions, "API versions", false, at.Child("apiVersions"))...)
	errs = append(errs, validateRuleResources(rule.Resources, at.Child("resources"))...)
	if rule.Scope != nil {
		switch *rule.Scope {
		case admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope, admissionregistrationv1.AllScopes:
		default:
			errs = append(errs, field.NotSupported(at.Child("scope"), *rule.Scope, []admissionregistrationv1.ScopeType{
				admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope,
			}))
		}
	}
	return errs
}

// validateWildcardList checks a list that holds "*" alone or not at all. The core group's name
// is empty, so emptyAllowed for groups.
func validateWildcardList(list []string, what string, emptyAllowed bool, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(list) > 1 && slices.Contains(list, everything) {
		errs = append(errs, field.Invalid(at, list, "if '*' is present, must not specify other "+what))
	}
	for i, entry := range list {
		if entry == "" && !emptyAllowed {
			errs = append(errs, field.Required(at.Index(i), ""))
		}
	}
	return errs
}

// validateRuleResources refuses resources that a wildcard of the same list covers.
func validateRuleResources(resources []string, at *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(at, resources, "if '*/*' is present, must not specify other resources"))
	}
	whole, subresources := map[string]bool{}, map[string]bool{} // of which all subresources, or of which name on all
	for i, entry := range resources {
		resource, sub, nested := strings.Cut(entry, "/")
		switch {
		case entry == "":
			errs = append(errs, field.Required(at.Index(i), ""))
		case entry == "*/*":
		case nested && sub == "*":
			whole[resource] = true
		case nested && resource == "*":
			subresources[sub] = true
		}
	}
	plain := 0
	for i, entry := range resources {
		resource, sub, nested := strings.Cut(entry, "/")
		switch {
		case entry == "":
		case !nested:
			plain++
		case sub != "*" && whole[resource]:
			errs = append(errs, field.Invalid(at.Index(i), entry, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, entry)))
		case resource != "*" && subresources[sub]:
			errs = append(errs, field.Invalid(at.Index(i), entry, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, entry)))
		}
	}
	if plain > 1 && slices.Contains(resources, everything) {
		errs = append(errs, field.Invalid(at, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// validateMatchConditions checks conditions in CEL as far as it can be done without compiling them.
func validateMatchConditions(conditions []admissionregistrationv1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(conditions); n > maxMatchConditions {
		errs = append(errs, field.TooMany(path, n, maxMatchConditions))
	}
	names := map[string]bool{}
	for i, condition := range conditions {
		at := path.Index(i)
		errs = append(errs, validateExpression(condition.Expression, "", at.Child("expression"))...)
		if condition.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, messages(utilvalidation.IsQualifiedName(condition.Name), condition.Name, at.Child("name"))...)
		if names[condition.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), condition.Name))
		}
		names[condition.Name] = true
	}
	return errs
}

// validateExpression checks that there is a CEL expression; whether it compiles, who evaluates
// it finds out. detail explains a missing one.
func validateExpression(expression, detail string, at *field.Path) field.ErrorList {
	if strings.TrimSpace(expression) == "" {
		return field.ErrorList{field.Required(at, detail)}
	}
	return nil
}

// defaultMatchResources fills in what matches everything.
func defaultMatchResources(match *admissionregistrationv1.MatchResources) {
	if match == nil {
		return
	}
	setDefaultPtr(&match.MatchPolicy, admissionregistrationv1.Equivalent)
	setDefaultPtr(&match.NamespaceSelector, metav1.LabelSelector{})
	setDefaultPtr(&match.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [...][]admissionregistrationv1.NamedRuleWithOperations{match.ResourceRules, match.ExcludeResourceRules} {
		for i := range rules {
			setDefaultPtr(&rules[i].Scope, admissionregistrationv1.AllScopes)
		}
	}
}

func validateMatchResources(match *admissionregistrationv1.MatchResources, allowed []admissionregistrationv1.OperationType, at *field.Path) field.ErrorList {
	errs := validateMatchPolicy(match.MatchPolicy, at.Child("matchPolicy"))
	errs = append(errs, validateSelector(match.NamespaceSelector, at.Child("namespaceSelector"))...)
	errs = append(errs, validateSelector(match.ObjectSelector, at.Child("objectSelector"))...)
	for i := range match.ResourceRules {
		errs = append(errs, validateNamedRule(&match.ResourceRules[i], allowed, at.Child("resourceRules").Index(i))...)
	}
	for i := range match.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&match.ExcludeResourceRules[i], allowed, at.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validateNamedRule(rule *admissionregistrationv1.NamedRuleWithOperations, allowed []admissionregistrationv1.OperationType, at *field.Path) field.ErrorList {
	errs := validateAdmissionRule(&rule.RuleWithOperations, allowed, at)
	for i, name := range rule.ResourceNames {
		where := at.Child("resourceNames").Index(i)
		errs = append(errs, messages(content.IsPathSegmentName(name), name, where)...)
		if slices.Contains(rule.ResourceNames[:i], name) {
			errs = append(errs, field.Duplicate(where, name))
		}
	}
	return errs
}
