package masters

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"kijabi.dev/platform/lifecycle"
)

const (
	// heartbeatWait is how long a forced removal waits for a voter to answer raft, which asks
	// every 20 to 40 ms. What it answered before says nothing of one that has just died.
	heartbeatWait = time.Second
	// heartbeatPoll is how often that is looked at.
	heartbeatPoll = 20 * time.Millisecond
)

// Quorum is how many voters there are and how many of them live.
type Quorum struct{ Voters, Living int }

// Needed is a majority: with fewer living voters nothing is written.
func (q Quorum) Needed() int { return q.Voters/2 + 1 }

// Tolerated is how many living voters more may fail; negative when the quorum is lost.
func (q Quorum) Tolerated() int { return q.Living - q.Needed() }

func (q *Quorum) count(living bool) {
	q.Voters++
	if living {
		q.Living++
	}
}

// Removal is what taking a master off the roster comes to.
type Removal struct {
	// Member as it was.
	Member Member
	// Alive if it answers, Leader if it leads.
	Alive, Leader bool
	// Before and After are the voters with and without it.
	Before, After Quorum
	// Refused is why it is not done, an ErrQuorum; nil if nothing speaks against it.
	Refused error

	living map[string]bool
}

// RemoveOptions of Remove.
type RemoveOptions struct {
	// Force counts voters as living that answer raft's heartbeats but not a question. It
	// goes no further: raft counts by the new membership from the moment that is written,
	// so a removal without a living majority would not be committed and would lock the
	// group.
	Force bool
	// PlanOnly changes nothing.
	PlanOnly bool
	// By is the user who asks, for the record.
	By string
}

// Remove takes a master off the roster, out of raft and etcd; its machine may be gone.
// ErrQuorum when the living voters that remain would be no majority, ErrUnsettled when
// it may be tried again in a moment. The leader removes itself by handing over first: it
// returns ErrNotLeader then, and the new leader can be asked. Leader only.
func (m *Masters) Remove(ctx context.Context, name string, o RemoveOptions) (Removal, error) {
	if err := m.leads(); err != nil {
		return Removal{}, err
	}
	removal, err := m.remove(ctx, name, o)
	if err != nil || o.PlanOnly || !removal.Leader {
		return removal, err
	}
	if _, err := m.Transfer(ctx, "", "removal by "+o.By); err != nil {
		return removal, err
	}
	return removal, ErrNotLeader
}

// remove does what can be done under this leader: all of it, unless the leader itself is
// to go.
func (m *Masters) remove(ctx context.Context, name string, o RemoveOptions) (Removal, error) {
	m.change.Lock()
	defer m.change.Unlock()
	member, found := m.roster.get(name)
	if !found {
		return Removal{}, fmt.Errorf("%w: %s", ErrUnknownMember, name)
	}
	removal, err := m.weigh(ctx, member, o.Force)
	switch {
	case err != nil, o.PlanOnly:
		return removal, err
	case removal.Refused != nil:
		return removal, removal.Refused
	case removal.Leader:
		return removal, nil
	}
	// Membership is not guarded by the fence: prove just before that this master leads.
	if err := m.proveWrite(ctx); err != nil {
		return removal, fmt.Errorf("%w: %w", ErrUnsettled, err)
	}
	return removal, m.expel(ctx, member)
}

// weigh finds out what the removal of a member would come to. It asks each master now: a
// recent report says nothing of one that has just died.
func (m *Masters) weigh(ctx context.Context, leaving Member, force bool) (Removal, error) {
	all, err := m.standings()
	if err != nil {
		return Removal{}, err
	}
	living := m.living(ctx, force)
	removal := Removal{Member: leaving, Leader: leaving.Name == m.cfg.Name, Alive: living[leaving.Name], living: living}
	var silent []string
	votes := false
	for _, s := range all {
		switch {
		case !s.votes():
			continue
		case s.member.Name == leaving.Name:
			votes = true
		default:
			removal.After.count(living[s.member.Name])
			if !living[s.member.Name] {
				silent = append(silent, s.member.Name)
			}
		}
		removal.Before.count(living[s.member.Name])
	}
	if votes {
		removal.Refused = refusal(removal, silent)
	}
	return removal, nil
}

