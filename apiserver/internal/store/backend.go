package store

import (
	"context"
	"errors"
)

// Errors of a Backend.
var (
	// ErrCompacted means that the asked revision is no longer kept.
	ErrCompacted = errors.New("revision is compacted")
	// ErrRefused means that a transaction was refused and certainly did not happen.
	ErrRefused = errors.New("transaction refused")
	// ErrNoSpace means that the database has reached its quota. The transaction has either
	// happened or will never happen; reading tells.
	ErrNoSpace = errors.New("the database has reached its quota")
)

// Pair is one stored key with its value. Both are read-only.
type Pair struct {
	Key   string
	Value []byte
	// Revision that last wrote it.
	Revision int64
	// Err is why Value could not be had; the pair's object is set aside.
	Err error
}

// Op is a put, or a delete when Delete is set. Value belongs to the store; the backend
// does not keep it.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Revision is everything one transaction changed.
type Revision struct {
	Number  int64
	Puts    []Pair
	Deletes []string
}

// Backend is the durable, ordered, replicated key space below the store. All methods
// are safe for concurrent use.
type Backend interface {
	// Load calls yield with all pairs whose key begins with prefix, in pages in key order,
	// as of the given revision (0: the newest), and returns that revision. The pages are
	// not reused. ErrCompacted when the revision is gone.
	Load(ctx context.Context, prefix string, revision int64, yield func([]Pair) error) (int64, error)
	// Watch calls apply with each revision after the given one, whole and in order, until
	// ctx ends, apply fails or the connection to the data is lost. ErrCompacted when
	// revisions are missing.
	Watch(ctx context.Context, after int64, apply func(Revision) error) error
	// Read returns the pair as of now, linearizably, and the present revision. The pair
	// is zero when the key is absent.
	Read(ctx context.Context, key string) (Pair, int64, error)
	// Commit performs ops in one transaction if the guard key was last written by
	// revision guard, and returns the transaction's revision. ErrFenced when it was not;
	// ErrRefused when nothing happened; ErrNoSpace; any other error leaves the outcome unknown. No key
	// occurs twice.
	Commit(ctx context.Context, guardKey string, guard int64, ops []Op) (int64, error)
}
