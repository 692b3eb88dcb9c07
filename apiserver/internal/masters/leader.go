package masters

import (
	"context"
	"iter"
	"sync"

	"github.com/hashicorp/raft"
)

// Leadership is who leads as this master sees it.
type Leadership struct {
	// Leader is the leading master's name, empty while none is known.
	Leader string
	// Epoch of the leader, 0 until it has claimed it.
	Epoch uint64
	// Leading is true when this master leads and is open for writes.
	Leading bool
}

// leader holds the newest leadership, and who waits for the next.
type leader struct {
	mu      sync.Mutex
	now     Leadership
	changed chan struct{} // closed at the next change
}

func newLeader() *leader { return &leader{changed: make(chan struct{})} }

func (l *leader) set(next Leadership) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == next {
		return
	}
	l.now = next
	close(l.changed)
	l.changed = make(chan struct{})
}

// Leadership returns who leads.
func (m *Masters) Leadership() Leadership {
	m.leader.mu.Lock()
	defer m.leader.mu.Unlock()
	return m.leader.now
}

// WatchLeadership yields the present leadership and then each change, until ctx ends.
// A slow reader misses intermediate states, never the newest.
func (m *Masters) WatchLeadership(ctx context.Context) iter.Seq[Leadership] {
	return func(yield func(Leadership) bool) {
		for {
			m.leader.mu.Lock()
			now, changed := m.leader.now, m.leader.changed
			m.leader.mu.Unlock()
			if !yield(now) {
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

// WatchLeading yields whether the masters have elected this one, whether it is open for writes
// yet or not, at present and after each change, until ctx ends. It depends on raft alone.
func (m *Masters) WatchLeading(ctx context.Context) iter.Seq[bool] {
	return func(yield func(bool) bool) {
		for now := range m.WatchLeadership(ctx) {
			if !yield(now.Leader == m.cfg.Name) {
				return
			}
		}
	}
}

// ConfirmLeading asks a majority of the masters whether this one leads. It depends on raft alone,
// and fails when ctx ends, even if raft hangs.
func (m *Masters) ConfirmLeading(ctx context.Context) error {
	if m.raft.State() != raft.Leader {
		return ErrNotLeader
	}
	confirmed := make(chan error, 1)
	go func() { confirmed <- m.raft.VerifyLeader().Error() }() //nolint:forbidigo // ends with raft at the latest
	select {
	case err := <-confirmed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// followLeader puts together what raft (who leads) and the store (its epoch) know.
func (m *Masters) followLeader(ctx context.Context) error {
	observations := make(chan raft.Observation, 16)
	observer := raft.NewObserver(observations, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	m.raft.RegisterObserver(observer)
	defer m.raft.DeregisterObserver(observer)
	defer m.leader.set(Leadership{})
	var last Leadership // the newest that named a leader
	for {
		termChanged := m.cfg.Store.TermChanged()
		_, id := m.raft.LeaderWithID()
		term, next := m.cfg.Store.Term(), Leadership{Leader: string(id)}
		if term.Holder == next.Leader && next.Leader != "" {
			next.Epoch = term.Epoch
			next.Leading = term.Leading && m.raft.State() == raft.Leader
		}
		if next.Leader != "" && next.Leader != last.Leader {
			m.noteChange(last.Leader, last.Epoch, next.Leader)
			last = next
		}
		if next.Leader != "" && next.Epoch != 0 {
			last.Epoch = next.Epoch
		}
		m.leader.set(next)
		select {
		case <-ctx.Done():
			return nil
		case <-observations:
		case <-termChanged:
		}
	}
}