// refusal is why a voter may not go, nil if it may. silent are the other voters that do
// not answer.
func refusal(r Removal, silent []string) error {
	switch {
	case r.After.Voters == 0:
		return fmt.Errorf("%w: %s is the only voter, and goes only with its cluster, by `kijabi reset` on its machine", ErrQuorum, r.Member.Name)
	case r.After.Tolerated() < 0:
		return fmt.Errorf("%w: without %s, %d of %d voters live and %d must; %s: start it again or, if it is gone for good, remove it first",
			ErrQuorum, r.Member.Name, r.After.Living, r.After.Voters, r.After.Needed(), doesNotAnswer(silent))
	}
	return nil
}

func doesNotAnswer(names []string) string {
	if len(names) == 1 {
		return names[0] + " does not answer"
	}
	return strings.Join(names, " and ") + " do not answer"
}

// beats says whether a member answers one of raft's heartbeats from now on.
func (m *Masters) beats(ctx context.Context, member Member) bool {
	for began := m.cfg.Clock.Now(); m.cfg.Clock.Since(began) < heartbeatWait; m.pause(ctx, heartbeatPoll) {
		if m.transport.answeredAt(member.PeerAddress).After(began) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
	}
	return false
}

// living asks all masters at once. With heartbeats, answers to raft count as well.
func (m *Masters) living(ctx context.Context, heartbeats bool) map[string]bool {
	var mu sync.Mutex
	living := map[string]bool{}
	group := lifecycle.NewGroup(ctx)
	for _, member := range m.roster.list() {
		group.Go(func(ctx context.Context) error {
			answers := m.reach(ctx, member) || heartbeats && m.beats(ctx, member)
			mu.Lock()
			defer mu.Unlock()
			living[member.Name] = answers
			return nil
		})
	}
	_ = group.Wait() // its tasks do not fail
	return living
}

// expel removes a member everywhere. The roster says first that it is leaving, so that
// whoever leads after a failure in the middle finishes it; it may be repeated. The caller
// holds change.
func (m *Masters) expel(ctx context.Context, member Member) error {
	if member.Role != Leaving {
		leaving := member
		leaving.Role = Leaving
		if err := m.apply(command{Put: &leaving}); err != nil {
			return err
		}
	}
	if id := parseEtcdID(member.EtcdID); id != 0 && m.cfg.Etcd != nil {
		if err := m.cfg.Etcd.Remove(ctx, id); err != nil {
			return err
		}
	}
	if err := m.raft.RemoveServer(raft.ServerID(member.Name), 0, raftTimeout).Error(); err != nil {
		return fmt.Errorf("remove %s from raft: %w", member.Name, err)
	}
	if err := m.apply(command{Remove: member.Name}); err != nil {
		return err
	}
	m.log.Info("master removed", zap.String("name", member.Name))
	return nil
}

// finishRemoval goes on with a removal that was begun, perhaps by an earlier leader. One of
// which nothing is done yet is given up when the voters do not allow it any more.
func (m *Masters) finishRemoval(ctx context.Context, s standing) error {
	removal, err := m.weigh(ctx, s.member, false)
	if err != nil {
		return err
	}
	if removal.Refused == nil {
		return m.expel(ctx, s.member)
	}
	if s.inEtcd && !s.etcd.Learner && s.votesRaf {
		m.log.Warn("removal given up", zap.String("name", s.member.Name), zap.Error(removal.Refused))
		stays := s.member
		stays.Role = Voter
		return m.apply(command{Put: &stays})
	}
	return removal.Refused
}
