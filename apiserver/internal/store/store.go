// Package store holds every object of the cluster in memory, as the bytes that
// clients receive, and makes this master's leader term the single writer of them.
//
// A write joins the current batch; a batch is one etcd transaction guarded by the
// leader's epoch; it is acknowledged and published to watchers from memory. On a
// master that does not lead, the store follows what the local etcd member delivers and
// refuses writes with ErrNotLeading.
package store

import (
	"errors"
	"iter"

	"k8s.io/apimachinery/pkg/types"
)

// ErrNotLeading is returned for writes on a master that does not lead, or no longer
// does. The write has not happened.
var ErrNotLeading = errors.New("this master does not lead")

// ErrUnknownOutcome is returned when a write may or may not have been committed.
// Repeating it with the same RequestID is safe.
var ErrUnknownOutcome = errors.New("the outcome of the write is unknown")

// ErrFenced is returned for a write that carries another epoch than the current one.
var ErrFenced = errors.New("fenced: the epoch is over")

// ErrExpired is returned for a watch or list that starts before the kept history,
// and by a watch whose reader fell too far behind. List again.
var ErrExpired = errors.New("resource version is too old")

// ErrStale ends the watches of a master that cannot prove for a while that its memory
// is current; other masters can serve them.
var ErrStale = errors.New("this master cannot prove that its memory is current")

// ErrFull is returned for a write that needs space while there is none; see Store.SetRoom.
var ErrFull = errors.New("the data store is full")

// ErrTooLarge is returned for a group that cannot fit one transaction.
var ErrTooLarge = errors.New("request is too large for one transaction")

// ErrStopped is returned once the store has ended.
var ErrStopped = errors.New("the store has stopped")

// Key names one object.
type Key struct {
	// Resource is "pods" or "deployments.apps" (schema.GroupResource's string form).
	Resource  string
	Namespace string // empty for cluster-scoped kinds
	Name      string
}

// String is "resource namespace/name" for messages.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Resource + " " + k.Name
	}
	return k.Resource + " " + k.Namespace + "/" + k.Name
}

// Record is one object at one version. It is immutable and shared by all readers.
type Record struct {
	Key     Key
	Version uint64
	// Value is the Kubernetes protobuf encoding (or JSON for custom resources) with
	// the resource version appended as a second occurrence of metadata.
	Value []byte
	Index Index

	// ephemeral says below which prefix the object is stored.
	ephemeral bool
}

// Index holds what selectors and loops need of an object without decoding it.
type Index struct {
	UID    types.UID
	Labels Attributes
	// Fields are the kind's selectable fields, such as "spec.nodeName".
	// metadata.name and metadata.namespace are not in it: Key has them.
	Fields Attributes
	// Deleting is true once deletionTimestamp is set.
	Deleting bool
}

// Indexer derives the index of a stored value. It must be pure and safe for concurrent use.
type Indexer func(key Key, value []byte) (Index, error)

// Change is what a write wants done to one object.
type Change struct {
	// Value is the new encoding WITHOUT a resource version; nil with Delete or Keep.
	// The store copies it.
	Value []byte
	Index Index
	// Delete removes the object. Deleting an absent object changes nothing.
	Delete bool
	// Keep leaves the object as it is; the write succeeds with the current record.
	Keep bool
	// Rewrite stores the object as it is under a new version, for the sake of the form it
	// is stored in. Rewriting an absent object changes nothing.
	Rewrite bool
}

// Write is one object's write.
type Write struct {
	Key Key
	// Decide is called by the single writer when the batch is formed, with the
	// object's current record (nil if absent). No other write can come between it and the
	// commit, so checks made here are exact. It must be quick, must not block and may be
	// called again when a batch is formed anew. An error fails this write (and an atomic group).
	Decide func(current *Record) (Change, error)
}

// Group is one client request.
type Group struct {
	Writes []Write // no key twice
	// Atomic makes all writes succeed or none.
	Atomic bool
	// User and RequestID go to the batch's manifest. A RequestID seen before (of the
	// same user, within the last ten minutes) returns the first outcome again.
	User      string
	RequestID string
	// Epoch, if not 0, must be the current epoch (writes of the leader's components).
	Epoch uint64
	// Ephemeral writes (Leases of nodes, Events) stay out of the history.
	Ephemeral bool
}

// Result is the outcome of one write of a group.
type Result struct {
	// Record after the write; before it for deletes, with the deletion's version. Nil
	// for the delete of an absent object.
	Record *Record
	// Previous record, nil for creates.
	Previous *Record
	// Err is the error of Decide when the group is not atomic.
	Err error
	// Repeated is true when the request had been done before and this is its first
	// outcome, as far as it is still known: an object changed since is returned in its
	// present state, one deleted since as nil.
	Repeated bool
}

// EventType says what happened to an object.
type EventType uint8

// Event types.
const (
	Added EventType = iota + 1
	Modified
	Deleted
)

// Event is one change of one object.
type Event struct {
	Type EventType
	// Record is the object after the change; for Deleted its last state, at the deletion's version.
	Record *Record
	// Previous is the object before the change; nil for Added.
	Previous *Record
}

// Batch is what one commit changed in a watched collection.
type Batch struct {
	// Events in order of version. Shared by watchers, not to be changed. Empty in a
	// mere progress mark.
	Events []Event
	// Progress is the version up to which the watcher has now seen everything.
	Progress uint64
}

// Snapshot is a collection at one version.
type Snapshot struct {
	// Records ordered by namespace, then name. Not to be changed.
	Records []*Record
	Version uint64
}

// WatchOptions say what a watch shows.
type WatchOptions struct {
	// Resource is required.
	Resource string
	// Namespace limits the watch; empty means all.
	Namespace string
	// After is the version the watcher has seen; ignored by SnapshotAndWatch.
	After uint64
	// Filter selects objects; nil selects all. An object that begins to match appears
	// as Added, one that ceases to match as Deleted with its last matching state. It must be
	// pure and quick.
	Filter func(*Record) bool
	// Field and Value, if set, limit the watch to objects whose Index.Fields.Get(Field) is
	// Value (or was, before the change). Unlike with Filter, other objects' events cost
	// nothing. Field must come from a small set, such as "spec.nodeName".
	Field, Value string
	// Buffer bounds the events waiting for a slow reader; 0 means 10,000.
	Buffer int
}

// Observer keeps state derived from objects (allocators, quota) exact. Its methods are
// called from one goroutine, in order, on leaders and followers alike, and must not block.
type Observer interface {
	// Reset is called with every object after a load; earlier state is void.
	Reset(all iter.Seq[*Record])
	// Begin is called before a batch is formed, that is before its Decide functions.
	// Whatever earlier Decide functions reserved and Apply did not confirm is void.
	Begin()
	// Apply is called with what a committed batch changed, before its writers learn of
	// it and before the next Begin.
	Apply(events []Event)
}

// Term is a leader's reign.
type Term struct {
	// Epoch is the revision of the leader's claim; 0 before the first.
	Epoch uint64
	// Holder is the name of the master that claimed it.
	Holder string
	// Leading is true when that is this master and it is open for writes.
	Leading bool
}
