package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// Commit performs a group of writes and returns one result per write. It returns once
// the batch holding them is durable on a quorum and in this master's memory.
//
// Errors: ErrNotLeading (did not happen), ErrFenced (group.Epoch is over), ErrUnknownOutcome
// (may have happened: repeat with the same RequestID), ErrTooLarge, ctx's when the group had
// not been begun, or Decide's when the group is atomic or has one write. What Decide
// returned leaves only after it was proven that this master still led. The group must not
// be changed until Commit returns.
func (s *Store) Commit(ctx context.Context, group Group) ([]Result, error) {
	if err := check(group.Writes); err != nil {
		return nil, err
	}
	if len(group.Writes) == 0 {
		return nil, nil
	}
	p := &pending{group: group, done: make(chan struct{}, 1)}
	if !s.queue.add(p) {
		return nil, ErrNotLeading
	}
	select {
	case <-p.done:
		return p.results, p.err
	case <-ctx.Done():
	}
	if p.state.CompareAndSwap(stateQueued, stateWithdrawn) {
		return nil, ctx.Err()
	}
	select {
	case <-p.done:
		return p.results, p.err
	default:
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
}

// check refuses what would spoil the batch for others.
func check(writes []Write) error {
	if len(writes) > maxWrites {
		return fmt.Errorf("%w: %d writes, at most %d", ErrTooLarge, len(writes), maxWrites)
	}
	for i := range writes {
		if !writes[i].Key.valid() {
			return fmt.Errorf("store: %q is no valid key", writes[i].Key.String())
		}
	}
	if len(writes) == 1 {
		return nil
	}
	seen := make(map[Key]struct{}, len(writes))
	for i := range writes {
		if _, twice := seen[writes[i].Key]; twice {
			return fmt.Errorf("store: %s is written twice in one request", writes[i].Key)
		}
		seen[writes[i].Key] = struct{}{}
	}
	return nil
}

// commitAll commits batch after batch until ctx ends or the term is lost.
func (s *Store) commitAll(ctx context.Context) error {
	b := newBatch()
	var waiting []*pending
	for {
		s.queue.gather(len(b.members))
		waiting = s.queue.take(waiting)
		if len(waiting) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-s.queue.wake:
			}
			continue
		}
		if ctx.Err() != nil {
			refuse(waiting)
			return nil
		}
		waiting = s.form(b, waiting)
		if err := s.commit(b); err != nil {
			refuse(waiting)
			return err
		}
	}
}

func refuse(waiting []*pending) {
	for _, p := range waiting {
		if p.state.CompareAndSwap(stateQueued, stateTaken) {
			p.finish(ErrNotLeading)
		}
	}
}

// form fills the batch and returns the groups that have to wait for the next.
func (s *Store) form(b *batch, waiting []*pending) []*pending {
	b.reset()
	for _, o := range s.observers {
		o.Begin()
	}
	now := s.cfg.Clock.Now()
	left := waiting[:0]
	for i, p := range waiting {
		switch s.add(b, p, now) {
		case deferred:
			left = append(left, p)
			continue
		case full:
			left = append(left, waiting[i:]...)
		case added:
			continue
		}
		break
	}
	clear(waiting[len(left):])
	return left
}

// commit makes the batch durable and visible and answers its groups. An error ends the term.
func (s *Store) commit(b *batch) error {
	if len(b.members) == 0 {
		return nil
	}
	if len(b.planned) == 0 {
		return s.answerUnchanged(b)
	}
	now := s.cfg.Clock.Now()
	s.batchNumber++
	ops := append(b.ops, Op{Key: manifestKey, Value: s.manifest(b, now).encode()})
	ctx, cancel := s.underWay()
	revision, err := s.cfg.Backend.Commit(ctx, fenceKey, int64(s.epoch), ops)
	cancel()
	if err != nil {
		if revision, err = s.resolve(err); err != nil {
			return s.fail(b, err)
		}
	}
	s.room.Load().take(b.bytes)
	events := s.events(b, revision)
	s.install(revision, events)
	s.record(b, revision, now)
	for i := range b.members {
		m := &b.members[i]
		m.p.finish(m.err)
	}
	s.hub.publish(revision, events)
	return nil
}

// afterDisturbance is how long an answer is awaited that a change of the backend's leader may have
// lost. One that was not lost comes with the new leader's first commits; waiting longer only keeps
// everybody from writing, since the manifest tells in the end what became of a batch.
const afterDisturbance = 200 * time.Millisecond

