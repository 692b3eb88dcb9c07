package authz

import (
	"iter"
	"maps"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// Resources of the objects that make up the policy.
const (
	rolesResource               = "roles." + rbacv1.GroupName
	clusterRolesResource        = "clusterroles." + rbacv1.GroupName
	roleBindingsResource        = "rolebindings." + rbacv1.GroupName
	clusterRoleBindingsResource = "clusterrolebindings." + rbacv1.GroupName
)

// Policy is what the roles and bindings in the store grant. As an observer of the store
// it holds every write before its writer learns of it, so that a check sees all that
// was committed before, as far as this master's memory does.
//
// The rules of an aggregated role are those of the roles that it selects, whatever it
// stores itself; they change with the same commit as those do.
type Policy struct {
	mu sync.RWMutex
	// roles by namespace and name; ClusterRoles have no namespace.
	roles    map[object.Key]*role
	bindings map[store.Key]*binding
	// grants lists bindings by their subjects and namespaces; cluster-wide ones have no namespace.
	grants map[subject]map[string][]*binding
	// aggregated roles among roles; their rules are void while stale is set.
	aggregated map[string]*role
	stale      bool
}

var _ store.Observer = (*Policy)(nil)

type role struct {
	labels labels.Set
	rules  []rbacv1.PolicyRule
	// selectors of an aggregated role; rules is then what they select and stored what the object says.
	selectors []labels.Selector
	stored    []rbacv1.PolicyRule
}

// selects tells whether an aggregated role takes up the rules of one with these labels.
func (r *role) selects(set labels.Set) bool {
	return slices.ContainsFunc(r.selectors, func(s labels.Selector) bool { return s.Matches(set) })
}

// subject is a user or a group.
type subject struct {
	group bool
	name  string
}

type binding struct {
	// role is where the role is; one of a ClusterRole has no namespace.
	role      object.Key
	namespace string
	subjects  []subject
}

// NewPolicy returns a policy that grants nothing until the store has told it of its objects.
func NewPolicy() *Policy {
	p := &Policy{}
	p.clear()
	return p
}

func (p *Policy) clear() {
	p.roles, p.bindings = map[object.Key]*role{}, map[store.Key]*binding{}
	p.grants, p.aggregated = map[subject]map[string][]*binding{}, map[string]*role{}
}

// Reset starts over from all objects.
func (p *Policy) Reset(all iter.Seq[*store.Record]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	for record := range all {
		p.put(record)
	}
	p.stale = true
}

// Begin does nothing: the policy reserves nothing.
func (p *Policy) Begin() {}

// Apply follows committed changes.
func (p *Policy) Apply(events []store.Event) {
	for i := range events {
		record := events[i].Record
		switch record.Key.Resource {
		case rolesResource, clusterRolesResource, roleBindingsResource, clusterRoleBindingsResource:
		default:
			continue
		}
		p.mu.Lock()
		p.remove(record.Key)
		if events[i].Type != store.Deleted {
			p.put(record)
		}
		p.mu.Unlock()
	}
}

// remove forgets an object.
func (p *Policy) remove(key store.Key) {
	at := object.Key{Namespace: key.Namespace, Name: key.Name}
	switch key.Resource {
	case rolesResource:
		delete(p.roles, at)
	case clusterRolesResource:
		if old := p.roles[at]; old != nil {
			delete(p.roles, at)
			delete(p.aggregated, key.Name)
			p.touch(old)
		}
	default:
		p.unbind(key)
	}
}

// touch notes that the rules of aggregated roles may have changed with this role.
func (p *Policy) touch(r *role) {
	if p.stale {
		return
	}
	p.stale = r.selectors != nil
	for _, one := range p.aggregated {
		p.stale = p.stale || one.selects(r.labels)
	}
}

func (p *Policy) unbind(key store.Key) {
	old := p.bindings[key]
	if old == nil {
		return
	}
	delete(p.bindings, key)
	for _, s := range old.subjects {
		byNamespace := p.grants[s]
		// Readers hold the lock as well, so the list may be changed in place.
		byNamespace[old.namespace] = slices.DeleteFunc(byNamespace[old.namespace], func(b *binding) bool { return b == old })
		if len(byNamespace[old.namespace]) == 0 {
			delete(byNamespace, old.namespace)
		}
		if len(byNamespace) == 0 {
			delete(p.grants, s)
		}
	}
}

// put adds an object. One that cannot be read grants nothing.
func (p *Policy) put(record *store.Record) {
	at := object.Key{Namespace: record.Key.Namespace, Name: record.Key.Name}
	switch record.Key.Resource {
	case rolesResource:
		var r rbacv1.Role
		if r.Unmarshal(record.Value) == nil {
			p.roles[at] = &role{rules: r.Rules}
		}
	case clusterRolesResource:
		var r rbacv1.ClusterRole
		if r.Unmarshal(record.Value) != nil {
			return
		}
		added := &role{labels: r.Labels, rules: r.Rules}
		if r.AggregationRule != nil {
			added.rules, added.stored, added.selectors = nil, r.Rules, selectorsOf(r.AggregationRule)
			p.aggregated[at.Name] = added
		}
		p.roles[at] = added
		p.touch(added)
	case roleBindingsResource:
		var b rbacv1.RoleBinding
		if b.Unmarshal(record.Value) == nil {
			p.bind(record.Key, b.RoleRef, b.Subjects)
		}
	case clusterRoleBindingsResource:
		var b rbacv1.ClusterRoleBinding
		if b.Unmarshal(record.Value) == nil {
			p.bind(record.Key, b.RoleRef, b.Subjects)
		}
	}
}

// selectorsOf parses an aggregation rule; it is not nil, even if no selector can be parsed.
func selectorsOf(rule *rbacv1.AggregationRule) []labels.Selector {
	out := make([]labels.Selector, 0, len(rule.ClusterRoleSelectors))
	for i := range rule.ClusterRoleSelectors {
		if s, err := metav1.LabelSelectorAsSelector(&rule.ClusterRoleSelectors[i]); err == nil {
			out = append(out, s)
		}
	}
	return out
}

func (p *Policy) bind(key store.Key, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	at, ok := roleAt(ref, key.Namespace)
	if !ok {
		return
	}
	b := &binding{role: at, namespace: key.Namespace}
	for i := range subjects {
		s, ok := subjectOf(&subjects[i], key.Namespace)
		if !ok || slices.Contains(b.subjects, s) {
			continue
		}
		b.subjects = append(b.subjects, s)
		if p.grants[s] == nil {
			p.grants[s] = map[string][]*binding{}
		}
		p.grants[s][b.namespace] = append(p.grants[s][b.namespace], b)
	}
	p.bindings[key] = b
}

// roleAt finds the place of the role that a binding in a namespace refers to.
func roleAt(ref rbacv1.RoleRef, namespace string) (object.Key, bool) {
	switch ref.Kind {
	case "ClusterRole":
		return object.Key{Name: ref.Name}, true
	case "Role":
		return object.Key{Namespace: namespace, Name: ref.Name}, namespace != ""
	}
	return object.Key{}, false
}

func subjectOf(s *rbacv1.Subject, namespace string) (subject, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, true
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return subject{name: "system:serviceaccount:" + namespace + ":" + s.Name}, namespace != ""
	}
	return subject{}, false
}

