package store

import (
	"time"
)

// Bounds of the memory of requests.
const (
	requestWindow = 10 * time.Minute
	requestLimit  = 50_000
)

// requests remembers what was done for which request id, so that a repeated request
// is recognised, on a new leader too. The applier alone uses it.
type requests struct {
	known map[requestID]*outcome
	// order of arrival, oldest first, from head.
	order []*outcome
	head  int
}

// requestID is scoped by user: nobody can guess another's.
type requestID struct{ user, id string }

// outcome is what a request did.
type outcome struct {
	id     requestID
	at     time.Time
	writes []outcomeWrite
}

// outcomeWrite is one write of a request; version is 0 when it did not happen.
type outcomeWrite struct {
	key     Key
	version uint64
	remove  bool
}

func newRequests() *requests { return &requests{known: map[requestID]*outcome{}} }

func (r *requests) remember(o *outcome, now time.Time) {
	if o.id.id == "" {
		return
	}
	o.at = now
	r.known[o.id] = o
	r.order = append(r.order, o)
	for r.head < len(r.order) &&
		(len(r.order)-r.head > requestLimit || now.Sub(r.order[r.head].at) > requestWindow) {
		old := r.order[r.head]
		if r.known[old.id] == old {
			delete(r.known, old.id)
		}
		r.order[r.head] = nil
		r.head++
	}
	if r.head > 1024 && r.head > len(r.order)/2 {
		r.order = append([]*outcome(nil), r.order[r.head:]...)
		r.head = 0
	}
}

func (r *requests) find(id requestID, now time.Time) *outcome {
	if id.id == "" {
		return nil
	}
	o := r.known[id]
	if o == nil || now.Sub(o.at) > requestWindow {
		return nil
	}
	return o
}

// learn remembers the requests of a manifest.
func (r *requests) learn(m *manifest, revision int64, now time.Time) {
	for i := range m.groups {
		g := &m.groups[i]
		if g.requestID == "" || g.size > maxWrites {
			continue
		}
		o := &outcome{id: requestID{g.user, g.requestID}, writes: make([]outcomeWrite, g.size)}
		for _, w := range g.writes {
			k, _, ok := parsePath(w.path)
			if !ok || w.position >= g.size {
				continue
			}
			o.writes[w.position] = outcomeWrite{key: k, version: VersionOf(revision, w.index), remove: w.remove}
		}
		r.remember(o, now)
	}
}
