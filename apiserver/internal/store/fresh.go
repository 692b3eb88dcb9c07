package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/lifecycle"
)

// Fresh returns once memory is at least as new as any write acknowledged anywhere before
// the call. Calls share read proofs: those that arrive while one is made share the next.
// ErrNotLeading when a leader finds that another master has claimed the epoch.
func (s *Store) Fresh(ctx context.Context) error {
	if ctx.Value(provenKey{s}) != nil {
		return nil
	}
	round := s.barrier.join()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-round.done:
		return round.err
	}
}

// provenKey marks contexts in which memory was proven fresh.
type provenKey struct{ store *Store }

// Prove is Fresh for a request that reads more than once: with the context it returns, Fresh
// asks no more. So it is for the context of one short request, and for no other.
func (s *Store) Prove(ctx context.Context) (context.Context, error) {
	if err := s.Fresh(ctx); err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, provenKey{s}, true), nil
}

// WaitVersion returns once memory holds everything up to version.
func (s *Store) WaitVersion(ctx context.Context, version uint64) error {
	return s.waitRevision(ctx, RevisionOf(version))
}

func (s *Store) waitRevision(ctx context.Context, revision int64) error {
	return await(ctx, s.versions, revision, s.memory.now)
}

// await returns once now has reached revision, which waiters are told of.
func await(ctx context.Context, waiters *versionWaiters, revision int64, now func() int64) error {
	if now() >= revision {
		return nil
	}
	reached := waiters.add(revision, now)
	select {
	case <-reached:
		return nil
	case <-ctx.Done():
		waiters.remove(reached)
		return fmt.Errorf("wait for revision %d, memory is at %d: %w", revision, now(), ctx.Err())
	}
}

// proveAlways makes read proofs: when asked to, and often enough to notice that none can be had.
func (s *Store) proveAlways(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.loaded:
	}
	every := s.cfg.StaleAfter / 4
	proven, stale := s.cfg.Clock.Now(), false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.barrier.asked:
		case <-s.cfg.Clock.After(lifecycle.UntilBeat(s.cfg.Clock.Now(), every)):
			if s.cfg.Clock.Since(proven) < every {
				continue
			}
		}
		round := s.barrier.take()
		began := s.cfg.Clock.Now()
		// A proof that does not come must not hold up later callers for ever.
		once, cancel := context.WithTimeout(ctx, s.cfg.StaleAfter)
		round.err = s.prove(once)
		cancel()
		close(round.done)
		switch {
		case round.err == nil:
			proven = began
			if stale {
				stale = false
				s.log.Info("memory is proven current again")
				s.hub.open()
			}
		case ctx.Err() == nil && !stale && s.cfg.Clock.Since(proven) >= s.cfg.StaleAfter:
			stale = true
			s.log.Warn("memory cannot be proven current, ending watches", zap.Error(round.err))
			s.hub.stop(ErrStale)
		}
		s.barrier.stale.Store(stale)
	}
}

// Current is false while this master cannot prove that its memory is current: it should
// be taken out of service.
func (s *Store) Current() bool {
	select {
	case <-s.loaded:
		return !s.barrier.stale.Load()
	default:
		return false
	}
}

// prove makes one read proof. On a leader nothing commits but through it while its epoch
// lasts; on a follower memory must reach what etcd had when asked.
func (s *Store) prove(ctx context.Context) error {
	term := s.terms.now()
	pair, revision, err := s.read(ctx, fenceKey)
	if err != nil {
		return fmt.Errorf("read proof: %w", err)
	}
	if term.Leading && uint64(pair.Revision) == term.Epoch {
		return nil
	}
	// A follower; or a leader that is no longer, whose memory will follow.
	return s.waitRevision(ctx, revision)
}

// read is the backend's Read, repeated until ctx ends: while etcd elects a leader it fails, and
// a moment later it does not.
func (s *Store) read(ctx context.Context, key string) (Pair, int64, error) {
	for {
		pair, revision, err := s.cfg.Backend.Read(ctx, key)
		if err == nil || ctx.Err() != nil {
			return pair, revision, err
		}
		s.settle(ctx, 10*time.Millisecond)
	}
}

// barrier collects callers of Fresh into rounds.
type barrier struct {
	asked chan struct{}
	stale atomic.Bool

	mu      sync.Mutex
	next    *round
	stopped bool
}

// round is one read proof; err is set before done is closed.
type round struct {
	done chan struct{}
	err  error
}

func newBarrier() *barrier { return &barrier{asked: make(chan struct{}, 1)} }

func newRound() *round { return &round{done: make(chan struct{})} }

// join returns the next round to begin.
func (b *barrier) join() *round {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = newRound()
		if b.stopped {
			b.next.err = ErrStopped
			close(b.next.done)
			return b.next
		}
		select {
		case b.asked <- struct{}{}:
		default:
		}
	}
	return b.next
}

// take closes the next round to further callers; it begins now.
func (b *barrier) take() *round {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.next
	b.next = nil
	if r == nil {
		r = newRound()
	}
	return r
}

// stop fails the waiting callers and all later ones.
func (b *barrier) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	if b.next != nil {
		b.next.err = ErrStopped
		close(b.next.done)
		return
	}
	b.next = newRound()
	b.next.err = ErrStopped
	close(b.next.done)
}

// versionWaiters are callers that wait for memory, or the history, to reach a revision.
type versionWaiters struct {
	count atomic.Int32

	mu   sync.Mutex
	list map[chan struct{}]int64
}

func newVersionWaiters() *versionWaiters { return &versionWaiters{list: map[chan struct{}]int64{}} }

// add returns a channel that is closed when revision is reached. now is asked after
// the waiter is known, so that no advance is missed.
func (v *versionWaiters) add(revision int64, now func() int64) chan struct{} {
	c := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.list[c] = revision
	v.count.Add(1)
	if now() >= revision {
		v.release(c)
	}
	return c
}

func (v *versionWaiters) release(c chan struct{}) {
	delete(v.list, c)
	v.count.Add(-1)
	close(c)
}

func (v *versionWaiters) remove(c chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, found := v.list[c]; found {
		v.release(c)
	}
}

// reached releases the callers that waited for revision or less.
func (v *versionWaiters) reached(revision int64) {
	if v.count.Load() == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for c, wanted := range v.list {
		if wanted <= revision {
			v.release(c)
		}
	}
}

// settle waits a moment between attempts at something that failed.
func (s *Store) settle(ctx context.Context, d time.Duration) {
	timer := s.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C():
	}
}
