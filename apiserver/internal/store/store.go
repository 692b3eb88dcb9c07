// Package store holds every object of the cluster in memory, as the bytes that
// clients receive, and makes this master's leader term the single writer of them.
//
// A write joins the current batch; a batch is one etcd transaction guarded by the
// leader's epoch; it is acknowledged and published to watchers from memory
// (DESIGN.md D4, D6). On a master that does not lead, the store follows what the
// local etcd member delivers and refuses writes with ErrNotLeading.
package store

import (
	"errors"

	"k8s.io/apimachinery/pkg/types"
)

// ErrNotLeading is returned for writes on a master that does not lead, or no longer does.
var ErrNotLeading = errors.New("this master does not lead")

// ErrUnknownOutcome is returned when a write may or may not have been committed.
var ErrUnknownOutcome = errors.New("the outcome of the write is unknown")

// ErrFenced is returned for a write that carries another epoch than the current one.
var ErrFenced = errors.New("fenced: the epoch is over")

// ErrExpired is returned for a watch or list that starts before the kept history.
var ErrExpired = errors.New("resource version is too old")

// Key names one object.
type Key struct {
	// Resource is "pods" or "deployments.apps" (schema.GroupResource's string form).
	Resource  string
	Namespace string // empty for cluster-scoped kinds
	Name      string
}

// Record is one object at one version. It is immutable and shared by all readers.
type Record struct {
	Key     Key
	Version uint64
	// Value is the Kubernetes protobuf encoding (or JSON for custom resources) with
	// the resource version appended as a second occurrence of metadata.
	Value []byte
	Index Index
}

// Index holds what selectors and loops need of an object without decoding it.
type Index struct {
	UID    types.UID
	Labels map[string]string
	// Fields are the kind's selectable fields, such as "spec.nodeName".
	// metadata.name and metadata.namespace are not in it: Key has them.
	Fields map[string]string
	// Deleting is true once deletionTimestamp is set.
	Deleting bool
}

// Indexer derives the index of a stored value. It must be pure and safe for concurrent use.
type Indexer func(key Key, value []byte) (Index, error)

// Change is what a write wants done to one object.
type Change struct {
	// Value is the new encoding WITHOUT a resource version; nil with Delete or Keep.
	Value []byte
	Index Index
	// Delete removes the object.
	Delete bool
	// Keep leaves the object as it is; the write succeeds with the current record.
	Keep bool
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
	// User and RequestID go to the batch's manifest. A RequestID seen before returns
	// the first outcome again.
	User      string
	RequestID string
	// Epoch, if not 0, must be the current epoch (writes of the leader's components).
	Epoch uint64
	// Ephemeral writes (Leases of nodes, Events) stay out of the history.
	Ephemeral bool
}

// Result is the outcome of one write of a group.
type Result struct {
	// Record after the write; before it for deletes, with the deletion's version.
	Record *Record
	// Previous record, nil for creates.
	Previous *Record
	// Err is the error of Decide when the group is not atomic.
	Err error
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