// read locks the policy for reading, with the rules of aggregated roles in order.
// Unlock by mu.RUnlock.
func (p *Policy) read() {
	p.mu.RLock()
	for p.stale {
		p.mu.RUnlock()
		p.mu.Lock()
		if p.stale {
			p.aggregate()
			p.stale = false
		}
		p.mu.Unlock()
		p.mu.RLock()
	}
}

func (p *Policy) aggregate() {
	if len(p.aggregated) == 0 {
		return
	}
	names := p.clusterRoles()
	for name, r := range p.aggregated {
		r.rules = p.selected(name, r.selectors, names)
	}
}

// clusterRoles lists their names in order.
func (p *Policy) clusterRoles() []string {
	names := make([]string, 0, len(p.roles))
	for at := range p.roles {
		if at.Namespace == "" {
			names = append(names, at.Name)
		}
	}
	slices.Sort(names)
	return names
}

// selected collects the rules of the roles that an aggregated role selects, directly or by
// way of others, each rule once.
func (p *Policy) selected(name string, selectors []labels.Selector, names []string) []rbacv1.PolicyRule {
	rules := []rbacv1.PolicyRule{}
	seen := map[string]bool{name: true}
	var collect func(selectors []labels.Selector)
	collect = func(selectors []labels.Selector) {
		for _, selector := range selectors {
			for _, one := range names {
				r := p.roles[object.Key{Name: one}]
				if seen[one] || !selector.Matches(r.labels) {
					continue
				}
				seen[one] = true
				if r.selectors != nil {
					collect(r.selectors)
					continue
				}
				for i := range r.rules {
					if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, r.rules[i]) }) {
						rules = append(rules, r.rules[i])
					}
				}
			}
		}
	}
	collect(selectors)
	return rules
}

