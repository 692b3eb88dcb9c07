package masters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
)

// Snapshot describes one that was made.
type Snapshot struct {
	Name     string    `json:"name"`
	Master   string    `json:"master"`
	Time     time.Time `json:"time"`
	Revision int64     `json:"revision"`
	Bytes    int64     `json:"bytes"`
}

// SnapshotState is on the roster: who makes the snapshot of the present slot of time, and what
// became of it. So a new leader neither repeats nor forgets what the former has begun.
type SnapshotState struct {
	// Serial counts the changes.
	Serial uint64 `json:"serial"`
	// Slot is when the present slot begins.
	Slot time.Time `json:"slot"`
	// Maker was told to make it.
	Maker string `json:"maker"`
	// Done is true when it was made.
	Done bool `json:"done,omitempty"`
	// Error of the last attempt of the slot.
	Error string `json:"error,omitempty"`
	// Last that was made, of this or an earlier slot; nil if none was.
	Last *Snapshot `json:"last,omitempty"`
}

const (
	// snapshotPoll is how often the leader looks whether a snapshot is due.
	snapshotPoll = 5 * time.Second
	// snapshotRetry is the pause after a failure.
	snapshotRetry = 5 * time.Minute
	// makeTimeout bounds the making of one.
	makeTimeout = 30 * time.Minute
)

// SnapshotsConfig is what Snapshots need; all fields are required.
type SnapshotsConfig struct {
	Masters *Masters
	// Interval between two.
	Interval time.Duration
	// Make makes the snapshot of a slot here; it may be asked again for the same.
	Make func(ctx context.Context, slot time.Time) (Snapshot, error)
	// Ask makes another master make it.
	Ask   func(ctx context.Context, master string, slot time.Time) (Snapshot, error)
	Clock clock.Clock
	Log   *zap.Logger
}

// Snapshots has one snapshot made in each interval of the whole group.
type Snapshots struct{ cfg SnapshotsConfig }

// NewSnapshots returns the part that is to be Run on every master.
func NewSnapshots(cfg SnapshotsConfig) *Snapshots { return &Snapshots{cfg: cfg} }

// Run sees to snapshots while this master leads, until ctx ends.
func (s *Snapshots) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := snapshotPoll
		if s.cfg.Masters.Leadership().Leading {
			if err := s.tend(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Error("snapshot failed", zap.Error(err))
				if !errors.Is(err, ErrNotLeader) {
					wait = snapshotRetry
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-s.cfg.Clock.After(lifecycle.UntilBeat(s.cfg.Clock.Now(), wait)):
		}
	}
	return nil
}

// tend has the snapshot of the present slot made, if it is due.
func (s *Snapshots) tend(ctx context.Context) error {
	m := s.cfg.Masters
	// What earlier leaders have put on the roster is applied here before it is read.
	if err := m.raft.Barrier(barrierTimeout).Error(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	state, slot := m.roster.snapshotState(), s.cfg.Clock.Now().Truncate(s.cfg.Interval)
	if !due(state, slot, s.cfg.Interval) {
		return nil
	}
	maker := s.maker(state, slot)
	if !state.Slot.Equal(slot) || state.Maker != maker {
		next := SnapshotState{Slot: slot, Maker: maker, Last: state.Last}
		var err error
		if state, err = m.changeSnapshotState(state, next); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	made, err := s.make(ctx, maker, slot)
	next := state
	if next.Done = err == nil; next.Done {
		next.Last, next.Error = &made, ""
	} else {
		err = fmt.Errorf("snapshot by %s: %w", maker, err)
		next.Error = err.Error()
	}
	_, changeErr := m.changeSnapshotState(state, next)
	return errors.Join(err, changeErr)
}

// due says whether the snapshot of a slot is to be made. A state of the future stems from a
// leader whose clock was wrong, unless by less than an interval.
func due(state SnapshotState, slot time.Time, interval time.Duration) bool {
	if state.Slot.Equal(slot) {
		return !state.Done
	}
	return slot.After(state.Slot) || state.Slot.Sub(slot) > interval
}

// maker chooses who makes the snapshot of a slot: whoever has begun it, as long as it lives
// and has not failed; else a living master that does not lead, if there is one.
func (s *Snapshots) maker(state SnapshotState, slot time.Time) string {
	m := s.cfg.Masters
	began := state.Slot.Equal(slot)
	if began && state.Error == "" && m.alive(state.Maker) {
		return state.Maker
	}
	var others []string
	for _, member := range m.roster.list() {
		if member.Name != m.cfg.Name && member.Role != Learner && m.alive(member.Name) {
			others = append(others, member.Name)
		}
	}
	if began && state.Error != "" { // another than the one that failed
		others = append(slices.DeleteFunc(others, func(name string) bool { return name == state.Maker }), m.cfg.Name)
	}
	if len(others) == 0 {
		return m.cfg.Name
	}
	return others[0]
}

func (s *Snapshots) make(ctx context.Context, maker string, slot time.Time) (Snapshot, error) {
	if maker == s.cfg.Masters.cfg.Name {
		return s.cfg.Make(ctx, slot)
	}
	return s.cfg.Ask(ctx, maker, slot)
}

// SnapshotState is the roster's.
func (m *Masters) SnapshotState() SnapshotState { return m.roster.snapshotState() }

// changeSnapshotState commits next if the state is still as it was seen, and returns it as it
// is on the roster then. ErrNotLeader when another leader has changed it.
func (m *Masters) changeSnapshotState(seen, next SnapshotState) (SnapshotState, error) {
	next.Serial = seen.Serial + 1
	if err := m.apply(command{Snapshot: &next}); err != nil {
		return seen, fmt.Errorf("note the snapshot on the roster: %w", err)
	}
	return next, nil
}

func (r *roster) snapshotState() SnapshotState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshot
}

// applySnapshot takes a change unless it was decided on another state than the present one.
// The caller holds mu.
func (r *roster) applySnapshot(next *SnapshotState) error {
	if next.Serial != r.snapshot.Serial+1 {
		return fmt.Errorf("%w: the state of snapshots has changed meanwhile", ErrNotLeader)
	}
	r.snapshot = *next
	return nil
}
