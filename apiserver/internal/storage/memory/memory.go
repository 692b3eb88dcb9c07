// Package memory is a store.Backend in one process's memory, for tests: one Backend
// shared by several stores behaves like an etcd with several clients.
package memory

import (
	"context"
	"slices"
	"strings"
	"sync"

	"kijabi.dev/apiserver/internal/store"
)

// Backend keeps every revision until Compact. All methods are safe for concurrent use.
type Backend struct {
	mu        sync.Mutex
	revision  int64
	compacted int64
	log       []store.Revision // revisions compacted+1 … revision
	pairs     map[string]store.Pair
	changed   chan struct{} // closed at the next revision

	// Fault, if set, is called before a transaction; what it returns decides whether it
	// happens and which error is reported. Set it before use.
	Fault func(ops []store.Op) (happens bool, err error)
}

var _ store.Backend = (*Backend)(nil)

// New returns an empty backend at revision 1, as etcd begins.
func New() *Backend {
	return &Backend{revision: 1, compacted: 1, pairs: map[string]store.Pair{}, changed: make(chan struct{})}
}

// Load implements store.Backend.
func (b *Backend) Load(_ context.Context, prefix string, revision int64, yield func([]store.Pair) error) (int64, error) {
	b.mu.Lock()
	if revision == 0 {
		revision = b.revision
	}
	if revision < b.compacted {
		b.mu.Unlock()
		return 0, store.ErrCompacted
	}
	pairs := b.at(revision, prefix)
	b.mu.Unlock()
	for page := range slices.Chunk(pairs, 100) {
		if err := yield(page); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

// at rebuilds the pairs of a revision by undoing nothing: it replays the log over what
// was compacted. mu is held.
func (b *Backend) at(revision int64, prefix string) []store.Pair {
	pairs := map[string]store.Pair{}
	if revision == b.revision {
		pairs = b.pairs
	} else {
		for _, r := range b.log {
			if r.Number > revision {
				break
			}
			for _, p := range r.Puts {
				pairs[p.Key] = p
			}
			for _, k := range r.Deletes {
				delete(pairs, k)
			}
		}
	}
	var out []store.Pair
	for k, p := range pairs {
		if strings.HasPrefix(k, prefix) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b store.Pair) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Watch implements store.Backend.
func (b *Backend) Watch(ctx context.Context, after int64, apply func(store.Revision) error) error {
	for {
		b.mu.Lock()
		if after < b.compacted && b.compacted > 1 {
			b.mu.Unlock()
			return store.ErrCompacted
		}
		var next []store.Revision
		for _, r := range b.log {
			if r.Number > after {
				next = append(next, r)
			}
		}
		changed := b.changed
		b.mu.Unlock()
		for _, r := range next {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := apply(r); err != nil {
				return err
			}
			after = r.Number
		}
		if len(next) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Read implements store.Backend.
func (b *Backend) Read(ctx context.Context, key string) (store.Pair, int64, error) {
	if err := ctx.Err(); err != nil {
		return store.Pair{}, 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pairs[key], b.revision, nil
}

// Commit implements store.Backend.
func (b *Backend) Commit(_ context.Context, guardKey string, guard int64, ops []store.Op) (int64, error) {
	var report error
	if b.Fault != nil {
		var happens bool
		if happens, report = b.Fault(ops); !happens {
			return 0, report
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pairs[guardKey].Revision != guard {
		return 0, store.ErrFenced
	}
	seen := map[string]bool{}
	for _, op := range ops {
		if seen[op.Key] {
			return 0, store.ErrRefused
		}
		seen[op.Key] = true
	}
	r := store.Revision{Number: b.revision + 1}
	for _, op := range ops {
		if op.Delete {
			if _, exists := b.pairs[op.Key]; exists {
				delete(b.pairs, op.Key)
				r.Deletes = append(r.Deletes, op.Key)
			}
			continue
		}
		p := store.Pair{Key: op.Key, Value: slices.Clone(op.Value), Revision: r.Number}
		b.pairs[op.Key] = p
		r.Puts = append(r.Puts, p)
	}
	if len(r.Puts)+len(r.Deletes) == 0 {
		return b.revision, report
	}
	b.revision = r.Number
	b.log = append(b.log, r)
	close(b.changed)
	b.changed = make(chan struct{})
	return r.Number, report
}

// Compact forgets the revisions before the given one.
func (b *Backend) Compact(revision int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// What lies before is kept as one revision's puts, so that at can replay.
	base := store.Revision{Number: revision, Puts: b.at(revision, "")}
	var rest []store.Revision
	for _, r := range b.log {
		if r.Number > revision {
			rest = append(rest, r)
		}
	}
	b.compacted = revision
	b.log = append([]store.Revision{base}, rest...)
}
