package dynamic

import (
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

const anything = "*"

// scope is what requests a webhook or policy is about.
type scope struct {
	rules, except []admissionregistrationv1.NamedRuleWithOperations
	// equivalent rules also match other versions of a kind.
	equivalent          bool
	namespaces, objects labels.Selector
}

func newScope(rules, except []admissionregistrationv1.NamedRuleWithOperations, policy *admissionregistrationv1.MatchPolicyType, namespaces, objects *metav1.LabelSelector) (scope, error) {
	s := scope{rules: rules, except: except, equivalent: policy == nil || *policy == admissionregistrationv1.Equivalent}
	var err error
	if s.namespaces, err = selectorOf(namespaces); err != nil {
		return s, err
	}
	s.objects, err = selectorOf(objects)
	return s, err
}

// selectorOf reads a selector; nil selects everything.
func selectorOf(from *metav1.LabelSelector) (labels.Selector, error) {
	if from == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(from)
}

func scopeOfMatch(m *admissionregistrationv1.MatchResources) (scope, error) {
	if m == nil {
		return scope{}, nil
	}
	return newScope(m.ResourceRules, m.ExcludeResourceRules, m.MatchPolicy, m.NamespaceSelector, m.ObjectSelector)
}

// match returns the version of the kind in which a request is shown; nil if it does not match.
func (s *Session) match(of *scope, r *Request) *kinds.Kind {
	if s.anyRule(of.except, of.equivalent, r) != nil {
		return nil
	}
	as := s.anyRule(of.rules, of.equivalent, r)
	if as == nil || !s.selects(of, r) {
		return nil
	}
	return as
}

// selects tells whether the selectors match.
func (s *Session) selects(of *scope, r *Request) bool {
	if !of.objects.Empty() && !selected(of.objects, r.Object) && !selected(of.objects, r.Old) {
		return false
	}
	if of.namespaces.Empty() || r.where() == "" {
		return true
	}
	if r.isNamespace() && !absent(r.Object) && r.Subresource == "" {
		return selected(of.namespaces, r.Object)
	}
	namespace := s.namespaceOf(r)
	return namespace != nil && of.namespaces.Matches(labels.Set(namespace.Labels))
}

func selected(selector labels.Selector, obj runtime.Object) bool {
	if absent(obj) {
		return false
	}
	meta, ok := obj.(metav1.Object)
	return ok && selector.Matches(labels.Set(meta.GetLabels()))
}

// namespaceOf is the stored Namespace that a request is about; nil if there is none.
func (s *Session) namespaceOf(r *Request) *corev1.Namespace {
	if r.looked || r.where() == "" {
		return r.namespace
	}
	r.looked = true
	record, ok := s.admission.cfg.Store.Get(store.Key{Resource: "namespaces", Name: r.where()})
	if !ok {
		return nil
	}
	obj, err := object.Decode(object.KindOf[*corev1.Namespace](), record.Value)
	if err != nil {
		return nil
	}
	r.namespace, _ = obj.(*corev1.Namespace)
	return r.namespace
}

// anyRule returns the version of the kind that a rule matches, its own before others.
func (s *Session) anyRule(rules []admissionregistrationv1.NamedRuleWithOperations, equivalent bool, r *Request) *kinds.Kind {
	for i := range rules {
		if ruleMatches(&rules[i], r.Kind, r) {
			return r.Kind
		}
	}
	if !equivalent || len(rules) == 0 {
		return nil
	}
	for _, other := range s.versions(r) {
		for i := range rules {
			if ruleMatches(&rules[i], other, r) {
				return other
			}
		}
	}
	return nil
}

// versions lists the other versions that a request's kind is served in.
func (s *Session) versions(r *Request) []*kinds.Kind {
	if r.others != nil {
		return r.others
	}
	r.others = []*kinds.Kind{}
	for _, other := range s.admission.cfg.Kinds() {
		if other != r.Kind && sameObjects(other, r.Kind) {
			r.others = append(r.others, other)
		}
	}
	return r.others
}

func sameObjects(a, b *kinds.Kind) bool {
	if a.Custom != nil || b.Custom != nil {
		return a.Custom != nil && b.Custom != nil && a.Custom.UID == b.Custom.UID && a.Custom.Definition == b.Custom.Definition
	}
	return a.Stored().GVR == b.Stored().GVR
}

func ruleMatches(rule *admissionregistrationv1.NamedRuleWithOperations, kind *kinds.Kind, r *Request) bool {
	if !contains(rule.APIGroups, kind.GVR.Group) || !contains(rule.APIVersions, kind.GVR.Version) {
		return false
	}
	if !slices.ContainsFunc(rule.Operations, func(o admissionregistrationv1.OperationType) bool {
		return o == admissionregistrationv1.OperationAll || string(o) == string(r.Operation)
	}) {
		return false
	}
	if !slices.ContainsFunc(rule.Resources, func(entry string) bool {
		resource, sub, _ := strings.Cut(entry, "/")
		return (resource == anything || resource == kind.GVR.Resource) && (sub == anything || sub == r.Subresource)
	}) {
		return false
	}
	if len(rule.ResourceNames) > 0 && !slices.Contains(rule.ResourceNames, r.Name) {
		return false
	}
	if rule.Scope == nil || *rule.Scope == admissionregistrationv1.AllScopes {
		return true
	}
	return (*rule.Scope == admissionregistrationv1.NamespacedScope) == (r.Namespace != "" && !r.isNamespace())
}

func contains(list []string, name string) bool {
	return slices.Contains(list, anything) || slices.Contains(list, name)
}
