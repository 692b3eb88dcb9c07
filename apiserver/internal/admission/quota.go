package admission

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// Quotas keeps account of what namespaces with a ResourceQuota use. As an observer of the
// store it follows every committed change; what the writes of a batch take is reserved
// until the commit confirms it. A write that Charge lets pass is therefore within the
// quota whatever is written beside it, without counting anything anew.
//
// A namespace without a quota costs a look into a map.
type Quotas struct {
	store Store

	mu     sync.Mutex
	spaces map[string]*space
	// stale holds quotas whose status no longer tells what is used; changed wakes who
	// writes it.
	stale   map[store.Key]bool
	changed chan struct{}
}

const quotaResource = "resourcequotas"

// space is a namespace with quotas.
type space struct {
	accounts map[string]*account
}

// account is one quota's.
type account struct {
	quota *corev1.ResourceQuota
	// used is what objects take of the resources that the quota bounds; nil when they must
	// be counted from the start. counted is the version, by resource, that this includes.
	used     corev1.ResourceList
	counted  map[string]uint64
	reserved corev1.ResourceList
}

var _ store.Observer = (*Quotas)(nil)

// NewQuotas returns the accounts of a store, which must be told to observe them.
func NewQuotas(s Store) *Quotas {
	return &Quotas{store: s, spaces: map[string]*space{}, stale: map[store.Key]bool{}, changed: make(chan struct{}, 1)}
}

// Reset starts over from all objects.
func (q *Quotas) Reset(all iter.Seq[*store.Record]) {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.spaces)
	clear(q.stale)
	for record := range all {
		if record.Key.Resource == quotaResource {
			q.learn(record)
		}
	}
}

// Begin forgets reservations that no commit confirmed.
func (q *Quotas) Begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.spaces {
		for _, a := range s.accounts {
			a.reserved = nil
		}
	}
}

// Apply follows committed changes.
func (q *Quotas) Apply(events []store.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range events {
		event := &events[i]
		key := event.Record.Key
		if key.Namespace == "" {
			continue
		}
		q.count(event)
		if key.Resource == quotaResource {
			if event.Type == store.Deleted {
				q.forget(key)
			} else {
				q.learn(event.Record)
			}
		}
	}
}

// learn opens a quota's account, or notes what its new spec bounds.
func (q *Quotas) learn(record *store.Record) {
	quota := &corev1.ResourceQuota{}
	if err := quota.Unmarshal(record.Value); err != nil {
		return // quarantined by the store
	}
	s := q.spaces[record.Key.Namespace]
	if s == nil {
		s = &space{accounts: map[string]*account{}}
		q.spaces[record.Key.Namespace] = s
	}
	known := s.accounts[record.Key.Name]
	if known != nil && sameBounds(known.quota, quota) {
		known.quota = quota // its status or metadata has changed
		return
	}
	s.accounts[record.Key.Name] = &account{quota: quota}
	q.touch(record.Key)
}

func sameBounds(a, b *corev1.ResourceQuota) bool {
	left, errLeft := a.Spec.Marshal()
	right, errRight := b.Spec.Marshal()
	return a.UID == b.UID && errLeft == nil && errRight == nil && string(left) == string(right)
}

func (q *Quotas) forget(key store.Key) {
	delete(q.stale, key)
	if s := q.spaces[key.Namespace]; s != nil {
		delete(s.accounts, key.Name)
		if len(s.accounts) == 0 {
			delete(q.spaces, key.Namespace)
		}
	}
}

