package masters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/etcdnode"
)

const (
	// tendInterval is how often the leader looks after members that are on their way, and
	// settledInterval after those that are where they belong.
	tendInterval    = 100 * time.Millisecond
	settledInterval = 500 * time.Millisecond
	raftTimeout     = 5 * time.Second
	// maxVoters is the most that vote; more only make writes slower.
	maxVoters = 7
)

// JoinResult is what a new master needs to start.
type JoinResult struct {
	ClusterID string
	// Generation of the group, which the new master's data belongs to.
	Generation uint64
	// EtcdInitialCluster is "name=url,…", the new member included.
	EtcdInitialCluster string
	Members            []Member
	// SharedFiles is key material, by file name.
	SharedFiles map[string][]byte
}

// Join puts a master on the roster as a learner, in etcd and in raft. It may be repeated; a
// member that is on the roster but dead and asks to join has lost its data, and is
// replaced. Leader only.
func (m *Masters) Join(ctx context.Context, candidate Member) (*JoinResult, error) {
	if err := m.leads(); err != nil {
		return nil, err
	}
	m.change.Lock()
	defer m.change.Unlock()
	if err := m.admit(ctx, candidate); err != nil {
		return nil, err
	}
	candidate.Role = Learner
	var all []etcdnode.Member
	if m.cfg.Etcd != nil {
		var id uint64
		var err error
		if id, all, err = m.cfg.Etcd.AddLearner(ctx, candidate.EtcdPeerURL); err != nil {
			return nil, err
		}
		candidate.EtcdID = etcdID(id)
	}
	if err := m.raft.AddNonvoter(raft.ServerID(candidate.Name), raft.ServerAddress(candidate.PeerAddress), 0, raftTimeout).Error(); err != nil {
		return nil, fmt.Errorf("add %s to raft: %w", candidate.Name, err)
	}
	if err := m.apply(command{Put: &candidate}); err != nil {
		return nil, err
	}
	m.log.Info("master joins", zap.String("name", candidate.Name), zap.String("peer", candidate.PeerAddress))
	result := &JoinResult{ClusterID: m.roster.cluster(), Generation: m.Generation(), Members: m.roster.list()}
	result.EtcdInitialCluster = initialCluster(all, result.Members)
	if m.cfg.SharedFiles != nil {
		var err error
		if result.SharedFiles, err = m.cfg.SharedFiles(); err != nil {
			return nil, fmt.Errorf("shared files: %w", err)
		}
	}
	return result, nil
}

// admit checks a candidate against the roster and clears away its former self.
func (m *Masters) admit(ctx context.Context, candidate Member) error {
	if candidate.Name == "" || candidate.PeerAddress == "" {
		return fmt.Errorf("%w: name and peer address are required", ErrConflict)
	}
	if err := m.sameEtcd(candidate); err != nil {
		return err
	}
	if candidate.Name == m.cfg.Name {
		return fmt.Errorf("%w: %s is the leading master", ErrConflict, candidate.Name)
	}
	for _, other := range m.roster.list() {
		if other.Name != candidate.Name && (other.PeerAddress == candidate.PeerAddress || m.cfg.Etcd != nil && other.EtcdPeerURL == candidate.EtcdPeerURL) {
			return fmt.Errorf("%w: %s already has an address of %s", ErrConflict, other.Name, candidate.Name)
		}
	}
	former, found := m.roster.get(candidate.Name)
	if !found {
		return nil
	}
	if m.unstarted(former) && former.PeerAddress == candidate.PeerAddress && former.EtcdPeerURL == candidate.EtcdPeerURL {
		return nil // the same join again
	}
	if m.alive(candidate.Name) {
		return fmt.Errorf("%w: a living master is named %s; remove it first", ErrConflict, candidate.Name)
	}
	m.log.Warn("master joins anew, removing its former self", zap.String("name", candidate.Name))
	return m.expel(ctx, former)
}

