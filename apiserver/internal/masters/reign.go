package masters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/lifecycle"
)

const (
	barrierTimeout = 5 * time.Second
	// handOverTimeout bounds the election of a named successor.
	handOverTimeout = time.Second
	// etcdPoll is how often the leader looks after etcd's leader.
	etcdPoll = 500 * time.Millisecond
	// moveTimeout bounds one attempt to move etcd's leadership.
	moveTimeout = time.Second
	// moveTry bounds an attempt while nothing can be written anyway.
	moveTry = 100 * time.Millisecond
)

// errCannotLead ends the process of a master that leads, must not, and cannot hand over:
// its heartbeats die and the others elect.
var errCannotLead = errors.New("cannot write and cannot hand leadership over")

// reign is one time as raft's leader.
type reign struct {
	// end ends the reign, though raft still calls this master its leader.
	end func()
	// stopWriting ends the store's term after the batch in flight; stopped is closed then.
	stopWriting context.CancelFunc
	stopped     chan struct{}
}

// reignWhenElected runs a reign whenever raft elects this master.
func (m *Masters) reignWhenElected(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case elected := <-m.elected:
			if !elected {
				continue
			}
		}
		for again := true; again; again = m.again.Swap(false) {
			if err := m.rule(ctx); err != nil {
				return err
			}
		}
	}
}

// rule leads until raft takes the leadership away or ctx ends.
func (m *Masters) rule(ctx context.Context) error {
	if m.raft.State() != raft.Leader {
		return nil // lost already; raft has said so, too
	}
	group := lifecycle.NewGroup(ctx)
	writing, stopWriting := context.WithCancel(group.Context())
	defer stopWriting()
	r := &reign{end: group.Cancel, stopWriting: stopWriting, stopped: make(chan struct{})}
	m.setReign(r)
	defer m.setReign(nil)

	m.log.Info("elected", zap.Uint64("term", m.raft.CurrentTerm()))
	group.Go(func(context.Context) error {
		defer close(r.stopped)
		m.write(writing)
		return nil
	})
	if m.cfg.Etcd != nil {
		group.Go(m.leadEtcd)
	}
	group.Go(m.tendMembers)
	group.Go(m.watch)
	group.Go(m.keepLimit)
	group.Go(m.shortenHistory)
	group.Go(m.tendAlarms)
	group.Go(m.compareData)
	group.Go(m.defragmentInTurn)
	group.Go(func(inner context.Context) error {
		defer group.Cancel()
		for {
			select {
			case elected := <-m.elected:
				if !elected {
					return nil
				}
			case <-inner.Done():
				return nil
			}
		}
	})
	err := group.Wait()
	if ctx.Err() != nil {
		m.resign(context.WithoutCancel(ctx))
	}
	m.log.Info("no longer leading")
	return err
}

// resign hands over when the program ends, so that nobody has to wait for an election.
func (m *Masters) resign(ctx context.Context) {
	if !m.hasOtherVoters() || m.raft.State() != raft.Leader {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := m.handOver(ctx, "", "handed over: stopping"); err != nil {
		m.log.Warn("could not hand leadership over at the end", zap.Error(err))
	}
}

func (m *Masters) setReign(r *reign) {
	m.reigning.Lock()
	defer m.reigning.Unlock()
	m.reign = r
}

// write keeps the store in a term until ctx ends.
func (m *Masters) write(ctx context.Context) {
	for ctx.Err() == nil {
		// Everything committed to the roster by earlier leaders is applied, and a majority
		// agrees that this master leads.
		if err := errors.Join(m.raft.Barrier(barrierTimeout).Error(), m.raft.VerifyLeader().Error()); err != nil {
			m.log.Warn("leadership is not confirmed", zap.Error(err))
			m.pause(ctx, 20*time.Millisecond)
			continue
		}
		if m.cfg.Etcd != nil {
			m.awaitEtcd(ctx)
		}
		err := m.cfg.Store.Lead(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, store.ErrFenced):
			m.log.Warn("another master has claimed the epoch", zap.Error(err))
		default:
			m.log.Warn("store's term ended, beginning another", zap.Error(err))
		}
		m.pause(ctx, 20*time.Millisecond)
	}
}

// awaitEtcd waits for etcd to have a leader and makes that the local member, before the first
// write: what is proposed while etcd's leadership moves can get lost. A leader that will not
// move does, too, until leadEtcd succeeds.
func (m *Masters) awaitEtcd(ctx context.Context) {
	patience := m.cfg.Clock.Now().Add(moveTimeout)
	for ctx.Err() == nil {
		status := m.cfg.Etcd.Status()
		if status.Leader == status.ID {
			return
		}
		if status.Leader == 0 {
			m.pause(ctx, 5*time.Millisecond)
			continue
		}
		// The leader etcd believes in may have died with the master that led before: ask
		// shortly and look again.
		m.moveEtcd(ctx, moveTry)
		if m.cfg.Clock.Now().After(patience) && m.cfg.Etcd.Status().Leader != 0 {
			return
		}
	}
}