// touch notes that a quota's status is out of date.
func (q *Quotas) touch(key store.Key) {
	q.stale[key] = true
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// count books a change.
func (q *Quotas) count(event *store.Event) {
	key := event.Record.Key
	s := q.spaces[key.Namespace]
	if s == nil {
		return
	}
	gr := schema.ParseGroupResource(key.Resource)
	for name, a := range s.accounts {
		if counted, ok := a.counted[key.Resource]; !ok || event.Record.Version <= counted {
			continue
		}
		var before, after corev1.ResourceList
		if event.Previous != nil {
			before = a.usage(gr, event.Previous)
		}
		if event.Type != store.Deleted {
			after = a.usage(gr, event.Record)
		}
		if difference := minus(after, before); len(difference) > 0 {
			plus(a.used, difference)
			q.touch(store.Key{Resource: quotaResource, Namespace: key.Namespace, Name: name})
		}
	}
}

// bounds tells whether a quota is about objects of a resource.
func (a *account) bounds(resource string) bool {
	for name := range a.quota.Spec.Hard {
		if countedResource(name) == resource {
			return true
		}
	}
	return false
}

// usage is what a stored object takes of what the quota bounds.
func (a *account) usage(gr schema.GroupResource, record *store.Record) corev1.ResourceList {
	return a.usageOf(gr, func() (object.Object, bool) {
		kind, ok := object.KindForResource(gr)
		if !ok {
			return nil, false
		}
		obj, err := object.Decode(kind, record.Value)
		return obj, err == nil
	})
}

func (a *account) usageOf(gr schema.GroupResource, decode func() (object.Object, bool)) corev1.ResourceList {
	used, obj := usage(gr, decode)
	if (len(a.quota.Spec.Scopes) > 0 || a.quota.Spec.ScopeSelector != nil) && !matches(a.quota, obj) {
		return nil
	}
	maps.DeleteFunc(used, func(name corev1.ResourceName, _ apiresource.Quantity) bool {
		_, bounded := a.quota.Spec.Hard[name]
		return !bounded
	})
	return used
}

// settle counts from the start what must be.
func (q *Quotas) settle(namespace string, a *account) {
	if a.used != nil {
		return
	}
	a.used = corev1.ResourceList{}
	resources := map[string]bool{}
	for name := range a.quota.Spec.Hard {
		a.used[name] = *apiresource.NewQuantity(0, apiresource.DecimalSI)
		resources[countedResource(name)] = true
	}
	a.counted = map[string]uint64{}
	for resource := range resources {
		snapshot := q.store.Snapshot(resource, namespace)
		gr := schema.ParseGroupResource(resource)
		for _, record := range snapshot.Records {
			plus(a.used, a.usage(gr, record))
		}
		a.counted[resource] = snapshot.Version
	}
}

// Charge takes what a write needs from the quotas of its namespace, or refuses it with a
// Forbidden StatusError. It is called by the store's single writer (from Decide); with dry
// set nothing is reserved. old is nil for creates; neither object is changed.
func (q *Quotas) Charge(kind *kinds.Kind, namespace string, old, obj object.Object, dry bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.spaces[namespace]
	if s == nil {
		return nil
	}
	gr := kind.Stored().GVR.GroupResource()
	type debit struct {
		account *account
		wanted  corev1.ResourceList
	}
	var debits []debit
	var refusals []string
	for _, name := range slices.Sorted(maps.Keys(s.accounts)) {
		a := s.accounts[name]
		if !a.bounds(gr.String()) {
			continue
		}
		q.settle(namespace, a)
		var before corev1.ResourceList
		if old != nil {
			before = a.usageOf(gr, func() (object.Object, bool) { return old, true })
		}
		after := a.usageOf(gr, func() (object.Object, bool) { return obj, true })
		if pod, ok := obj.(*corev1.Pod); ok && old == nil && after != nil {
			if missing := unspecified(a.quota, pod); len(missing) > 0 {
				refusals = append(refusals, fmt.Sprintf("failed quota: %s: must specify %s", name, strings.Join(missing, ",")))
				continue
			}
		}
		wanted := minus(after, before)
		if refusal := a.exceeded(name, wanted); refusal != "" {
			refusals = append(refusals, refusal)
			continue
		}
		debits = append(debits, debit{a, wanted})
	}
	if len(refusals) > 0 {
		return apierrors.NewForbidden(kind.GVR.GroupResource(), obj.GetName(), fmt.Errorf("%s", strings.Join(refusals, "; ")))
	}
	if dry {
		return nil
	}
	for _, d := range debits {
		if d.account.reserved == nil {
			d.account.reserved = corev1.ResourceList{}
		}
		plus(d.account.reserved, d.wanted)
	}
	return nil
}

// exceeded says which bounds a write would break; empty if none. What is not increased is
// never refused.
func (a *account) exceeded(name string, wanted corev1.ResourceList) string {
	var asked, used, bound []string
	for _, resource := range slices.Sorted(maps.Keys(wanted)) {
		want, hard := wanted[resource], a.quota.Spec.Hard[resource]
		if want.Sign() <= 0 {
			continue
		}
		total := a.used[resource].DeepCopy()
		if reserved, ok := a.reserved[resource]; ok {
			total.Add(reserved)
		}
		have := total.DeepCopy()
		total.Add(want)
		if total.Cmp(hard) <= 0 {
			continue
		}
		asked = append(asked, fmt.Sprintf("%s=%s", resource, want.String()))
		used = append(used, fmt.Sprintf("%s=%s", resource, have.String()))
		bound = append(bound, fmt.Sprintf("%s=%s", resource, hard.String()))
	}
	if len(asked) == 0 {
		return ""
	}
	return fmt.Sprintf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
		name, strings.Join(asked, ","), strings.Join(used, ","), strings.Join(bound, ","))
}

