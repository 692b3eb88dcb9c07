// Package sealed encrypts chosen resources on their way into a store.Backend and decrypts
// them on their way out. Memory, watches and clients see plain objects; etcd, its log,
// its snapshots and their copies do not.
//
// Values are sealed with data keys that are wrapped by the cluster's key, which all masters
// hold in a file. A value that is still plain, or sealed with an older key, is read as it is;
// a Rewriter of the leading master stores it anew.
package sealed

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"kijabi.dev/apiserver/internal/store"
)

// Backend is a store.Backend that seals.
type Backend struct {
	store.Backend

	envelope envelope
	prefixes []string
}

var _ store.Backend = (*Backend)(nil)

// New returns a backend that seals the objects of resources, named as in store.Key.
func New(below store.Backend, keys *Keys, resources []string) *Backend {
	b := &Backend{Backend: below, envelope: envelope{keys: keys}}
	for _, resource := range resources {
		b.prefixes = append(b.prefixes, store.Prefixes(resource)...)
	}
	return b
}

// seals says whether what is stored below path is sealed.
func (b *Backend) seals(path string) bool {
	for _, prefix := range b.prefixes {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// Check returns an error when sealed values were met and none could be opened: then the keys
// are not this cluster's, and whoever writes with them makes it worse.
func (b *Backend) Check() error {
	strange := b.envelope.strange.Load()
	if strange == 0 || b.envelope.unwrapped.Load() > 0 {
		return nil
	}
	return fmt.Errorf("none of %d sealed objects can be opened: %s does not hold this cluster's keys; take it from another master or from a copy", strange, b.envelope.keys.file)
}

// Commit implements store.Backend.
func (b *Backend) Commit(ctx context.Context, guardKey string, guard int64, ops []store.Op) (int64, error) {
	copied := false
	for i := range ops {
		if ops[i].Delete || !b.seals(ops[i].Key) {
			continue
		}
		value, err := b.envelope.seal(ops[i].Key, ops[i].Value)
		if err != nil {
			return 0, refused{err}
		}
		if !copied { // the store keeps the plain values
			ops, copied = slices.Clone(ops), true
		}
		ops[i].Value = value
	}
	return b.Backend.Commit(ctx, guardKey, guard, ops)
}

// refused is an error before anything happened.
type refused struct{ error }

// Is makes it store.ErrRefused.
func (refused) Is(target error) bool { return target == store.ErrRefused }

// Load implements store.Backend.
func (b *Backend) Load(ctx context.Context, prefix string, revision int64, yield func([]store.Pair) error) (int64, error) {
	return b.Backend.Load(ctx, prefix, revision, func(pairs []store.Pair) error {
		b.open(pairs)
		return yield(pairs)
	})
}

// Watch implements store.Backend.
func (b *Backend) Watch(ctx context.Context, after int64, apply func(store.Revision) error) error {
	return b.Backend.Watch(ctx, after, func(r store.Revision) error {
		r.Puts = b.opened(r.Puts)
		return apply(r)
	})
}

// Read implements store.Backend.
func (b *Backend) Read(ctx context.Context, key string) (store.Pair, int64, error) {
	pair, revision, err := b.Backend.Read(ctx, key)
	if err == nil && isSealed(pair.Value) {
		pair.Value, err = b.envelope.open(key, pair.Value)
	}
	return pair, revision, err
}

// opened opens the sealed ones of pairs, which stay as they are.
func (b *Backend) opened(pairs []store.Pair) []store.Pair {
	for i := range pairs {
		if isSealed(pairs[i].Value) {
			pairs = slices.Clone(pairs)
			b.open(pairs)
			return pairs
		}
	}
	return pairs
}

// open opens the sealed ones of pairs, in place.
func (b *Backend) open(pairs []store.Pair) {
	for i := range pairs {
		if p := &pairs[i]; isSealed(p.Value) {
			p.Value, p.Err = b.envelope.open(p.Key, p.Value)
		}
	}
}

// stale yields, page by page, what is not sealed with the present key and what no key opens,
// and returns the number of values seen.
func (b *Backend) stale(ctx context.Context, yield func(old, unreadable []store.Pair) error) (int, error) {
	seen := 0
	for _, prefix := range b.prefixes {
		_, err := b.Backend.Load(ctx, prefix, 0, func(pairs []store.Pair) error {
			var old, unreadable []store.Pair
			present, _ := b.envelope.keys.sealing()
			for _, p := range pairs {
				seen++
				id, ok := keyOf(p.Value)
				switch {
				case !isSealed(p.Value):
					old = append(old, p)
				case ok && id == present:
				default:
					if _, err := b.envelope.open(p.Key, p.Value); err != nil {
						p.Err = err
						unreadable = append(unreadable, p)
						continue
					}
					old = append(old, p)
				}
			}
			return yield(old, unreadable)
		})
		if err != nil {
			return seen, err
		}
	}
	return seen, nil
}