// underWay bounds a transaction.
func (s *Store) underWay() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.CommitTimeout)
	if s.cfg.Disturbed == nil {
		return ctx, cancel
	}
	disturbed := s.cfg.Disturbed()
	go func() {
		select {
		case <-disturbed:
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(afterDisturbance)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// answerUnchanged answers groups that change nothing. What they are told came from
// memory, so first it must be proven that no other master has written meanwhile.
func (s *Store) answerUnchanged(b *batch) error {
	ctx, cancel := s.underWay()
	defer cancel()
	pair, _, err := s.read(ctx, fenceKey)
	if err != nil {
		return s.fail(b, fmt.Errorf("%w: check the fence: %w", ErrNotLeading, err))
	}
	if uint64(pair.Revision) != s.epoch {
		return s.fail(b, ErrFenced)
	}
	for i := range b.members {
		b.members[i].p.finish(b.members[i].err)
	}
	return nil
}

// resolve learns what became of the batch whose commit failed with cause: its revision
// if it was committed after all.
func (s *Store) resolve(cause error) (int64, error) {
	if errors.Is(cause, ErrFenced) || errors.Is(cause, ErrRefused) {
		return 0, cause
	}
	s.log.Warn("batch has an unknown outcome, reading its manifest", zap.Error(cause))
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.CommitTimeout)
	defer cancel()
	if pair, _, err := s.read(ctx, manifestKey); err == nil {
		m, err := decodeManifest(pair.Value)
		if err == nil && m.epoch == s.epoch && m.batch == s.batchNumber {
			return pair.Revision, nil
		}
		if errors.Is(cause, ErrNoSpace) {
			return 0, fmt.Errorf("%w: %w", ErrRefused, cause)
		}
		// The transaction may still lie in some queue. Only a new claim rules that out, so
		// the term ends here.
	}
	return 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, cause)
}

// fail answers a batch that was not, or perhaps not, committed. It returns the error if
// that ends the term.
func (s *Store) fail(b *batch, err error) error {
	answer, final := err, err
	switch {
	case errors.Is(err, ErrRefused):
		final = nil
	case errors.Is(err, ErrFenced):
		// To the caller it is no fence: another master leads and can be asked.
		answer = ErrNotLeading
	}
	for i := range b.members {
		b.members[i].p.results = nil
		b.members[i].p.finish(answer)
	}
	return final
}

// events makes the records of a committed batch and fills its results.
func (s *Store) events(b *batch, revision int64) []Event {
	events := make([]Event, 0, len(b.planned))
	for i := range b.planned {
		w := &b.planned[i]
		s.quarantine.take(w.key)
		if w.value == nil && w.previous == nil {
			continue // nobody has seen what was set aside
		}
		events = append(events, Event{Previous: w.previous})
		e, version := &events[len(events)-1], VersionOf(revision, i)
		switch {
		case w.value == nil:
			e.Type, e.Record = Deleted, s.restamp(w.previous, version)
		case w.previous == nil:
			e.Type, e.Record = Added, s.stamp(w.key, version, w.value[valueHeader:], w.index, w.ephemeral)
		default:
			e.Type, e.Record = Modified, s.stamp(w.key, version, w.value[valueHeader:], w.index, w.ephemeral)
		}
		r := &b.members[w.member].p.results[w.position]
		r.Record, r.Previous = e.Record, w.previous
	}
	return events
}

// record remembers the requests of a committed batch.
func (s *Store) record(b *batch, revision int64, now time.Time) {
	for i := range b.members {
		m := &b.members[i]
		g := &m.p.group
		if g.RequestID == "" || m.last == m.first {
			continue
		}
		o := &outcome{id: requestID{g.User, g.RequestID}, writes: make([]outcomeWrite, len(g.Writes))}
		for j := m.first; j < m.last; j++ {
			w := &b.planned[j]
			o.writes[w.position] = outcomeWrite{key: w.key, version: VersionOf(revision, j), remove: w.value == nil}
		}
		s.requests.remember(o, now)
	}
}

// install makes one revision visible, tells the observers and wakes who waits for it.
func (s *Store) install(revision int64, events []Event) {
	s.memory.apply(revision, events)
	if len(events) > 0 {
		for _, o := range s.observers {
			o.Apply(events)
		}
	}
	s.versions.reached(revision)
}