// unspecified lists what a quota bounds of pods and some container of this one leaves open.
func unspecified(quota *corev1.ResourceQuota, pod *corev1.Pod) []string {
	var missing []string
	for name := range quota.Spec.Hard {
		text := string(name)
		limits := strings.HasPrefix(text, limitsPrefix)
		resource := corev1.ResourceName(strings.TrimPrefix(strings.TrimPrefix(text, limitsPrefix), requestsPrefix))
		if resource != corev1.ResourceCPU && resource != corev1.ResourceMemory {
			continue // others may be left out: nothing is asked for then
		}
		if specifies(pod, resource, limits) {
			continue
		}
		missing = append(missing, fmt.Sprintf("%s for: %s", text, strings.Join(openContainers(pod, resource, limits), ",")))
	}
	slices.Sort(missing)
	return missing
}

func specifies(pod *corev1.Pod, name corev1.ResourceName, limits bool) bool {
	if whole := pod.Spec.Resources; whole != nil {
		if _, ok := pick(*whole, limits)[name]; ok {
			return true
		}
	}
	return len(openContainers(pod, name, limits)) == 0
}

// openContainers names the containers that leave a resource open.
func openContainers(pod *corev1.Pod, name corev1.ResourceName, limits bool) []string {
	var open []string
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if _, ok := pick(containers[i].Resources, limits)[name]; !ok {
				open = append(open, containers[i].Name)
			}
		}
	}
	return open
}

func pick(r corev1.ResourceRequirements, limits bool) corev1.ResourceList {
	if limits {
		return r.Limits
	}
	return r.Requests
}

// Changed is ready when a quota's status is out of date.
func (q *Quotas) Changed() <-chan struct{} { return q.changed }

// Stale returns the quotas whose status must be written and what it must say, and counts
// them as written.
func (q *Quotas) Stale() map[store.Key]corev1.ResourceQuotaStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := map[store.Key]corev1.ResourceQuotaStatus{}
	for key := range q.stale {
		s := q.spaces[key.Namespace]
		if s == nil || s.accounts[key.Name] == nil {
			continue
		}
		a := s.accounts[key.Name]
		q.settle(key.Namespace, a)
		out[key] = corev1.ResourceQuotaStatus{Hard: a.quota.Spec.Hard.DeepCopy(), Used: a.used.DeepCopy()}
	}
	clear(q.stale)
	return out
}

// Touch has a quota's status written again, such as after a write that failed.
func (q *Quotas) Touch(key store.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.touch(key)
}

// TouchAll has the status of all quotas written again.
func (q *Quotas) TouchAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for namespace, s := range q.spaces {
		for name := range s.accounts {
			q.touch(store.Key{Resource: quotaResource, Namespace: namespace, Name: name})
		}
	}
}

func plus(into, more corev1.ResourceList) {
	for name, quantity := range more {
		sum := into[name]
		sum.Add(quantity)
		into[name] = sum
	}
}

// minus returns a list of what differs.
func minus(after, before corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, quantity := range after {
		rest := quantity.DeepCopy()
		if was, ok := before[name]; ok {
			rest.Sub(was)
		}
		if !rest.IsZero() {
			out[name] = rest
		}
	}
	for name, quantity := range before {
		if _, ok := after[name]; !ok && !quantity.IsZero() {
			rest := quantity.DeepCopy()
			rest.Neg()
			out[name] = rest
		}
	}
	return out
}