// Aggregated returns the rules that a ClusterRole of this name and aggregation rule has.
func (p *Policy) Aggregated(name string, rule *rbacv1.AggregationRule) []rbacv1.PolicyRule {
	p.read()
	defer p.mu.RUnlock()
	return deepCopy(p.selected(name, selectorsOf(rule), p.clusterRoles()))
}

// Outdated names the aggregated roles whose objects do not show the rules they have.
func (p *Policy) Outdated() []string {
	p.read()
	defer p.mu.RUnlock()
	var names []string
	for name, r := range p.aggregated {
		if !equality.Semantic.DeepEqual(r.rules, r.stored) && len(r.rules)+len(r.stored) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// RoleRules returns the rules of the role that a binding in a namespace refers to; false
// when there is no such role.
func (p *Policy) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	at, ok := roleAt(ref, namespace)
	if !ok {
		return nil, false
	}
	p.read()
	defer p.mu.RUnlock()
	r := p.roles[at]
	if r == nil {
		return nil, false
	}
	return deepCopy(r.rules), true
}

func deepCopy(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	out := make([]rbacv1.PolicyRule, len(rules))
	for i := range rules {
		rules[i].DeepCopyInto(&out[i])
	}
	return out
}

// allows tells whether any role bound to the user allows an operation.
func (p *Policy) allows(attr *Attributes) bool {
	p.read()
	defer p.mu.RUnlock()
	if p.granted(subject{name: attr.User}, attr) {
		return true
	}
	for _, group := range attr.Groups {
		if p.granted(subject{group: true, name: group}, attr) {
			return true
		}
	}
	return false
}

func (p *Policy) granted(s subject, attr *Attributes) bool {
	byNamespace := p.grants[s]
	if len(byNamespace) == 0 {
		return false
	}
	if p.anyAdmits(byNamespace[""], attr) {
		return true
	}
	namespace := attr.namespace()
	return namespace != "" && attr.Path == "" && p.anyAdmits(byNamespace[namespace], attr)
}

func (p *Policy) anyAdmits(bindings []*binding, attr *Attributes) bool {
	for _, b := range bindings {
		r := p.roles[b.role]
		if r == nil {
			continue // bound before it was made
		}
		for i := range r.rules {
			if admits(&r.rules[i], attr) {
				return true
			}
		}
	}
	return false
}

// rulesFor lists the rules bound to a user in a namespace, cluster-wide ones included.
func (p *Policy) rulesFor(user string, groups []string, namespace string) []rbacv1.PolicyRule {
	p.read()
	defer p.mu.RUnlock()
	var out []rbacv1.PolicyRule
	collect := func(s subject) {
		byNamespace := p.grants[s]
		bindings := slices.Clone(byNamespace[""])
		if namespace != "" {
			bindings = append(bindings, byNamespace[namespace]...)
		}
		for _, b := range bindings {
			r := p.roles[b.role]
			if r == nil {
				continue
			}
			for _, rule := range r.rules {
				if b.namespace != "" && len(rule.NonResourceURLs) > 0 {
					continue // paths are not of a namespace
				}
				out = append(out, *rule.DeepCopy())
			}
		}
	}
	collect(subject{name: user})
	for _, group := range groups {
		collect(subject{group: true, name: group})
	}
	return out
}

// unmade names the roles that the user's bindings refer to and that do not exist: why a
// right may be missing.
func (p *Policy) unmade(attr *Attributes) []string {
	p.read()
	defer p.mu.RUnlock()
	missing := map[string]bool{}
	look := func(s subject) {
		for _, namespace := range slices.Compact([]string{"", attr.namespace()}) {
			for _, b := range p.grants[s][namespace] {
				if p.roles[b.role] != nil {
					continue
				}
				kind := "clusterrole"
				if b.role.Namespace != "" {
					kind = "role"
				}
				missing[kind+"."+rbacv1.GroupName+" \""+b.role.Name+"\" not found"] = true
			}
		}
	}
	look(subject{name: attr.User})
	for _, group := range attr.Groups {
		look(subject{group: true, name: group})
	}
	return slices.Sorted(maps.Keys(missing))
}
