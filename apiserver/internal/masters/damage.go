package masters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/etcdnode"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

const (
	compareEvery = time.Minute
	// firstCompare is how long after its claim a leader compares for the first time: when the former
	// one handed over because its own data was odd, that is still to be mended.
	firstCompare = 10 * time.Second
	// oneRebuild is how long others must wait once a member may rebuild its data, unless it is
	// seen to have done so.
	oneRebuild = 2 * time.Minute
	// alarmTimeout bounds an attempt to disarm.
	alarmTimeout = 5 * time.Second
)

// comparison is what digests of all members' data say.
type comparison struct {
	// odd are the etcd ids of members whose data differs from that of a majority of the voters.
	odd []uint64
	// agreed says that a majority has the same data, undecided that data differ and none has.
	agreed, undecided bool
	// compared are those of which the digests could be.
	compared int
	// revision that was compared; odd data that is newer is found the next time.
	revision int64
}

// weighDigests compares. votes has all members, and whether they vote. Only digests of the same
// compaction are comparable; members that lag with theirs are compared the next time.
func weighDigests(votes map[uint64]bool, digests map[uint64]etcdnode.Digest) comparison {
	voters := 0
	groups := map[etcdnode.Digest]int{} // voters with each
	for id, votes := range votes {
		if !votes {
			continue
		}
		voters++
		if d, found := digests[id]; found {
			groups[d]++
		}
	}
	var c comparison
	var right etcdnode.Digest
	hashes := map[int64]map[uint32]bool{} // by compaction
	for d, n := range groups {
		if n >= voters/2+1 {
			c.agreed, right = true, d
		}
		if hashes[d.Compacted] == nil {
			hashes[d.Compacted] = map[uint32]bool{}
		}
		hashes[d.Compacted][d.Hash] = true
		c.undecided = c.undecided || len(hashes[d.Compacted]) > 1
	}
	if !c.agreed {
		return c
	}
	c.undecided = false
	for id := range votes {
		if d, found := digests[id]; found && d.Compacted == right.Compacted {
			c.compared++
			if d.Hash != right.Hash {
				c.odd = append(c.odd, id)
			}
		}
	}
	slices.Sort(c.odd)
	return c
}

// compare asks the living members, but for the one to be left out, for digests of a revision that
// all of them have.
func (m *Masters) compare(ctx context.Context, without string) (comparison, error) {
	revision := m.cfg.Store.Revision()
	votes := map[uint64]bool{}
	all, err := m.standings()
	if err != nil {
		return comparison{}, err
	}
	for _, s := range all {
		if !s.inEtcd {
			continue
		}
		votes[s.etcd.ID] = s.votes()
		if s.member.Name == m.cfg.Name || s.member.Name == without || !m.alive(s.member.Name) {
			continue
		}
		if known, _ := m.peers.get(s.member.Name); known.report.GetAppliedRevision() > 0 {
			revision = min(revision, known.report.GetAppliedRevision())
		}
	}
	digests, err := m.cfg.Care.Digests(ctx, revision)
	if err != nil {
		return comparison{}, err
	}
	m.care.count(func(c *CareCounts) { c.Compared++ })
	c := weighDigests(votes, digests)
	c.revision = revision
	return c, nil
}

// compareData finds members whose data differs from that of a majority, and has it rebuilt.
func (m *Masters) compareData(ctx context.Context) error {
	if m.cfg.Care == nil {
		return nil
	}
	m.pause(ctx, min(firstCompare, m.cfg.CompareEvery))
	for ctx.Err() == nil {
		if m.cfg.Store.Term().Leading {
			if _, err := m.mendOdd(ctx, 0); err != nil && ctx.Err() == nil {
				m.log.Info("data not compared", zap.Error(err))
			}
		}
		m.beat(ctx, m.cfg.CompareEvery)
	}
	return nil
}

