package etcdnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
)

// ErrNotReady is returned by Promote while the learner has not caught up.
var ErrNotReady = errors.New("learner has not caught up")

// Member of etcd's cluster.
type Member struct {
	ID      uint64
	Name    string // empty until it has started
	PeerURL string
	Learner bool
}

// Status is the member's state.
type Status struct {
	ID uint64
	// Leader is the leading member's id, 0 if none is known.
	Leader uint64
	// Learner is true while this member does not vote, or no longer belongs to the cluster.
	Learner bool
	// Revision is the newest this member has applied.
	Revision int64
	// DatabaseBytes is the size of the database file.
	DatabaseBytes int64
}

// Status returns the member's state.
func (n *Node) Status() Status {
	s := n.etcd.Server
	// Not the server's own IsLearner: that panics once the member has been removed.
	self := s.Cluster().Member(s.MemberID())
	return Status{
		ID: uint64(s.MemberID()), Leader: s.Lead(), Learner: self == nil || self.IsLearner,
		Revision: s.KV().Rev(), DatabaseBytes: s.Backend().Size(),
	}
}

// Members lists the cluster as this member knows it, by id.
func (n *Node) Members() []Member { return members(n.etcd.Server.Cluster().Members()) }

func members(in []*membership.Member) []Member {
	out := make([]Member, 0, len(in))
	for _, m := range in {
		out = append(out, Member{ID: uint64(m.ID), Name: m.Name, PeerURL: strings.Join(m.PeerURLs, ","), Learner: m.IsLearner})
	}
	slices.SortFunc(out, func(a, b Member) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	return out
}

// AddLearner adds a member that does not vote, unless one with the URL exists, and returns
// its id and all members.
func (n *Node) AddLearner(ctx context.Context, peerURL string) (uint64, []Member, error) {
	now := n.Members()
	for _, m := range now {
		if m.PeerURL == peerURL {
			return m.ID, now, nil
		}
	}
	urls, err := types.NewURLs([]string{peerURL})
	if err != nil {
		return 0, nil, fmt.Errorf("peer URL %s: %w", peerURL, err)
	}
	at := time.Now()
	m := membership.NewMemberAsLearner("", urls, n.cfg.ClusterToken, &at)
	all, err := n.etcd.Server.AddMember(ctx, *m)
	if err != nil {
		return 0, nil, fmt.Errorf("add etcd member %s: %w", peerURL, err)
	}
	return uint64(m.ID), members(all), nil
}

// Promote makes a learner vote. ErrNotReady until it has caught up.
func (n *Node) Promote(ctx context.Context, id uint64) error {
	_, err := n.etcd.Server.PromoteMember(ctx, id)
	switch {
	case err == nil, errors.Is(err, membership.ErrMemberNotLearner):
		return nil
	case errors.Is(err, etcderrors.ErrLearnerNotReady):
		return ErrNotReady
	}
	return fmt.Errorf("promote etcd member %x: %w", id, err)
}

// Remove takes a member out; removing an absent one succeeds.
func (n *Node) Remove(ctx context.Context, id uint64) error {
	_, err := n.etcd.Server.RemoveMember(ctx, id)
	if err == nil || errors.Is(err, membership.ErrIDNotFound) || errors.Is(err, membership.ErrIDRemoved) {
		return nil
	}
	return fmt.Errorf("remove etcd member %x: %w", id, err)
}

// Lead makes this member etcd's leader, if it is not yet.
func (n *Node) Lead(ctx context.Context) error {
	s := n.etcd.Server
	lead, self := s.Lead(), uint64(s.MemberID())
	if lead == self {
		return nil
	}
	if lead == 0 {
		return errors.New("etcd has no leader to take over from")
	}
	if err := s.MoveLeader(ctx, lead, self); err != nil {
		return fmt.Errorf("move etcd's leadership from %x to %x: %w", lead, self, err)
	}
	return nil
}

// LeaderChanged returns a channel that is closed at etcd's next leader change.
func (n *Node) LeaderChanged() <-chan struct{} { return n.etcd.Server.LeaderChangedNotify() }

// Hash is the hash of all keys and values up to a revision (0: the present one), equal on all
// members, and the revision.
func (n *Node) Hash(revision int64) (hash uint32, at int64, err error) {
	h, _, err := n.etcd.Server.KV().HashStorage().HashByRev(revision)
	if err != nil {
		return 0, 0, fmt.Errorf("hash at revision %d: %w", revision, err)
	}
	return h.Hash, h.Revision, nil
}