func (m *Masters) moveEtcd(ctx context.Context, timeout time.Duration) {
	began := m.cfg.Clock.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := m.cfg.Etcd.Lead(ctx); err != nil {
		m.log.Info("etcd's leadership does not follow yet", zap.Error(err))
		if rest := moveTry/5 - m.cfg.Clock.Since(began); rest > 0 {
			m.pause(ctx, rest)
		}
	}
}

// leadEtcd keeps etcd's leadership with the local member.
func (m *Masters) leadEtcd(ctx context.Context) error {
	for ctx.Err() == nil {
		m.beat(ctx, etcdPoll)
		status := m.cfg.Etcd.Status()
		if status.Leader != 0 && status.Leader != status.ID && m.cfg.Store.Term().Leading {
			m.moveEtcd(ctx, moveTimeout)
		}
	}
	return nil
}

// beat pauses until the next whole multiple of d, together with all else that does so.
func (m *Masters) beat(ctx context.Context, d time.Duration) {
	m.pause(ctx, lifecycle.UntilBeat(m.cfg.Clock.Now(), d))
}

func (m *Masters) pause(ctx context.Context, d time.Duration) {
	timer := m.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C():
	}
}

// Transfer hands leadership to the named master, or to the best one if empty, and returns
// the new leader's name. Writes in flight are completed first. The reason is for people.
// Leader only.
func (m *Masters) Transfer(ctx context.Context, to, reason string) (string, error) {
	if m.raft.State() != raft.Leader {
		return "", ErrNotLeader
	}
	if to == m.cfg.Name {
		return to, nil
	}
	if err := m.handOver(ctx, to, reason); err != nil {
		return "", err
	}
	for {
		if _, id := m.raft.LeaderWithID(); id != "" && string(id) != m.cfg.Name {
			return string(id), nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("handed over, but no new leader is known: %w", ctx.Err())
		}
		m.pause(ctx, 2*time.Millisecond)
	}
}

// handOver drains the batch in flight and lets a successor start an election at once. If that
// fails the reign goes on.
func (m *Masters) handOver(ctx context.Context, to, reason string) error {
	heir, err := m.successor(to)
	if err != nil {
		return err
	}
	m.reigning.Lock()
	r := m.reign
	m.reigning.Unlock()
	if r == nil {
		return ErrNotLeader
	}
	m.announce(ctx, heir.Name, reason)
	r.stopWriting()
	select {
	case <-r.stopped:
	case <-ctx.Done():
		// The fence guards what is still in flight.
	}
	m.log.Info("handing leadership over", zap.String("to", heir.Name), zap.String("reason", reason))
	future := m.raft.LeadershipTransferToServer(raft.ServerID(heir.Name), raft.ServerAddress(heir.PeerAddress))
	if err := future.Error(); err != nil {
		m.resume(r)
		return fmt.Errorf("hand leadership to %s: %w", heir.Name, err)
	}
	return nil
}

// resume lets a master that failed to hand over write again: its reign begins anew if it
// still leads.
func (m *Masters) resume(r *reign) {
	m.again.Store(true)
	r.end()
}

// successor chooses a living voter: the named one, else one with all components,
// then the one that has applied most.
func (m *Masters) successor(to string) (Member, error) {
	var best Member
	var bestScore int64 = -1
	for _, member := range m.roster.list() {
		if member.Name == m.cfg.Name || member.Role != Voter || to != "" && member.Name != to {
			continue
		}
		if !m.alive(member.Name) {
			continue
		}
		known, _ := m.peers.get(member.Name)
		score := known.report.GetAppliedRevision()
		if m.complete(known.report.GetComponents()) {
			score += 1 << 60
		}
		if short(known.report) {
			score = 0 // it is better than nobody
		}
		if score > bestScore {
			best, bestScore = member, score
		}
	}
	if best.Name != "" {
		return best, nil
	}
	if to == "" {
		return best, fmt.Errorf("%w: no other voter is alive", ErrQuorum)
	}
	if _, found := m.roster.get(to); !found {
		return best, fmt.Errorf("%w: %s", ErrUnknownMember, to)
	}
	return best, fmt.Errorf("%w: %s is no living voter", ErrQuorum, to)
}

func (m *Masters) hasOtherVoters() bool {
	for _, member := range m.roster.list() {
		if member.Name != m.cfg.Name && member.Role == Voter {
			return true
		}
	}
	return false
}