// mendOdd compares, twice if something is odd, and acts on it. It says whether the data of all
// members is known to be the same up to a revision.
func (m *Masters) mendOdd(ctx context.Context, upTo int64) (well bool, err error) {
	c, err := m.compare(ctx, "")
	if err == nil && len(c.odd) > 0 {
		c, err = m.compare(ctx, "")
	}
	if err != nil {
		return false, err
	}
	m.care.worry("undecided", "")
	switch {
	case c.undecided:
		m.care.count(func(c *CareCounts) { c.Differed++ })
		m.care.worry("undecided", "the masters' data differ, and no majority agrees: compare them, and run `kijabi recover` on the one that is right")
		return false, errors.New("the masters' data differ, and no majority agrees")
	case len(c.odd) == 0:
		m.care.worry("odd", "")
		return c.agreed && c.compared == len(m.cfg.Etcd.Members()) && c.revision >= upTo, nil
	}
	m.care.count(func(c *CareCounts) { c.Differed++ })
	if self := m.cfg.Etcd.Status().ID; slices.Contains(c.odd, self) {
		m.log.Error("this master's data differs from that of the majority")
		m.leaveFor(ctx, "its data differs from the others'", func(r *peerv1pb.ReportRequest) bool {
			return !slices.Contains(c.odd, parseEtcdID(r.GetEtcdId()))
		})
		return false, nil
	}
	return false, m.removeDamaged(ctx, c.odd[0])
}

// removeDamaged takes a member off that may join again with new data, if the others can do without
// it and no other is being rebuilt.
func (m *Masters) removeDamaged(ctx context.Context, id uint64) (err error) {
	m.change.Lock()
	defer m.change.Unlock()
	all := m.roster.list()
	i := slices.IndexFunc(all, func(member Member) bool { return member.EtcdID == etcdID(id) })
	if i < 0 {
		return fmt.Errorf("%w: etcd member %x", ErrUnknownMember, id)
	}
	member := all[i]
	defer func() {
		if err != nil {
			m.care.worry("odd", fmt.Sprintf("the data of %s differs from that of the majority, but it cannot be rebuilt now: %v", member.Name, err))
		}
	}()
	if err := m.mayRebuild(ctx, member); err != nil {
		return err
	}
	m.log.Error("the data of a master differs from that of the majority: it is removed to join anew", zap.String("name", member.Name))
	if err := m.apply(command{Damaged: member.Name}); err != nil {
		return err
	}
	if err := m.expel(ctx, member); err != nil {
		return err
	}
	m.care.permitted = permit{member.Name, m.cfg.Clock.Now()}
	m.care.worry("odd", "")
	return nil
}

// mayRebuild says why a member may not give up its data now. The caller holds change.
func (m *Masters) mayRebuild(ctx context.Context, member Member) error {
	for _, other := range m.roster.list() {
		if other.Name != member.Name && other.Role == Learner && m.alive(other.Name) {
			return fmt.Errorf("%w: %s is being rebuilt, or joins", ErrUnsettled, other.Name)
		}
		since := m.cfg.Clock.Since(m.care.permitted.at)
		if other.Name != member.Name && other.Name == m.care.permitted.name && since < oneRebuild && (since < aliveWindow || !m.alive(other.Name)) {
			return fmt.Errorf("%w: %s may rebuild its data", ErrUnsettled, other.Name)
		}
	}
	removal, err := m.weigh(ctx, member, false)
	if err != nil {
		return err
	}
	if removal.Refused != nil {
		return removal.Refused
	}
	return m.proveLead(ctx)
}

// proveLead shows that this master leads, as well as that can be shown while an alarm keeps it from
// writing.
func (m *Masters) proveLead(ctx context.Context) error {
	if m.cfg.Store.Term().Leading {
		return m.proveWrite(ctx)
	}
	return m.raft.VerifyLeader().Error()
}

// PermitRebuild says whether a master, which does not run, may give up its data, which is damaged,
// and join anew: nil, or ErrUnsettled, ErrQuorum, ErrConflict, ErrUnknownMember. Data that merely
// differs is given up only if the others' is the same: else it may be the right one. Leader only.
func (m *Masters) PermitRebuild(ctx context.Context, name, damage string, differs bool) error {
	if err := m.leads(); err != nil {
		return err
	}
	m.change.Lock()
	defer m.change.Unlock()
	if slices.Contains(m.roster.allDamaged(), name) {
		return nil // it was removed for it
	}
	member, found := m.roster.get(name)
	switch {
	case !found:
		return fmt.Errorf("%w: %s", ErrUnknownMember, name)
	case name == m.cfg.Name:
		return fmt.Errorf("%w: %s leads", ErrConflict, name)
	}
	if err := m.mayRebuild(ctx, member); err != nil {
		return err
	}
	if differs && m.cfg.Care != nil {
		c, err := m.compare(ctx, name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnsettled, err)
		}
		if !c.agreed || len(c.odd) > 0 {
			return fmt.Errorf("%w: its data differs from another's, and without it no majority agrees", ErrConflict)
		}
	}
	m.care.permitted = permit{name, m.cfg.Clock.Now()}
	m.log.Warn("a master gives its data up and joins anew", zap.String("name", name), zap.String("damage", damage))
	return nil
}

