package store

import (
	"strings"
	"sync"

	"github.com/google/btree"
)

// memory is every object at one revision.
//
// The one applier (committer or follower) writes; anybody reads. mu covers all of it,
// so that what readers see is always the state after a whole revision.
type memory struct {
	mu          sync.RWMutex
	collections map[string]*collection
	revision    int64
}

// collection is the objects of one resource.
type collection struct {
	byName map[name]*Record
	// ordered by namespace and name; cloned for snapshots, which is O(1) and makes later
	// writes copy the nodes they touch.
	ordered *btree.BTreeG[*Record]
	// all is the ordered list of the present state, if a reader has asked for it.
	all []*Record
	// changed is the revision of the last change.
	changed int64
}

// name is a key within a collection.
type name struct{ namespace, name string }

func recordLess(a, b *Record) bool {
	if c := strings.Compare(a.Key.Namespace, b.Key.Namespace); c != 0 {
		return c < 0
	}
	return a.Key.Name < b.Key.Name
}

func newMemory() *memory { return &memory{collections: map[string]*collection{}} }

func newCollection() *collection {
	return &collection{byName: map[name]*Record{}, ordered: btree.NewG(32, recordLess)}
}

func (m *memory) get(k Key) *Record {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.peek(k)
}

// peek is get for the applier, who alone may call it without mu.
func (m *memory) peek(k Key) *Record {
	c := m.collections[k.Resource]
	if c == nil {
		return nil
	}
	return c.byName[name{k.Namespace, k.Name}]
}

// now is the present revision.
func (m *memory) now() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.revision
}

// apply makes the events of one revision visible at once.
func (m *memory) apply(revision int64, events []Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range events {
		r := events[i].Record
		c := m.collections[r.Key.Resource]
		if c == nil {
			c = newCollection()
			m.collections[r.Key.Resource] = c
		}
		c.all, c.changed = nil, revision
		n := name{r.Key.Namespace, r.Key.Name}
		if events[i].Type == Deleted {
			delete(c.byName, n)
			c.ordered.Delete(r)
			continue
		}
		c.byName[n] = r
		c.ordered.ReplaceOrInsert(r)
	}
	m.revision = revision
}

// replace swaps in a whole new content.
func (m *memory) replace(revision int64, collections map[string]*collection) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.collections, m.revision = collections, revision
}

// freeze takes a collection, or one namespace of it, as it is now; the returned
// function lists it and needs no lock.
func (m *memory) freeze(resource, namespace string) func() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Snapshot{Version: ProgressOf(m.revision)}
	c := m.collections[resource]
	if c == nil {
		return func() Snapshot { return s }
	}
	if namespace == "" && c.all != nil {
		s.Records = c.all
		return func() Snapshot { return s }
	}
	tree, size := c.ordered.Clone(), len(c.byName)
	if namespace != "" {
		return func() Snapshot {
			tree.AscendGreaterOrEqual(&Record{Key: Key{Namespace: namespace}}, func(r *Record) bool {
				if r.Key.Namespace != namespace {
					return false
				}
				s.Records = append(s.Records, r)
				return true
			})
			return s
		}
	}
	return func() Snapshot {
		s.Records = make([]*Record, 0, size)
		tree.Ascend(func(r *Record) bool {
			s.Records = append(s.Records, r)
			return true
		})
		m.mu.Lock()
		if c.changed <= RevisionOf(s.Version) {
			c.all = s.Records
		}
		m.mu.Unlock()
		return s
	}
}

// each calls yield with every object, in no particular order, for the applier.
func (m *memory) each(yield func(*Record) bool) {
	for _, c := range m.collections {
		for _, r := range c.byName {
			if !yield(r) {
				return
			}
		}
	}
}