// unstarted says whether a member was admitted and has not been running since.
func (m *Masters) unstarted(member Member) bool {
	if m.cfg.Etcd == nil {
		return member.Role == Learner // has no vote that it could have given
	}
	return slices.ContainsFunc(m.cfg.Etcd.Members(), func(e etcdnode.Member) bool { return etcdID(e.ID) == member.EtcdID && e.Name == "" })
}

// initialCluster pairs etcd's members with their names; one that has not started has none in etcd yet.
func initialCluster(all []etcdnode.Member, roster []Member) string {
	var parts []string
	for _, e := range all {
		name := e.Name
		for _, member := range roster {
			if member.EtcdPeerURL == e.PeerURL {
				name = member.Name
			}
		}
		if name == "" {
			name = etcdID(e.ID)
		}
		parts = append(parts, name+"="+e.PeerURL)
	}
	return strings.Join(parts, ",")
}

func (m *Masters) leads() error {
	if m.raft.State() != raft.Leader {
		return ErrNotLeader
	}
	return nil
}

// apply commits a change of the roster.
func (m *Masters) apply(c command) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode roster command: %w", err)
	}
	future := m.raft.Apply(b, raftTimeout)
	if err := future.Error(); err != nil {
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
			return fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		return fmt.Errorf("change the roster: %w", err)
	}
	if err, failed := future.Response().(error); failed {
		return err
	}
	return nil
}

// tendMembers brings etcd, raft and roster to agreement, promotes learners and replaces dead
// voters, one step at a time, while this master leads.
func (m *Masters) tendMembers(ctx context.Context) error {
	for ctx.Err() == nil {
		if term := m.cfg.Store.Term(); term.Leading {
			m.vigil.look(term.Epoch, m.cfg.Clock.Now())
			if err := m.tendOnce(ctx); err != nil && ctx.Err() == nil {
				m.log.Info("members not tended", zap.Error(err))
			}
		}
		if slices.ContainsFunc(m.roster.list(), func(member Member) bool { return member.Role == Learner }) {
			m.pause(ctx, tendInterval)
		} else {
			m.beat(ctx, settledInterval)
		}
	}
	return nil
}

// standing is a member's place in both groups. With a separate etcd raft is the only one, and
// what is said of etcd here is raft's.
type standing struct {
	member           Member
	etcd             etcdnode.Member
	inEtcd, votesRaf bool
}

// votes says whether the member counts toward a quorum of either group.
func (s standing) votes() bool {
	return s.member.Role == Voter || s.votesRaf || s.inEtcd && !s.etcd.Learner
}

// started says whether the member has been running: etcd learns its name from itself.
func (s standing) started() bool { return s.inEtcd && s.etcd.Name != "" }

func (m *Masters) tendOnce(ctx context.Context) error {
	m.change.Lock()
	defer m.change.Unlock()
	if err := m.register(); err != nil {
		return err
	}
	all, err := m.standings()
	if err != nil {
		return err
	}
	if begun, err := m.finish(ctx, all); begun || err != nil {
		return err
	}
	candidate, spare := nextVoter(all, m.alive)
	if candidate != nil {
		return m.promote(ctx, *candidate)
	}
	if spare != nil {
		waiting := spare.member
		waiting.Role = Spare
		return m.apply(command{Put: &waiting})
	}
	return m.replaceDead(ctx, all)
}

// finish goes on with the first change that was begun, if there is one: removals before
// promotions, and nobody is promoted who is on the way out.
func (m *Masters) finish(ctx context.Context, all []standing) (begun bool, err error) {
	for _, s := range all {
		// Who is not in etcd any more is leaving, whatever the roster says: members are added
		// there before they are put on the roster.
		if s.member.Role == Leaving || !s.inEtcd && s.member.Name != m.cfg.Name {
			return true, m.finishRemoval(ctx, s)
		}
	}
	for _, s := range all {
		votesEtcd := s.inEtcd && !s.etcd.Learner
		if votesEtcd != s.votesRaf || votesEtcd && s.member.Role != Voter {
			return true, m.promote(ctx, s)
		}
	}
	return false, nil
}

