package authz

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// admits tells whether a rule of a role allows an operation. It allocates nothing.
func admits(rule *rbacv1.PolicyRule, attr *Attributes) bool {
	if !holds(rule.Verbs, attr.Verb) {
		return false
	}
	if attr.Path != "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return coversPath(pattern, attr.Path) })
	}
	if !holds(rule.APIGroups, attr.Resource.Group) {
		return false
	}
	if !slices.ContainsFunc(rule.Resources, func(pattern string) bool {
		return coversResource(pattern, attr.Resource.Resource, attr.Subresource)
	}) {
		return false
	}
	return len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, attr.name())
}

// holds tells whether a list names a value or all.
func holds(list []string, value string) bool {
	for _, one := range list {
		if one == value || one == "*" {
			return true
		}
	}
	return false
}

// coversPath tells whether a pattern, such as "/debug/*", stands for a path or a narrower pattern.
func coversPath(pattern, path string) bool {
	if pattern == path {
		return true
	}
	prefix, wild := strings.CutSuffix(pattern, "*")
	return wild && strings.HasPrefix(path, prefix)
}

// coversResource tells whether a pattern stands for a resource: "pods", "pods/log", "*/log" or "*".
func coversResource(pattern, resource, subresource string) bool {
	if pattern == "*" {
		return true
	}
	if subresource == "" {
		return pattern == resource
	}
	parent, sub, ok := strings.Cut(pattern, "/")
	return ok && sub == subresource && (parent == "*" || parent == resource)
}

// uncovered is what wanted grants beyond what is held, in as few rules as that takes.
func uncovered(held, wanted []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var missing []rbacv1.PolicyRule
	for i := range wanted {
		for _, single := range singles(&wanted[i]) {
			if !slices.ContainsFunc(held, func(rule rbacv1.PolicyRule) bool { return covers(&rule, &single) }) {
				missing = append(missing, single)
			}
		}
	}
	return compact(missing)
}

// singles takes a rule apart: each part has one verb and one resource, or one path.
func singles(rule *rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, verb := range rule.Verbs {
		for _, path := range rule.NonResourceURLs {
			out = append(out, rbacv1.PolicyRule{Verbs: []string{verb}, NonResourceURLs: []string{path}})
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				single := rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
				if len(rule.ResourceNames) == 0 {
					out = append(out, single)
				}
				for _, name := range rule.ResourceNames {
					named := single
					named.ResourceNames = []string{name}
					out = append(out, named)
				}
			}
		}
	}
	return out
}

// covers tells whether a rule grants all that a single grants.
func covers(rule, single *rbacv1.PolicyRule) bool {
	if !holds(rule.Verbs, single.Verbs[0]) {
		return false
	}
	if len(single.NonResourceURLs) > 0 {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return coversPath(pattern, single.NonResourceURLs[0]) })
	}
	if !holds(rule.APIGroups, single.APIGroups[0]) {
		return false
	}
	resource, subresource, _ := strings.Cut(single.Resources[0], "/")
	if !slices.ContainsFunc(rule.Resources, func(pattern string) bool { return coversResource(pattern, resource, subresource) }) {
		return false
	}
	switch {
	case len(rule.ResourceNames) == 0:
		return true
	case len(single.ResourceNames) == 0:
		return false
	default:
		return slices.Contains(rule.ResourceNames, single.ResourceNames[0])
	}
}

// compact joins singles that differ in their verb only.
func compact(list []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	at := map[string]int{}
	for _, single := range list {
		verb := single.Verbs[0]
		single.Verbs = nil
		key := describe(&single)
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key], out = i, append(out, single)
		}
		if !slices.Contains(out[i].Verbs, verb) {
			out[i].Verbs = append(out[i].Verbs, verb)
		}
	}
	slices.SortStableFunc(out, func(a, b rbacv1.PolicyRule) int { return cmp.Compare(describe(&a), describe(&b)) })
	return out
}

// describe prints a rule as messages show it.
func describe(rule *rbacv1.PolicyRule) string {
	var parts []string
	for _, part := range []struct {
		name string
		list []string
	}{
		{"APIGroups", rule.APIGroups}, {"Resources", rule.Resources}, {"NonResourceURLs", rule.NonResourceURLs},
		{"ResourceNames", rule.ResourceNames}, {"Verbs", rule.Verbs},
	} {
		if len(part.list) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", part.name, part.list))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
