// Package history records what clients asked of objects and what they were told, and checks
// that each object behaved like a register with compare-and-set by resource version: that its
// history is linearizable (I2 of the reliability reference).
package history

import (
	"fmt"
	"sync"
	"time"
)

// Verb is what a client asked for.
type Verb string

// Verbs.
const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
	Get    Verb = "get"
)

// Outcome is what a client was told.
type Outcome string

// Outcomes. Whatever leaves open whether a write has happened is Unknown; reads that failed are
// not recorded, for they say nothing.
const (
	OK       Outcome = "ok"
	NotFound Outcome = "not found"
	Conflict Outcome = "conflict"
	Exists   Outcome = "exists"
	Unknown  Outcome = "unknown"
)

// Operation is one request about one object and its answer.
type Operation struct {
	// Client is unique among the operations that are under way at one time.
	Client int
	// Master that was asked.
	Master string
	// Key is the object's name.
	Key  string
	Verb Verb
	// RequestID names the request in the audit log and in the cluster's history.
	RequestID string
	// Value that was written; no two operations write the same.
	Value string `json:",omitempty"`
	// Expected is the version that the write was conditional on; 0 for none.
	Expected uint64 `json:",omitempty"`

	Outcome Outcome
	// Version of the object after the operation; of a deletion the deletion's own. 0 unless OK.
	Version uint64 `json:",omitempty"`
	// Read is the value that a Get returned.
	Read string `json:",omitempty"`
	// Called and Returned are times since the recorder's start. Returned is not used when
	// the outcome is Unknown.
	Called, Returned time.Duration
	// Error is the text of what left the outcome unknown.
	Error string `json:",omitempty"`
}

// String is for messages.
func (o Operation) String() string {
	return fmt.Sprintf("%s %s at %s by client %d through %s: value %q, expected %d → %s, version %d, read %q [%s, %s]",
		o.Verb, o.Key, o.RequestID, o.Client, o.Master, o.Value, o.Expected, o.Outcome, o.Version, o.Read, o.Called, o.Returned)
}

// Acknowledged says that the operation wrote and its client was told so.
func (o Operation) Acknowledged() bool { return o.Verb != Get && o.Outcome == OK }

// Recorder gathers operations. It is safe for concurrent use.
type Recorder struct {
	began time.Time

	mu         sync.Mutex
	operations []Operation
}

// NewRecorder returns an empty recorder; its time begins now.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

// Now is the time since the recorder's start, of a clock that is never set.
func (r *Recorder) Now() time.Duration { return time.Since(r.began) }

// Add records an operation that has been answered, or given up.
func (r *Recorder) Add(o Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.operations = append(r.operations, o)
}

// Operations are those recorded so far. The caller must not change them.
func (r *Recorder) Operations() []Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.operations[:len(r.operations):len(r.operations)]
}
