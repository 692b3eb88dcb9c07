package admission

import (
	"cmp"
	"slices"
	"sync"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// Store is where rules find objects; *store.Store implements it.
type Store interface {
	Get(key store.Key) (*store.Record, bool)
	Snapshot(resource, namespace string) store.Snapshot
}

// objects reads and remembers decoded objects of the few kinds that rules look at, so
// that a write does not decode its namespace and service account again.
type objects struct {
	store Store

	mu      sync.RWMutex
	decoded map[store.Key]remembered
}

type remembered struct {
	record *store.Record
	obj    object.Object
}

// maxRemembered bounds the memory; beyond it everything is forgotten and read anew.
const maxRemembered = 10_000

func newObjects(s Store) *objects {
	return &objects{store: s, decoded: map[store.Key]remembered{}}
}

func (o *objects) decode(kind object.Kind, record *store.Record) (object.Object, bool) {
	o.mu.RLock()
	known, ok := o.decoded[record.Key]
	o.mu.RUnlock()
	if ok && known.record == record {
		return known.obj, true
	}
	obj, err := object.Decode(kind, record.Value)
	if err != nil {
		return nil, false // as if it were not there; the store has quarantined it
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.decoded) >= maxRemembered {
		clear(o.decoded)
	}
	o.decoded[record.Key] = remembered{record, obj}
	return obj, true
}

// find returns an object, which must not be changed.
func find[T object.Object](c *Chain, namespace, name string) (T, bool) {
	var none T
	kind := object.KindOf[T]()
	record, ok := c.objects.store.Get(store.Key{Resource: kind.GVR.GroupResource().String(), Namespace: namespace, Name: name})
	if !ok {
		return none, false
	}
	obj, ok := c.objects.decode(kind, record)
	if !ok {
		return none, false
	}
	typed, ok := obj.(T)
	return typed, ok
}

// all lists a kind, in one namespace unless it is empty. The objects must not be changed.
func all[T object.Object](c *Chain, namespace string) []T {
	kind := object.KindOf[T]()
	records := c.objects.store.Snapshot(kind.GVR.GroupResource().String(), namespace).Records
	out := make([]T, 0, len(records))
	for _, record := range records {
		if obj, ok := c.objects.decode(kind, record); ok {
			if typed, ok := obj.(T); ok {
				out = append(out, typed)
			}
		}
	}
	return out
}

// theDefault returns the object that an annotation marks as default: of several the
// newest, and of equally new ones the first by name.
func theDefault[T object.Object](c *Chain, annotation string) (T, bool) {
	var none T
	candidates := slices.DeleteFunc(all[T](c, ""), func(obj T) bool { return obj.GetAnnotations()[annotation] != "true" })
	if len(candidates) == 0 {
		return none, false
	}
	return slices.MinFunc(candidates, func(a, b T) int {
		newer := b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time)
		return cmp.Or(newer, cmp.Compare(a.GetName(), b.GetName()))
	}), true
}
