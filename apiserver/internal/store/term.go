package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// terms is the newest term known, and who waits for the next.
type terms struct {
	mu      sync.Mutex
	term    Term
	changed chan struct{} // closed at the next change
}

func newTerms() *terms { return &terms{changed: make(chan struct{})} }

func (t *terms) now() Term {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.term
}

func (t *terms) set(update func(*Term)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.term
	update(&t.term)
	if t.term != before {
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// Term returns the newest epoch this master knows of and whether it leads in it,
// open for writes.
func (s *Store) Term() Term { return s.terms.now() }

// TermChanged returns a channel that is closed at the next change of Term.
func (s *Store) TermChanged() <-chan struct{} {
	s.terms.mu.Lock()
	defer s.terms.mu.Unlock()
	return s.terms.changed
}

// WatchTerm yields the present term and then each change, until ctx ends. A slow reader
// misses intermediate terms, never the newest.
func (s *Store) WatchTerm(ctx context.Context) iter.Seq[Term] {
	return func(yield func(Term) bool) {
		for {
			s.terms.mu.Lock()
			term, changed := s.terms.term, s.terms.changed
			s.terms.mu.Unlock()
			if !yield(term) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

// reign is one term of this master as leader.
type reign struct {
	ctx   context.Context //nolint:containedctx // the reign is a request handed to the applier
	epoch uint64
	done  chan error
}

// Lead claims the epoch, waits until memory has reached the claim, opens for writes
// and blocks until ctx ends (then it returns nil after the batch in flight) or the term
// is lost: ErrFenced when another master claimed, ErrUnknownOutcome when a batch's
// outcome could not be learned. A second call waits for the first to end.
//
// When ctx ends, new writes are refused at once.
func (s *Store) Lead(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.loaded:
	}
	select {
	case <-ctx.Done():
		return nil
	case s.leading <- struct{}{}:
	}
	defer func() { <-s.leading }()
	epoch, err := s.claim(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("claim the fence: %w", err)
	}
	if err := s.waitRevision(ctx, int64(epoch)); err != nil {
		return nil //nolint:nilerr // only ctx ends the wait
	}
	r := &reign{ctx: ctx, epoch: epoch, done: make(chan error, 1)}
	s.handover.Lock()
	s.request = r
	if s.unfollow != nil {
		s.unfollow()
	}
	s.handover.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
	}
	s.handover.Lock()
	if s.request == r { // never begun
		s.request = nil
		s.handover.Unlock()
		return nil
	}
	s.handover.Unlock()
	s.terms.set(func(t *Term) { t.Leading = false })
	return <-r.done
}

// claim writes the fence key and returns the claim's revision. It proves that etcd has a
// quorum, too.
func (s *Store) claim(ctx context.Context) (uint64, error) {
	value, err := fenceValue(s.cfg.Name)
	if err != nil {
		return 0, err
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
		pair, _, err := s.cfg.Backend.Read(attempt, fenceKey)
		if err == nil && string(pair.Value) == value {
			cancel()
			return uint64(pair.Revision), nil // a claim of unknown outcome that did happen
		}
		var revision int64
		if err == nil {
			revision, err = s.cfg.Backend.Commit(attempt, fenceKey, pair.Revision, []Op{{Key: fenceKey, Value: []byte(value)}})
		}
		cancel()
		switch {
		case err == nil:
			return uint64(revision), nil
		case errors.Is(err, ErrFenced), errors.Is(err, ErrRefused), ctx.Err() != nil:
			return 0, err
		}
		s.log.Warn("claim has an unknown outcome, trying again", zap.Error(err))
		s.settle(ctx, 20*time.Millisecond)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

// fenceValue names the claimer; a nonce tells claims of one master apart.
func fenceValue(holder string) (string, error) {
	var nonce [8]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return "", fmt.Errorf("nonce: %w", err)
	}
	return fmt.Sprintf("%s %016x", holder, binary.BigEndian.Uint64(nonce[:])), nil
}

func fenceHolder(value []byte) string {
	holder, _, _ := strings.Cut(string(value), " ")
	return holder
}

// claimed notes a claim that the applier has seen.
func (s *Store) claimed(pair Pair) {
	s.epoch, s.batchNumber = uint64(pair.Revision), 0
	s.terms.set(func(t *Term) {
		*t = Term{Epoch: uint64(pair.Revision), Holder: fenceHolder(pair.Value)}
	})
}

// reign runs one term in the applier's goroutine.
func (s *Store) reign(r *reign) {
	err := s.rule(r)
	s.terms.set(func(t *Term) { t.Leading = false })
	for _, p := range s.queue.stop() {
		if p.state.CompareAndSwap(stateQueued, stateTaken) {
			p.finish(ErrNotLeading)
		}
	}
	if err != nil {
		s.log.Warn("term lost", zap.Uint64("epoch", r.epoch), zap.Error(err))
	} else {
		s.log.Info("term over", zap.Uint64("epoch", r.epoch))
	}
	r.done <- err
}

func (s *Store) rule(r *reign) error {
	if r.ctx.Err() != nil {
		return nil
	}
	if s.epoch != r.epoch {
		return ErrFenced // claimed again while this claim was being reached
	}
	s.log.Info("leading", zap.Uint64("epoch", r.epoch))
	s.queue.start()
	s.terms.set(func(t *Term) { t.Leading = t.Epoch == r.epoch })
	if r.ctx.Err() != nil {
		return nil
	}
	return s.commitAll(r.ctx)
}
