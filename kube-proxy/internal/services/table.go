package services

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Table follows Services and EndpointSlices and says which frontends changed.
//
// The cost of a change depends on the service it touches, not on how many there are.
// A Table is not safe for concurrent use.
type Table struct {
	nodeName string

	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice // service → slice name → slice
	owner    map[Front]types.NamespacedName
	waiting  map[Front]map[types.NamespacedName]struct{} // services that want a front another one has
	current  map[types.NamespacedName][]Frontend
	dirty    map[types.NamespacedName]struct{}
}

// NewTable returns an empty table for the node called nodeName.
func NewTable(nodeName string) *Table {
	return &Table{
		nodeName: nodeName,
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		owner:    map[Front]types.NamespacedName{},
		waiting:  map[Front]map[types.NamespacedName]struct{}{},
		current:  map[types.NamespacedName][]Frontend{},
		dirty:    map[types.NamespacedName]struct{}{},
	}
}

// SetService records a new or changed service. The object is kept and only read.
func (t *Table) SetService(svc *corev1.Service) {
	key := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	t.services[key] = svc
	t.dirty[key] = struct{}{}
}

// DeleteService forgets a service.
func (t *Table) DeleteService(key types.NamespacedName) {
	delete(t.services, key)
	t.dirty[key] = struct{}{}
}

// SetSlice replaces old by slice. Either may be nil: old for a new slice, slice for a
// deleted one. A slice that names no service is ignored. The objects are kept and
// only read.
func (t *Table) SetSlice(old, slice *discoveryv1.EndpointSlice) {
	if old != nil {
		if key, ok := serviceOf(old); ok {
			delete(t.slices[key], old.Name)
			if len(t.slices[key]) == 0 {
				delete(t.slices, key)
			}
			t.dirty[key] = struct{}{}
		}
	}
	if slice != nil {
		if key, ok := serviceOf(slice); ok {
			if t.slices[key] == nil {
				t.slices[key] = map[string]*discoveryv1.EndpointSlice{}
			}
			t.slices[key][slice.Name] = slice
			t.dirty[key] = struct{}{}
		}
	}
}

func serviceOf(slice *discoveryv1.EndpointSlice) (types.NamespacedName, bool) {
	name := slice.Labels[discoveryv1.LabelServiceName]
	return types.NamespacedName{Namespace: slice.Namespace, Name: name}, name != ""
}

// Changes returns the frontends of every service touched since the last call; a
// service with none is gone. The slices must not be changed by the caller.
//
// A front belongs to the service that had it first, and among new ones to the first
// by name. When its owner lets go, the next one gets it in the same call.
func (t *Table) Changes() map[types.NamespacedName][]Frontend {
	out := map[types.NamespacedName][]Frontend{}
	for len(t.dirty) > 0 {
		keys := make([]types.NamespacedName, 0, len(t.dirty))
		for key := range t.dirty {
			keys = append(keys, key)
		}
		slices.SortFunc(keys, compareNames)
		clear(t.dirty)
		for _, key := range keys {
			out[key] = t.refresh(key)
		}
	}
	return out
}

// All returns the frontends of every service, as of the last Changes.
func (t *Table) All() map[types.NamespacedName][]Frontend {
	out := make(map[types.NamespacedName][]Frontend, len(t.current))
	for key, list := range t.current {
		out[key] = list
	}
	return out
}

// Lookup finds who serves a front, as of the last Changes.
func (t *Table) Lookup(front Front) (Frontend, bool) {
	key, ok := t.owner[front]
	if !ok {
		return Frontend{}, false
	}
	i := slices.IndexFunc(t.current[key], func(f Frontend) bool { return f.Front == front })
	if i < 0 {
		return Frontend{}, false
	}
	return t.current[key][i], true
}

// refresh computes one service anew and settles who owns its fronts.
func (t *Table) refresh(key types.NamespacedName) []Frontend {
	var wanted []Frontend
	if svc := t.services[key]; svc != nil {
		list := make([]*discoveryv1.EndpointSlice, 0, len(t.slices[key]))
		for _, s := range t.slices[key] {
			list = append(list, s)
		}
		wanted = Resolve(svc, list, t.nodeName)
	}
	held := map[Front]struct{}{}
	var got []Frontend
	for _, f := range wanted {
		if _, twice := held[f.Front]; twice {
			continue // the same address given twice
		}
		if owner, taken := t.owner[f.Front]; taken && owner != key {
			if t.waiting[f.Front] == nil {
				t.waiting[f.Front] = map[types.NamespacedName]struct{}{}
			}
			t.waiting[f.Front][key] = struct{}{}
			continue
		}
		t.owner[f.Front] = key
		held[f.Front] = struct{}{}
		got = append(got, f)
	}
	for _, f := range t.current[key] {
		if _, kept := held[f.Front]; kept {
			continue
		}
		delete(t.owner, f.Front)
		for other := range t.waiting[f.Front] {
			if other != key {
				t.dirty[other] = struct{}{}
			}
		}
		delete(t.waiting, f.Front)
	}
	if len(got) == 0 {
		delete(t.current, key)
	} else {
		t.current[key] = got
	}
	return got
}

func compareNames(a, b types.NamespacedName) int {
	switch {
	case a.String() < b.String():
		return -1
	case a.String() > b.String():
		return 1
	default:
		return 0
	}
}
