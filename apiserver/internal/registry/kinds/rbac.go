package kinds

import (
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// validateRoleName allows what names of other objects may not hold, such as colons.
func validateRoleName(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

func role() *Kind {
	return &Kind{
		Kind: object.KindOf[*rbacv1.Role](), Singular: "role", Verbs: standardVerbs(),
		Columns:      createdColumns(),
		Row:          rowOf(func(r *rbacv1.Role, _ time.Time) []any { return []any{r.Name, created(r.CreationTimestamp)} }),
		ValidateName: validateRoleName,
		Validate:     check(func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }),
	}
}

// A ClusterRole with an aggregation rule gets its rules from other roles; the registry fills them in.
func clusterRole() *Kind {
	return &Kind{
		Kind: object.KindOf[*rbacv1.ClusterRole](), Singular: "clusterrole", Verbs: standardVerbs(),
		Columns:      createdColumns(),
		Row:          rowOf(func(r *rbacv1.ClusterRole, _ time.Time) []any { return []any{r.Name, created(r.CreationTimestamp)} }),
		ValidateName: validateRoleName,
		Validate: check(func(r *rbacv1.ClusterRole) field.ErrorList {
			return append(validateRules(r.Rules, false), validateAggregation(r.AggregationRule, field.NewPath("aggregationRule"))...)
		}),
	}
}

func createdColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(), column("Created At", "date", "When the object was created.")}
}

func created(at metav1.Time) string { return at.UTC().Format(time.RFC3339) }

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, validateRule(&rules[i], namespaced, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validateRule(rule *rbacv1.PolicyRule, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(rule.Verbs) == 0 {
		errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
	}
	if len(rule.NonResourceURLs) > 0 {
		if namespaced {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), rule.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		return errs
	}
	if len(rule.APIGroups) == 0 {
		errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(rule.Resources) == 0 {
		errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}

func validateAggregation(rule *rbacv1.AggregationRule, at *field.Path) field.ErrorList {
	if rule == nil {
		return nil
	}
	selectors := at.Child("clusterRoleSelectors")
	if len(rule.ClusterRoleSelectors) == 0 {
		return field.ErrorList{field.Required(selectors, "at least one clusterRoleSelector required if aggregationRule is non-nil")}
	}
	var errs field.ErrorList
	for i := range rule.ClusterRoleSelectors {
		errs = append(errs, metavalidation.ValidateLabelSelector(&rule.ClusterRoleSelectors[i], metavalidation.LabelSelectorValidationOptions{}, selectors.Index(i))...)
	}
	return errs
}

func roleBinding() *Kind {
	return &Kind{
		Kind: object.KindOf[*rbacv1.RoleBinding](), Singular: "rolebinding", Verbs: standardVerbs(),
		Columns: bindingColumns(),
		Row: rowOf(func(b *rbacv1.RoleBinding, now time.Time) []any {
			return bindingRow(&b.ObjectMeta, &b.RoleRef, b.Subjects, now)
		}),
		ValidateName: validateRoleName,
		Default:      on(func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate: check(func(b *rbacv1.RoleBinding) field.ErrorList {
			return validateBinding(&b.RoleRef, b.Subjects, []string{"Role", "ClusterRole"}, true)
		}),
		ValidateUpdate: checkBoth(func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return sameRole(b.RoleRef, old.RoleRef)
		}),
	}
}

func clusterRoleBinding() *Kind {
	return &Kind{
		Kind: object.KindOf[*rbacv1.ClusterRoleBinding](), Singular: "clusterrolebinding", Verbs: standardVerbs(),
		Columns: bindingColumns(),
		Row: rowOf(func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
			return bindingRow(&b.ObjectMeta, &b.RoleRef, b.Subjects, now)
		}),
		ValidateName: validateRoleName,
		Default:      on(func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate: check(func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateBinding(&b.RoleRef, b.Subjects, []string{"ClusterRole"}, false)
		}),
		ValidateUpdate: checkBoth(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return sameRole(b.RoleRef, old.RoleRef)
		}),
	}
}

func bindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(), column("Role", "string", "Role that is granted"), ageColumn(),
		wide("Users", "string", "Users it is granted to"), wide("Groups", "string", "Groups it is granted to"),
		wide("ServiceAccounts", "string", "Service accounts it is granted to"),
	}
}

func bindingRow(meta *metav1.ObjectMeta, ref *rbacv1.RoleRef, subjects []rbacv1.Subject, now time.Time) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{
		meta.Name, ref.Kind + "/" + ref.Name, age(meta.CreationTimestamp, now),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	setDefault(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if kind := subjects[i].Kind; kind == rbacv1.UserKind || kind == rbacv1.GroupKind {
			setDefault(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func validateBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject, roleKinds []string, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	if !slices.Contains(roleKinds, ref.Kind) {
		errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, roleKinds))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		for _, msg := range validateRoleName(ref.Name, false) {
			errs = append(errs, field.Invalid(at.Child("name"), ref.Name, msg))
		}
	}
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

// validateSubject checks one subject. A service account without a namespace belongs to
// the binding's own, if that has one.
func validateSubject(s *rbacv1.Subject, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			for _, msg := range validation.ValidateServiceAccountName(s.Name, false) {
				errs = append(errs, field.Invalid(at.Child("name"), s.Name, msg))
			}
		}
		if s.APIGroup != "" {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		if !namespaced && s.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		if s.APIGroup != rbacv1.GroupName {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

// sameRole keeps a binding at the role it was made for: who may change its subjects could
// otherwise give them any role.
func sameRole(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
}