// register puts this master on the roster as it is.
func (m *Masters) register() error {
	if m.roster.cluster() == "" && m.cfg.ClusterID != "" {
		if err := m.apply(command{ClusterID: m.cfg.ClusterID}); err != nil {
			return err
		}
	}
	self := Member{
		Name: m.cfg.Name, PeerAddress: m.cfg.PeerAddress, EtcdPeerURL: m.cfg.EtcdPeerURL,
		GRPCAddress: m.cfg.GRPCAddress, RESTAddress: m.cfg.RESTAddress, Role: Voter,
	}
	if m.cfg.Etcd != nil {
		self.EtcdID = etcdID(m.cfg.Etcd.Status().ID)
	}
	if known, _ := m.roster.get(self.Name); known == self {
		return nil
	}
	return m.apply(command{Put: &self})
}

func (m *Masters) standings() ([]standing, error) {
	configuration := m.raft.GetConfiguration()
	if err := configuration.Error(); err != nil {
		return nil, fmt.Errorf("raft configuration: %w", err)
	}
	var all []standing
	var etcd []etcdnode.Member
	if m.cfg.Etcd != nil {
		etcd = m.cfg.Etcd.Members()
	}
	for _, member := range m.roster.list() {
		s := standing{member: member}
		for _, server := range configuration.Configuration().Servers {
			if string(server.ID) == member.Name {
				s.votesRaf = server.Suffrage == raft.Voter
				if m.cfg.Etcd == nil {
					s.etcd, s.inEtcd = m.standsIn(server), true
				}
			}
		}
		for _, e := range etcd {
			if etcdID(e.ID) == member.EtcdID {
				s.etcd, s.inEtcd = e, true
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// nextVoter chooses the learner to promote, so that the voters end up odd: a second
// one votes on the way to three, a fourth waits as a spare for a fifth. Only learners that have
// started and are alive count. Else it returns a learner to be called a spare.
func nextVoter(all []standing, alive func(string) bool) (candidate, spare *standing) {
	voters := 0
	var ready []*standing
	for i := range all {
		s := &all[i]
		switch {
		case s.member.Role == Voter:
			voters++
		case s.started() && alive(s.member.Name):
			ready = append(ready, s)
		}
	}
	if len(ready) == 0 {
		return nil, nil
	}
	want := min(voters+len(ready), maxVoters)
	if want > 2 && want%2 == 0 {
		want--
	}
	if voters < want {
		return ready[0], nil
	}
	for _, s := range ready {
		if s.member.Role != Spare {
			return nil, s
		}
	}
	return nil, nil
}

// promote makes a member vote, in etcd first: it alone knows whether the member has caught up.
func (m *Masters) promote(ctx context.Context, s standing) error {
	ctx, cancel := context.WithTimeout(ctx, raftTimeout)
	defer cancel()
	switch {
	case m.cfg.Etcd != nil:
		err := m.cfg.Etcd.Promote(ctx, parseEtcdID(s.member.EtcdID))
		if errors.Is(err, etcdnode.ErrNotReady) {
			return nil
		}
		if err != nil {
			return err
		}
	case !s.votesRaf && !m.caughtUp(s.member):
		return nil
	}
	if err := m.raft.AddVoter(raft.ServerID(s.member.Name), raft.ServerAddress(s.member.PeerAddress), 0, raftTimeout).Error(); err != nil {
		return fmt.Errorf("promote %s in raft: %w", s.member.Name, err)
	}
	voter := s.member
	voter.Role = Voter
	if err := m.apply(command{Put: &voter}); err != nil {
		return err
	}
	m.log.Info("master votes", zap.String("name", voter.Name))
	return nil
}
