package store

import (
	"time"
)

// batch is what one transaction will hold. The committer reuses it.
type batch struct {
	ops     []Op
	planned []planned
	members []member
	bytes   int

	keys map[Key]struct{}
	ids  map[requestID]struct{}
}

// planned is one write that changes something.
type planned struct {
	key       Key
	path      string
	value     []byte // stored form; nil for deletes
	index     Index
	previous  *Record
	ephemeral bool
	member    int // index in members
	position  int // in the group
}

// member is a group that gets its answer with the batch.
type member struct {
	p     *pending
	err   error // the group's own failure
	first int   // its writes are planned[first:last]
	last  int
	// repeated is the first outcome if the request was done before.
	repeated bool
}

func newBatch() *batch {
	return &batch{keys: map[Key]struct{}{}, ids: map[requestID]struct{}{}}
}

func (b *batch) reset() {
	clear(b.ops)
	clear(b.planned)
	clear(b.members)
	b.ops, b.planned, b.members, b.bytes = b.ops[:0], b.planned[:0], b.members[:0], 0
	clear(b.keys)
	clear(b.ids)
}

// verdict says what came of trying to add a group.
type verdict uint8

const (
	added    verdict = iota
	deferred         // must wait for the next batch: it shares a key or id with this one
	full             // no room for it, nor for what follows it
)

// add decides a group's writes against committed state and plans them. Only the
// committer calls it.
func (s *Store) add(b *batch, p *pending, now time.Time) verdict {
	g := &p.group
	if len(b.planned)+len(g.Writes) > maxWrites {
		return full
	}
	for i := range g.Writes {
		if _, taken := b.keys[g.Writes[i].Key]; taken {
			return deferred
		}
	}
	id := requestID{g.User, g.RequestID}
	if id.id != "" {
		if _, taken := b.ids[id]; taken {
			return deferred
		}
	}
	if b.bytes > 0 && b.bytes+sizeHint(g) > s.cfg.BatchBytes {
		return full
	}
	if !p.state.CompareAndSwap(stateQueued, stateTaken) {
		return added // its caller has gone
	}
	m := member{p: p, first: len(b.planned), last: len(b.planned)}
	switch {
	case isFenced(g.Epoch, s.epoch):
		m.err = ErrFenced
	default:
		if o := s.requests.find(id, now); o != nil && len(o.writes) == len(g.Writes) {
			m.repeated = true
			s.repeat(p, o)
			break
		}
		bytes, ops := b.bytes, len(b.ops)
		m.err = s.decide(b, p, len(b.members))
		if m.err == nil && b.bytes > s.cfg.BatchBytes && ops > 0 {
			// Decided, but too big to share this batch.
			b.undo(bytes, ops, m.first)
			p.state.Store(stateQueued)
			return full
		}
		if m.err == nil && b.bytes > maxTransaction {
			m.err = ErrTooLarge
		}
		if m.err != nil {
			b.undo(bytes, ops, m.first)
		}
		m.last = len(b.planned)
	}
	for i := m.first; i < m.last; i++ {
		b.keys[b.planned[i].key] = struct{}{}
	}
	if id.id != "" {
		b.ids[id] = struct{}{}
	}
	b.members = append(b.members, m)
	return added
}

// sizeHint is what a group needs at least.
func sizeHint(g *Group) int { return 64 * len(g.Writes) }

func (b *batch) undo(bytes, ops, first int) {
	clear(b.ops[ops:])
	clear(b.planned[first:])
	b.bytes, b.ops, b.planned = bytes, b.ops[:ops], b.planned[:first]
}

// decide calls the writes' Decide. The error is the whole group's.
func (s *Store) decide(b *batch, p *pending, member int) error {
	g := &p.group
	results := make([]Result, len(g.Writes))
	p.results = results
	for i := range g.Writes {
		w := &g.Writes[i]
		current := s.memory.peek(w.Key)
		change, err := w.Decide(current)
		if err == nil {
			err = s.room.Load().refuse(s, g, &change, current)
		}
		if err != nil {
			if g.Atomic || len(g.Writes) == 1 {
				return err
			}
			results[i].Err = err
			continue
		}
		results[i] = Result{Record: current, Previous: current}
		former, stored := s.former(w.Key, current)
		if change.Keep || change.Rewrite && current == nil || change.Delete && !stored {
			continue
		}
		ephemeral := g.Ephemeral
		if change.Rewrite {
			change.Value, change.Index, ephemeral = s.unstamped(current), current.Index, current.ephemeral
		}
		plan := planned{
			key: w.Key, index: change.Index, previous: current, ephemeral: ephemeral,
			member: member, position: i,
		}
		if change.Delete {
			plan.ephemeral = former
			plan.path = path(w.Key, plan.ephemeral)
			b.ops = append(b.ops, Op{Key: plan.path, Delete: true})
		} else {
			if stored && former != ephemeral {
				b.ops = append(b.ops, Op{Key: path(w.Key, former), Delete: true})
			}
			plan.path = path(w.Key, ephemeral)
			plan.value = encodeValue(len(b.planned), change.Value)
			b.ops = append(b.ops, Op{Key: plan.path, Value: plan.value})
		}
		b.bytes += len(plan.value) + 2*len(plan.path) + 64
		b.planned = append(b.planned, plan)
	}
	return nil
}

// former says whether an object is stored, readable or not, and below which prefix.
func (s *Store) former(k Key, current *Record) (ephemeral, stored bool) {
	if current != nil {
		return current.ephemeral, true
	}
	aside, found := s.quarantine.get(k)
	return aside.ephemeral, found
}

// repeat answers a request that was done before.
func (s *Store) repeat(p *pending, o *outcome) {
	p.results = make([]Result, len(o.writes))
	for i, w := range o.writes {
		r := &p.results[i]
		r.Repeated = true
		current := s.memory.peek(p.group.Writes[i].Key)
		if w.version == 0 {
			r.Record, r.Previous = current, current
			continue
		}
		if e := s.hub.find(w.key, w.version); e != nil {
			r.Record, r.Previous = e.Record, e.Previous
			continue
		}
		if !w.remove {
			r.Record = current
		}
	}
}

// manifest describes the batch.
func (s *Store) manifest(b *batch, now time.Time) *manifest {
	m := &manifest{epoch: s.epoch, batch: s.batchNumber, time: now, groups: s.manifestGroups[:0]}
	writes := s.manifestWrites[:0]
	for i := range b.members {
		member := &b.members[i]
		g := &member.p.group
		start := len(writes)
		for j := member.first; j < member.last; j++ {
			w := &b.planned[j]
			if w.ephemeral && w.value != nil {
				continue
			}
			writes = append(writes, manifestWrite{position: w.position, index: j, remove: w.value == nil, path: w.path})
		}
		if len(writes) > start {
			m.groups = append(m.groups, manifestGroup{
				user: g.User, requestID: g.RequestID, size: len(g.Writes), writes: writes[start:len(writes):len(writes)],
			})
		}
	}
	s.manifestGroups, s.manifestWrites = m.groups, writes
	return m
}
