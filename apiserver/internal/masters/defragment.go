package masters

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

const (
	defragmentEvery = 30 * time.Second
	defragmentAbove = 100 << 20
	// fragmented is the part of a database, in percent, that must be free pages. After
	// defragmentation none are, so it takes long until the next.
	fragmented = 50
	// defragmentTimeout bounds the wait for another master.
	defragmentTimeout = 5 * time.Minute
	// tryAgainAfter a failure, or a handover for the sake of it.
	tryAgainAfter = 10 * time.Minute
)

// defragmentInTurn gives the free pages of the members' databases back to their disks: of one member
// at a time, while all are well, and of the leader's only once another leads, unless it is alone.
func (m *Masters) defragmentInTurn(ctx context.Context) error {
	if m.cfg.Care == nil {
		return nil
	}
	tried := map[string]time.Time{}
	for ctx.Err() == nil {
		m.beat(ctx, m.cfg.DefragmentEvery)
		if ctx.Err() != nil || !m.settled() {
			continue
		}
		next := m.mostFragmented(func(name string) bool {
			return m.cfg.Clock.Since(tried[name]) >= tryAgainAfter
		})
		if next == nil {
			continue
		}
		if err := m.defragmentMember(ctx, *next); err != nil {
			tried[next.Name] = m.cfg.Clock.Now()
			m.log.Warn("not defragmented", zap.String("name", next.Name), zap.Error(err))
		}
	}
	return nil
}

// settled says whether this master leads, all others are alive and up to date, and nothing about
// the members is under way.
func (m *Masters) settled() bool {
	if !m.cfg.Store.Term().Leading || len(m.cfg.Care.Alarms()) > 0 {
		return false
	}
	for _, member := range m.roster.list() {
		if member.Name == m.cfg.Name {
			continue
		}
		known, _ := m.peers.get(member.Name)
		behind := m.cfg.Store.Revision() - known.report.GetAppliedRevision()
		if member.Role == Learner || member.Role == Leaving || !m.alive(member.Name) || known.report.GetDefragmenting() || behind > spareLag {
			return false
		}
	}
	return true
}

// mostFragmented is the member with the most free pages of those that may be tried and have enough;
// this one comes last. nil if there is none.
func (m *Masters) mostFragmented(may func(name string) bool) *Member {
	var next *Member
	var most int64
	for _, member := range m.roster.list() {
		// Another comes before this one.
		if !may(member.Name) || next != nil && member.Name == m.cfg.Name {
			continue
		}
		report := m.ownReport()
		if member.Name != m.cfg.Name {
			known, _ := m.peers.get(member.Name)
			report = known.report
		}
		file, inUse := report.GetDatabaseBytes(), report.GetDatabaseInUseBytes()
		free := file - inUse
		if inUse == 0 || file < m.cfg.DefragmentAbove || free*100 < file*fragmented || free <= most && next.Name != m.cfg.Name {
			continue
		}
		// The copy needs room beside the old file.
		if report.GetDiskFreeBytes() == nil || report.GetDiskFreeBytes().GetValue() < inUse {
			continue
		}
		next, most = &member, free
	}
	return next
}

// defragmentMember has one member's database rewritten, or hands over first.
func (m *Masters) defragmentMember(ctx context.Context, member Member) error {
	if err := m.proveLead(ctx); err != nil {
		return err
	}
	if member.Name != m.cfg.Name {
		conn, err := m.conns.get(member.PeerAddress)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, defragmentTimeout)
		defer cancel()
		answer, err := peerv1pb.NewPeerServiceClient(conn).Defragment(ctx, &peerv1pb.DefragmentRequest{Epoch: m.cfg.Store.Term().Epoch})
		if err != nil {
			return err
		}
		m.log.Info("a master's database was defragmented", zap.String("name", member.Name),
			zap.Int64("before", answer.GetBytesBefore()), zap.Int64("after", answer.GetBytesAfter()))
		return nil
	}
	if m.hasOtherVoters() {
		if !m.leaveFor(ctx, "its database is to be defragmented", func(*peerv1pb.ReportRequest) bool { return true }) {
			return fmt.Errorf("%w: nobody else can lead meanwhile", ErrUnsettled)
		}
		return nil
	}
	// Writes wait for the next term, instead of being cut off in the middle.
	m.reigning.Lock()
	r := m.reign
	m.reigning.Unlock()
	if r == nil {
		return ErrNotLeader
	}
	defer m.resume(r)
	r.stopWriting()
	select {
	case <-r.stopped:
	case <-ctx.Done():
		return nil
	}
	_, _, err := m.defragment()
	return err
}

// Defragment rewrites this master's database, for the leader of an epoch. ErrConflict when that is
// not the present one, or this member leads etcd; ErrUnsettled while it is being done already.
func (m *Masters) Defragment(epoch uint64) (before, after int64, err error) {
	status := m.cfg.Etcd.Status()
	switch {
	case m.cfg.Care == nil:
		return 0, 0, fmt.Errorf("%w: %s has no etcd member of its own", ErrConflict, m.cfg.Name)
	case m.cfg.Store.Term().Epoch != epoch:
		return 0, 0, fmt.Errorf("%w: epoch %d is not the present one", ErrConflict, epoch)
	case status.Leader == status.ID:
		return 0, 0, fmt.Errorf("%w: %s leads etcd", ErrConflict, m.cfg.Name)
	}
	return m.defragment()
}

func (m *Masters) defragment() (before, after int64, err error) {
	if !m.care.defragmenting.CompareAndSwap(false, true) {
		return 0, 0, fmt.Errorf("%w: it is being defragmented", ErrUnsettled)
	}
	defer m.care.defragmenting.Store(false)
	began := m.cfg.Clock.Now()
	before, after, err = m.cfg.Care.Defragment()
	if err != nil {
		m.care.count(func(c *CareCounts) { c.DefragmentationsFailed++ })
		return before, after, err
	}
	m.measure()
	m.care.count(func(c *CareCounts) { c.Defragmented++ })
	m.log.Info("defragmented the database", zap.Int64("before", before), zap.Int64("after", after), zap.Duration("took", m.cfg.Clock.Since(began)))
	return before, after, nil
}

// mendFile makes a member's file smaller that has reached etcd's quota, and says whether it is by
// now. Writes are refused meanwhile, so that nothing is lost by blocking the leader's as well.
func (m *Masters) mendFile(ctx context.Context, id uint64) (mended bool, err error) {
	all := m.roster.list()
	i := slices.IndexFunc(all, func(member Member) bool { return member.EtcdID == etcdID(id) })
	own := m.care.space.Load()
	if i < 0 || own == nil {
		return false, fmt.Errorf("%w: etcd member %x", ErrUnknownMember, id)
	}
	file, inUse := own.File, own.InUse
	if all[i].Name != m.cfg.Name {
		known, _ := m.peers.get(all[i].Name)
		file, inUse = known.report.GetDatabaseBytes(), known.report.GetDatabaseInUseBytes()
	}
	if file < own.Ceiling {
		return true, nil
	}
	if err := m.proveLead(ctx); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	if inUse*100 >= own.Limit*pressurePercent {
		if err := m.cfg.Care.Compact(ctx, m.cfg.Etcd.Status().Revision); err != nil {
			return false, err
		}
	}
	if all[i].Name == m.cfg.Name {
		_, after, err := m.defragment()
		return after < own.Ceiling, err
	}
	return false, m.defragmentMember(ctx, all[i])
}
