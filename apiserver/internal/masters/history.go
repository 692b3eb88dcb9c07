package masters

import (
	"context"
	"sync"
	"time"

	"kijabi.dev/platform/lifecycle"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

const (
	// historyLength is how many changes of leadership are remembered.
	historyLength = 16
	// verdictAfter is how long after a change the former leader's silence on its reason tells
	// something: reports under way at the change are older.
	verdictAfter = time.Second
	// farewellTimeout bounds telling the others why leadership moves, before it does.
	farewellTimeout = 200 * time.Millisecond
)

// Reasons of changes that nobody announced.
const (
	reasonFirst = "first seen after the start"
	reasonDied  = "died"
	reasonLost  = "lost its majority: paused or cut off"
)

// LeaderChange is a change of leadership.
type LeaderChange struct {
	// At is when this master saw it.
	At time.Time
	// From led before, To leads since. From is empty for the first leader seen.
	From, To string
	// Reason for people; empty while it is not known.
	Reason string
}

// history holds the last changes of leadership, oldest first. It is in memory only.
type history struct {
	mu      sync.Mutex
	changes []announced
}

// announced is a change and the epoch under which its former leader gives the reason.
type announced struct {
	LeaderChange
	epoch uint64
}

func (h *history) add(change LeaderChange, epoch uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if change.From == "" {
		change.Reason = reasonFirst
	}
	h.changes = append(h.changes, announced{change, epoch})
	h.changes = h.changes[max(0, len(h.changes)-historyLength):]
}

// explain fills in what a former leader's report says of changes from it.
func (h *history) explain(r *peerv1pb.ReportRequest, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.changes {
		c := &h.changes[i]
		if c.Reason != "" || c.From != r.GetName() {
			continue
		}
		since := now.Sub(c.At)
		switch {
		case r.GetHandover() != nil && r.GetHandover().GetEpoch() == c.epoch:
			c.Reason = r.GetHandover().GetReason()
		case since < verdictAfter || r.GetUptime() == nil:
		case r.GetUptime().AsDuration() < since: // it has been started again
			c.Reason = reasonDied
		default:
			c.Reason = reasonLost
		}
	}
}

// list returns the changes. A former leader that has not been heard of since has died.
func (h *history) list(now time.Time) []LeaderChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []LeaderChange
	for _, c := range h.changes {
		if c.Reason == "" && now.Sub(c.At) > aliveWindow {
			c.Reason = reasonDied
		}
		all = append(all, c.LeaderChange)
	}
	return all
}

// noteChange remembers that leadership moved from a leader of the given epoch.
func (m *Masters) noteChange(from string, epoch uint64, to string) {
	now := m.cfg.Clock.Now()
	m.changes.Add(1)
	m.history.add(LeaderChange{At: now, From: from, To: to}, epoch)
	if from == m.cfg.Name {
		m.history.explain(m.ownReport(), now)
	} else if known, found := m.peers.get(from); found {
		m.history.explain(known.report, now)
	}
}

// announce tells the others that this leader hands over, and why.
func (m *Masters) announce(ctx context.Context, to, reason string) {
	m.handover.Store(&peerv1pb.Handover{Epoch: m.cfg.Store.Term().Epoch, To: to, Reason: reason})
	ctx, cancel := context.WithTimeout(ctx, farewellTimeout)
	defer cancel()
	group := lifecycle.NewGroup(ctx)
	for _, other := range m.roster.list() {
		if other.Name != m.cfg.Name && m.alive(other.Name) {
			group.Go(func(ctx context.Context) error {
				m.askOnce(ctx, other)
				return nil
			})
		}
	}
	_ = group.Wait() // its tasks do not fail
}
