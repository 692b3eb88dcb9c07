package masters

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/store"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// SeparateEtcd is an etcd that runs by itself, beside the masters; *etcd.Separate implements it.
type SeparateEtcd interface {
	// DatabaseBytes is the size of a member's database.
	DatabaseBytes() int64
	// Compact forgets the revisions before the given one.
	Compact(ctx context.Context, revision int64) error
}

const (
	defaultRetention = 24 * time.Hour
	// samplesKept of the revision are spread over the retention: that is how exact it is.
	samplesKept = 24
	// forgetTimeout bounds one compaction.
	forgetTimeout = 10 * time.Second
)

// Exists says whether dir holds raft's data.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, logFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// sameEtcd refuses a master that would keep its data elsewhere than the others.
func (m *Masters) sameEtcd(candidate Member) error {
	switch embeds := candidate.EtcdPeerURL != ""; {
	case embeds && m.cfg.Etcd == nil:
		return fmt.Errorf("%w: the masters use a separate etcd, and %s would embed a member: give it their etcd.endpoints", ErrConflict, candidate.Name)
	case !embeds && m.cfg.Etcd != nil:
		return fmt.Errorf("%w: the masters embed etcd's members, and %s would use a separate etcd: start it without etcd.endpoints", ErrConflict, candidate.Name)
	}
	return nil
}

// standsIn is a raft server as if it were etcd's member. It has started if it has reported.
func (m *Masters) standsIn(server raft.Server) etcdnode.Member {
	member := etcdnode.Member{Learner: server.Suffrage != raft.Voter}
	if _, heard := m.peers.get(string(server.ID)); heard || string(server.ID) == m.cfg.Name {
		member.Name = string(server.ID)
	}
	return member
}

// caughtUp says whether a member that does not vote holds raft's log and has loaded its memory, as
// etcd says of a learner of its own.
func (m *Masters) caughtUp(member Member) bool {
	known, _ := m.peers.get(member.Name)
	applied := known.report.GetAppliedRevision()
	return m.alive(member.Name) && applied > 0 && m.cfg.Store.Revision()-applied <= spareLag &&
		m.transport.matchedUpTo(member.PeerAddress) >= m.raft.CommitIndex()
}

// disowned says whether the leader of the group answers at one of the addresses and does not know
// this master. An embedded member is told by etcd; here raft may not have reached it.
func (m *Masters) disowned(ctx context.Context, addresses []string) bool {
	for _, address := range addresses {
		conn, err := m.conns.get(address)
		if err != nil {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, successorTimeout)
		status, err := mastersv1pb.NewMastersServiceClient(conn).Status(asked, &mastersv1pb.StatusRequest{}, grpc.WaitForReady(false))
		cancel()
		// A leader with an epoch has applied all that earlier ones have put on the roster.
		if err != nil || status.GetClusterId() != m.cfg.ClusterID || status.GetGeneration() != m.Generation() ||
			status.GetEpoch() == 0 || status.GetLeader() != status.GetAnsweredBy() {
			continue
		}
		if !slices.ContainsFunc(status.GetMembers(), func(member *mastersv1pb.Member) bool { return member.GetName() == m.cfg.Name }) {
			return true
		}
	}
	return false
}

// sample is the revision at a time.
type sample struct {
	at       time.Time
	revision int64
}

// compactSeparate forgets the revisions of a separate etcd that are older than the retention. Every
// master notes how the revision grows, so that whoever leads can go on; nothing is forgotten
// before a master has run for as long.
func (m *Masters) compactSeparate(ctx context.Context) error {
	if m.cfg.Separate == nil {
		return nil
	}
	var samples []sample
	compacted := int64(0)
	for {
		m.beat(ctx, m.cfg.Retention/samplesKept)
		if ctx.Err() != nil {
			return nil
		}
		now := m.cfg.Clock.Now()
		samples = append(samples, sample{now, m.cfg.Store.Revision()})
		revision := int64(0)
		samples, revision = outlived(samples, now.Add(-m.cfg.Retention))
		if revision <= compacted || !m.cfg.Store.Term().Leading {
			continue
		}
		if err := m.forgetBefore(ctx, revision); err != nil {
			if ctx.Err() == nil {
				m.log.Warn("old revisions are kept for longer", zap.Int64("revision", revision), zap.Error(err))
			}
			continue
		}
		m.log.Info("old revisions forgotten", zap.Int64("before", revision))
		compacted = revision
	}
}

// outlived returns the revision of the newest sample that is not after a time, 0 if there is none,
// and the samples that may still be needed.
func outlived(samples []sample, at time.Time) ([]sample, int64) {
	n := 0
	for n < len(samples) && !samples[n].at.After(at) {
		n++
	}
	if n == 0 {
		return samples, 0
	}
	return samples[n-1:], samples[n-1].revision
}

// forgetBefore compacts, and proves that this master still leads just before: compactions are not
// guarded by the fence.
func (m *Masters) forgetBefore(ctx context.Context, revision int64) error {
	if err := m.proveWrite(ctx); err != nil {
		return err
	}
	if !m.cfg.Store.Term().Leading {
		return ErrNotLeader
	}
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	err := m.cfg.Separate.Compact(ctx, revision)
	if errors.Is(err, store.ErrCompacted) {
		return nil // an earlier leader was further
	}
	return err
}