// AskToRebuild asks the given masters for the leader's permission to give this machine's data up,
// until the leader has answered or ctx ends. It returns the group's generation.
func AskToRebuild(ctx context.Context, addresses []string, dial Dial, req *peerv1pb.GiveUpRequest, log *zap.Logger) (generation uint64, err error) {
	conns := newConns(dial)
	defer conns.close()
	err = errors.New("no other master is known")
	for len(addresses) > 0 && ctx.Err() == nil {
		for _, address := range addresses {
			conn, failed := conns.get(address)
			if failed != nil {
				err = cmp.Or(failed, err)
				continue
			}
			attempt, cancel := context.WithTimeout(ctx, 2*raftTimeout)
			answer, failed := peerv1pb.NewPeerServiceClient(conn).GiveUp(attempt, req)
			cancel()
			if failed == nil {
				return answer.GetGeneration(), nil
			}
			if err = failed; refused(failed) {
				return 0, err
			}
			log.Info("not permitted yet to rebuild the data", zap.String("by", address), zap.Error(failed))
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return 0, errors.Join(err, ctx.Err())
}

// refused tells a leader's no from no answer and from a "not now".
func refused(err error) bool {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return true
	}
	switch status.Code(err) {
	case codes.Aborted, codes.NotFound, codes.Unimplemented:
		return true
	}
	return false
}

// tendAlarms acts on etcd's alarms, while which no batch is taken: it mends their cause and ends them.
func (m *Masters) tendAlarms(ctx context.Context) error {
	if m.cfg.Care == nil {
		return nil
	}
	since := map[etcdnode.Alarm]int64{} // etcd's revision when it was seen first
	for ctx.Err() == nil {
		alarms := m.cfg.Care.Alarms()
		maps.DeleteFunc(since, func(a etcdnode.Alarm, _ int64) bool { return !slices.Contains(alarms, a) })
		var about []string
		for _, a := range alarms {
			what := "its file has reached etcd's quota"
			if a.Corrupt {
				what = "its data differs"
			}
			about = append(about, fmt.Sprintf("etcd member %s (%x): %s", m.nameOf(a.Member), a.Member, what))
			if _, seen := since[a]; !seen {
				since[a] = m.cfg.Etcd.Status().Revision
			}
			if err := m.tendAlarm(ctx, a, since[a]); err != nil && ctx.Err() == nil {
				m.log.Warn("alarm stays", zap.Uint64("member", a.Member), zap.Bool("corrupt", a.Corrupt), zap.Error(err))
			}
			if !slices.Contains(m.cfg.Care.Alarms(), a) {
				delete(since, a)
			}
		}
		text := ""
		if len(about) > 0 {
			text = "etcd takes no writes: " + strings.Join(about, "; ")
		}
		m.care.worry("alarm", text)
		m.beat(ctx, etcdPoll)
	}
	return nil
}

func (m *Masters) nameOf(id uint64) string {
	for _, member := range m.roster.list() {
		if member.EtcdID == etcdID(id) {
			return member.Name
		}
	}
	return "unknown"
}

func (m *Masters) tendAlarm(ctx context.Context, a etcdnode.Alarm, since int64) error {
	mended := !slices.ContainsFunc(m.cfg.Etcd.Members(), func(e etcdnode.Member) bool { return e.ID == a.Member }) && a.Member != 0
	var err error
	switch {
	case mended:
	case a.Corrupt:
		// Etcd may blame the wrong one.
		mended, err = m.mendOdd(ctx, since)
	default:
		mended, err = m.mendFile(ctx, a.Member)
	}
	if err != nil || !mended {
		return err
	}
	if err := m.raft.VerifyLeader().Error(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, alarmTimeout)
	defer cancel()
	if err := m.cfg.Care.SetAlarm(ctx, a, false); err != nil {
		return err
	}
	m.log.Warn("alarm of etcd ended", zap.Uint64("member", a.Member), zap.Bool("corrupt", a.Corrupt))
	return nil
}
