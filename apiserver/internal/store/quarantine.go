package store

import (
	"iter"
	"maps"
	"sync"
	"sync/atomic"
)

// quarantine names the stored objects that could not be read. All but its methods is guarded by mu.
type quarantine struct {
	mu    sync.Mutex
	aside map[Key]damaged
	// size spares writers the lock while there are none.
	size atomic.Int64
}

// damaged is an object that was set aside.
type damaged struct {
	err       error
	ephemeral bool // below which prefix it is stored
}

func newQuarantine() *quarantine { return &quarantine{aside: map[Key]damaged{}} }

func (q *quarantine) put(k Key, d damaged) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.aside[k] = d
	q.size.Store(int64(len(q.aside)))
}

// take forgets an object, because it was overwritten or deleted.
func (q *quarantine) take(k Key) {
	if q.size.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.aside, k)
	q.size.Store(int64(len(q.aside)))
}

func (q *quarantine) get(k Key) (damaged, bool) {
	if q.size.Load() == 0 {
		return damaged{}, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d, found := q.aside[k]
	return d, found
}

func (q *quarantine) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.aside)
	q.size.Store(0)
}

func (q *quarantine) all() map[Key]damaged {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.aside)
}

// Quarantined yields the objects that could not be indexed, and why. They can be deleted or
// overwritten, but are not listed.
func (s *Store) Quarantined() iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		for k, d := range s.quarantine.all() {
			if !yield(k, d.err) {
				return
			}
		}
	}
}

// SetAside returns why an object is in quarantine, nil if it is not. In a Decide function on the
// leader the answer is exact.
func (s *Store) SetAside(k Key) error {
	d, _ := s.quarantine.get(k)
	return d.err
}
