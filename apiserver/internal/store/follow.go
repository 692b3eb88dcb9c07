package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// apply is the applier: the one goroutine that changes memory. It follows etcd, except
// while this master reigns; then it commits.
func (s *Store) apply(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return endedOr(ctx, err)
	}
	for ctx.Err() == nil {
		followCtx, r := s.nextRole(ctx)
		if r != nil {
			s.reign(r)
			continue
		}
		err := s.cfg.Backend.Watch(followCtx, s.memory.now(), s.follow)
		switch {
		case followCtx.Err() != nil:
		case errors.Is(err, ErrCompacted):
			s.log.Warn("fell behind the kept history, loading anew", zap.Int64("revision", s.memory.now()))
			if err := s.load(ctx); err != nil {
				return endedOr(ctx, err)
			}
		default:
			s.log.Warn("lost the watch, resuming", zap.Int64("revision", s.memory.now()), zap.Error(err))
			s.settle(ctx, 50*time.Millisecond)
		}
	}
	if _, r := s.nextRole(ctx); r != nil {
		r.done <- nil
	}
	return nil
}

func endedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// nextRole returns the reign that waits, or the context under which to follow.
func (s *Store) nextRole(ctx context.Context) (context.Context, *reign) {
	s.handover.Lock()
	defer s.handover.Unlock()
	if s.unfollow != nil {
		s.unfollow()
		s.unfollow = nil
	}
	if r := s.request; r != nil {
		s.request = nil
		return nil, r
	}
	follow, cancel := context.WithCancel(ctx)
	s.unfollow = cancel
	return follow, nil
}

// load reads everything, beginning some revisions back so that the history and the memory
// of requests are filled by what follows, and catches up with the present.
func (s *Store) load(ctx context.Context) error {
	began := s.cfg.Clock.Now()
	fence, revision, err := s.untilRead(ctx, fenceKey)
	if err != nil {
		return fmt.Errorf("read the fence: %w", err)
	}
	s.quarantine.clear()
	start := max(revision-s.cfg.Replay, 1)
	loaded, err := s.loadAt(ctx, start)
	if errors.Is(err, ErrCompacted) {
		loaded, err = s.loadAt(ctx, 0)
	}
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	s.memory.replace(loaded.revision, loaded.collections)
	s.requests = newRequests()
	s.hub.reset(loaded.revision)
	if fence.Revision != 0 && fence.Revision <= loaded.revision {
		s.claimed(fence)
	}
	for _, o := range s.observers {
		o.Reset(s.memory.each)
	}
	s.versions.reached(loaded.revision)

	catchUp, cancel := context.WithCancel(ctx)
	defer cancel()
	for s.memory.now() < revision {
		err := s.cfg.Backend.Watch(catchUp, s.memory.now(), func(r Revision) error {
			if err := s.follow(r); err != nil {
				return err
			}
			if r.Number >= revision {
				cancel()
			}
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrCompacted) {
			return s.load(ctx)
		}
		if s.memory.now() < revision {
			s.log.Warn("lost the watch while loading, resuming", zap.Error(err))
			s.settle(ctx, 50*time.Millisecond)
		}
	}
	s.hub.open()
	select {
	case <-s.loaded:
	default:
		close(s.loaded)
	}
	s.log.Info("store loaded", zap.Int("objects", loaded.objects), zap.Int64("revision", s.memory.now()),
		zap.Int64("historyFrom", loaded.revision), zap.Duration("took", s.cfg.Clock.Since(began)))
	return nil
}

// untilRead reads a key, waiting for etcd to have a leader.
func (s *Store) untilRead(ctx context.Context, key string) (Pair, int64, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
		pair, revision, err := s.cfg.Backend.Read(attempt, key)
		cancel()
		if err == nil || ctx.Err() != nil {
			return pair, revision, err
		}
		s.log.Warn("cannot read yet", zap.String("key", key), zap.Error(err))
		s.settle(ctx, 50*time.Millisecond)
	}
}

// content is a loaded memory.
type content struct {
	revision    int64
	objects     int
	collections map[string]*collection
}

