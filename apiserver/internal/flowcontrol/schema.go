package flowcontrol

import (
	"cmp"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
)

// schema is a FlowSchema made ready for matching.
type schema struct {
	name, uid  string
	precedence int32
	level      *level
	by         flowcontrolv1.FlowDistinguisherMethodType
	rules      []rule
}

// rule matches a request by one of its subjects and one of its rules.
type rule struct {
	anybody       bool
	users, groups []string
	resources     []flowcontrolv1.ResourcePolicyRule
	paths         []flowcontrolv1.NonResourcePolicyRule
}

// Names of users and groups that subjects of the kind ServiceAccount stand for.
const (
	serviceAccountPrefix      = "system:serviceaccount:"
	serviceAccountGroupPrefix = "system:serviceaccounts:"
)

// compile orders schemas by precedence, then name. One whose level does not exist goes to the
// level catch-all, as unmatched requests do.
func compile(objects []*flowcontrolv1.FlowSchema, levels map[string]*level) []*schema {
	out := make([]*schema, 0, len(objects)+1)
	for _, o := range objects {
		s := &schema{name: o.Name, uid: string(o.UID), precedence: o.Spec.MatchingPrecedence, level: levels[o.Spec.PriorityLevelConfiguration.Name]}
		if s.level == nil {
			s.level = levels[flowcontrolv1.PriorityLevelConfigurationNameCatchAll]
		}
		if o.Spec.DistinguisherMethod != nil {
			s.by = o.Spec.DistinguisherMethod.Type
		}
		for _, r := range o.Spec.Rules {
			s.rules = append(s.rules, ruleOf(r.DeepCopy()))
		}
		out = append(out, s)
	}
	slices.SortStableFunc(out, func(a, b *schema) int {
		return cmp.Or(cmp.Compare(a.precedence, b.precedence), strings.Compare(a.name, b.name))
	})
	return append(out, &schema{name: flowcontrolv1.FlowSchemaNameCatchAll, level: levels[flowcontrolv1.PriorityLevelConfigurationNameCatchAll], rules: []rule{everything()}})
}

func everything() rule {
	all := []string{"*"}
	return rule{
		anybody: true, paths: []flowcontrolv1.NonResourcePolicyRule{{Verbs: all, NonResourceURLs: all}},
		resources: []flowcontrolv1.ResourcePolicyRule{{Verbs: all, APIGroups: all, Resources: all, ClusterScope: true, Namespaces: all}},
	}
}

func ruleOf(o *flowcontrolv1.PolicyRulesWithSubjects) rule {
	r := rule{resources: o.ResourceRules, paths: o.NonResourceRules}
	for _, subject := range o.Subjects {
		switch {
		case subject.User != nil && subject.User.Name == "*", subject.Group != nil && subject.Group.Name == "*":
			r.anybody = true
		case subject.User != nil:
			r.users = append(r.users, subject.User.Name)
		case subject.Group != nil:
			r.groups = append(r.groups, subject.Group.Name)
		case subject.ServiceAccount != nil && subject.ServiceAccount.Name == "*":
			r.groups = append(r.groups, serviceAccountGroupPrefix+subject.ServiceAccount.Namespace)
		case subject.ServiceAccount != nil:
			r.users = append(r.users, serviceAccountPrefix+subject.ServiceAccount.Namespace+":"+subject.ServiceAccount.Name)
		}
	}
	return r
}

// classify finds the schema of a request; the last matches everything.
func (l *Limiter) classify(r Request) *schema {
	for _, s := range l.schemas {
		for i := range s.rules {
			if s.rules[i].matches(r) {
				return s
			}
		}
	}
	return l.schemas[len(l.schemas)-1]
}

// distinguish names the flow of a request within its schema.
func (s *schema) distinguish(r Request) string {
	switch s.by {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		return r.User
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return r.Namespace
	}
	return ""
}

func (r *rule) matches(q Request) bool {
	if !r.anybody && !slices.Contains(r.users, q.User) &&
		!slices.ContainsFunc(r.groups, func(group string) bool { return slices.Contains(q.Groups, group) }) {
		return false
	}
	if q.Resource == "" {
		return slices.ContainsFunc(r.paths, func(p flowcontrolv1.NonResourcePolicyRule) bool {
			return has(p.Verbs, q.Verb) && slices.ContainsFunc(p.NonResourceURLs, func(url string) bool { return coversPath(url, q.Path) })
		})
	}
	return slices.ContainsFunc(r.resources, func(p flowcontrolv1.ResourcePolicyRule) bool {
		return has(p.Verbs, q.Verb) && has(p.APIGroups, q.Group) && has(p.Resources, q.Resource) &&
			(q.Namespace == "" && p.ClusterScope || q.Namespace != "" && has(p.Namespaces, q.Namespace))
	})
}

func has(list []string, value string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, value)
}

// coversPath says whether a path matches a pattern: equal, "*", or a prefix before "/*".
func coversPath(pattern, path string) bool {
	if pattern == "*" || pattern == path {
		return true
	}
	prefix, wild := strings.CutSuffix(pattern, "*")
	return wild && strings.HasPrefix(path, prefix)
}
