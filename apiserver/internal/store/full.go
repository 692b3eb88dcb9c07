package store

import (
	"sync/atomic"
)

// room is what may still be written.
type room struct {
	left    atomic.Int64
	refusal error
}

// SetRoom says how many bytes may still be written until the next call; then, with bytes of 0 or less
// at once, what needs more space is refused with the given error, which should be an ErrFull: objects
// that are created or become larger. What makes room or is needed for it goes on: deletions, whatever
// is written to an object that is being deleted, updates that make an object smaller, and heartbeats.
// Without an error there is room for everything. It concerns this master's batches while it leads.
func (s *Store) SetRoom(bytes int64, refusal error) {
	if refusal == nil {
		s.room.Store(nil)
		return
	}
	r := &room{refusal: refusal}
	r.left.Store(bytes)
	s.room.Store(r)
}

// Room is how much of the room set last is left; it is below 0 when more was written.
func (s *Store) Room() (bytes int64, bounded bool) {
	r := s.room.Load()
	if r == nil {
		return 0, false
	}
	return r.left.Load(), true
}

// refuse returns why a change is refused, nil if it is not.
func (r *room) refuse(s *Store, g *Group, change *Change, current *Record) error {
	if r == nil || r.left.Load() > 0 || !s.grows(g, change, current) {
		return nil
	}
	return r.refusal
}

// take notes that a batch has been written.
func (r *room) take(bytes int) {
	if r != nil {
		r.left.Add(-int64(bytes))
	}
}

// grows says whether a change needs space that it does not give back.
func (s *Store) grows(g *Group, change *Change, current *Record) bool {
	switch {
	case change.Delete, change.Keep:
		return false
	case current == nil:
		return true
	case current.Index.Deleting, change.Index.Deleting:
		return false
	case change.Rewrite:
		return true
	case g.Ephemeral: // a heartbeat is as large as the last
		return len(change.Value) > len(current.Value)
	}
	return len(change.Value) >= len(s.unstamped(current))
}