// loadAt reads all objects of one revision; pages are indexed while the next is read.
func (s *Store) loadAt(ctx context.Context, revision int64) (*content, error) {
	var pages []*[]*Record
	var indexers errgroup.Group
	indexers.SetLimit(4)
	for _, prefix := range []string{objectPrefix, ephemeralPrefix} {
		at, err := s.cfg.Backend.Load(ctx, prefix, revision, func(pairs []Pair) error {
			page := &[]*Record{}
			pages = append(pages, page)
			indexers.Go(func() error {
				for _, pair := range pairs {
					if r := s.recordOf(pair); r != nil {
						*page = append(*page, r)
					}
				}
				return nil
			})
			return nil
		})
		if err != nil {
			_ = indexers.Wait()
			return nil, fmt.Errorf("objects below %s: %w", prefix, err)
		}
		revision = at
	}
	_ = indexers.Wait() // they do not fail
	c := &content{revision: revision, collections: map[string]*collection{}}
	for _, page := range pages {
		for _, r := range *page {
			col := c.collections[r.Key.Resource]
			if col == nil {
				col = newCollection()
				c.collections[r.Key.Resource] = col
			}
			col.byName[name{r.Key.Namespace, r.Key.Name}] = r
			col.ordered.ReplaceOrInsert(r)
			c.objects++
		}
	}
	return c, nil
}

// recordOf makes the record of a stored pair; nil if it is none or is damaged.
func (s *Store) recordOf(pair Pair) *Record {
	k, ephemeral, ok := parsePath(pair.Key)
	if !ok {
		return nil
	}
	var index int
	var encoding []byte
	err := pair.Err
	if err == nil {
		index, encoding, err = decodeValue(pair.Value)
	}
	if err == nil {
		value := make([]byte, len(encoding), len(encoding)+stampRoom)
		copy(value, encoding)
		r := s.stamp(k, VersionOf(pair.Revision, index), value, Index{}, ephemeral)
		if r.Index, err = s.cfg.Indexer(k, r.Value); err == nil {
			s.quarantine.take(k)
			return r
		}
	}
	s.log.Error("object cannot be read, setting it aside", zap.String("object", k.String()), zap.Error(err))
	s.quarantine.put(k, damaged{err: err, ephemeral: ephemeral})
	return nil
}

// follow applies one revision delivered by etcd.
func (s *Store) follow(r Revision) error {
	if r.Number <= s.memory.now() {
		return nil
	}
	var m *manifest
	for _, pair := range r.Puts {
		switch pair.Key {
		case fenceKey:
			s.claimed(pair)
		case manifestKey:
			var err error
			if m, err = decodeManifest(pair.Value); err != nil {
				s.log.Error("manifest cannot be read", zap.Int64("revision", r.Number), zap.Error(err))
			}
		}
	}
	events := s.eventsOf(r, m)
	for _, o := range s.observers {
		o.Begin()
	}
	s.install(r.Number, events)
	if m != nil {
		s.requests.learn(m, r.Number, s.cfg.Clock.Now())
	}
	s.hub.publish(r.Number, events)
	return nil
}

// eventsOf turns a revision into the events its leader published: puts carry their place in
// the batch, deletes have theirs in the manifest.
func (s *Store) eventsOf(r Revision, m *manifest) []Event {
	events := make([]Event, 0, len(r.Puts)+len(r.Deletes))
	for _, pair := range r.Puts {
		if pair.Key == fenceKey || pair.Key == manifestKey {
			continue
		}
		record := s.recordOf(pair)
		if record == nil {
			// Damaged: whatever memory had of it is no longer true.
			if k, _, ok := parsePath(pair.Key); ok {
				if old := s.memory.peek(k); old != nil {
					events = append(events, Event{Type: Deleted, Record: s.restamp(old, VersionOf(r.Number, 0)), Previous: old})
				}
			}
			continue
		}
		e := Event{Type: Added, Record: record, Previous: s.memory.peek(record.Key)}
		if e.Previous != nil {
			e.Type = Modified
		}
		events = append(events, e)
	}
	if len(r.Deletes) > 0 {
		places := deletePlaces(m)
		next := len(r.Puts) + len(r.Deletes)
		for _, p := range r.Deletes {
			k, ephemeral, ok := parsePath(p)
			if !ok {
				continue
			}
			if d, found := s.quarantine.get(k); found && d.ephemeral == ephemeral {
				s.quarantine.take(k)
			}
			old := s.memory.peek(k)
			if old == nil || old.ephemeral != ephemeral || moved(events, k) {
				continue
			}
			place, known := places[p]
			if !known { // written past the leader, by hand
				place = next
				next++
			}
			events = append(events, Event{Type: Deleted, Record: s.restamp(old, VersionOf(r.Number, place)), Previous: old})
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.Record.Version, b.Record.Version) })
	return events
}

// moved says that a deleted key was written below the other prefix in the same revision.
func moved(events []Event, k Key) bool {
	return slices.ContainsFunc(events, func(e Event) bool { return e.Type != Deleted && e.Record.Key == k })
}

func deletePlaces(m *manifest) map[string]int {
	places := map[string]int{}
	if m == nil {
		return places
	}
	for i := range m.groups {
		for _, w := range m.groups[i].writes {
			if w.remove {
				places[w.path] = w.index
			}
		}
	}
	return places
}
