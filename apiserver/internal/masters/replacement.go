package masters

import (
	"context"
	"time"

	"go.uber.org/zap"
)

const (
	// vigilGap is the longest time between two looks at the members that counts as watching.
	vigilGap = 5 * time.Second
	// spareLag is how many revisions a spare may be behind and still count as caught up:
	// what is written at full rate between two reports. etcd looks more closely when the
	// spare is promoted.
	spareLag = 1000
)

// vigil is since when the leader has been watching the others. What was known before its
// claim, or before its process was paused, says nothing of who is dead.
type vigil struct {
	epoch         uint64
	since, looked time.Time
}

// look notes that the members are being looked at now, under an epoch.
func (v *vigil) look(epoch uint64, now time.Time) {
	if v.epoch != epoch || now.Sub(v.looked) > vigilGap {
		v.epoch, v.since = epoch, now
	}
	v.looked = now
}

// silence is for how long a master has been watched and not heard. The caller tends members.
func (m *Masters) silence(member Member) time.Duration {
	heard := m.vigil.since
	if known, _ := m.peers.get(member.Name); known.at.After(heard) {
		heard = known.at
	}
	if answered := m.transport.answeredAt(member.PeerAddress); answered.After(heard) {
		heard = answered
	}
	return m.cfg.Clock.Since(heard)
}

// ready says whether a spare lives and has caught up, as far as reports tell.
func (m *Masters) ready(s standing) bool {
	known, _ := m.peers.get(s.member.Name)
	return s.member.Role == Spare && s.started() && m.alive(s.member.Name) &&
		m.cfg.Store.Revision()-known.report.GetAppliedRevision() <= spareLag
}

// longestDead returns the voter that has been silent for longest and for at least d, if a
// spare is ready to take its place; nil otherwise.
func longestDead(all []standing, d time.Duration, silence func(Member) time.Duration, ready func(standing) bool) *standing {
	var dead *standing
	spare := false
	for i := range all {
		s := &all[i]
		switch {
		case s.member.Role == Voter:
			if n := silence(s.member); n >= d && (dead == nil || n > silence(dead.member)) {
				dead = s
			}
		case ready(*s):
			spare = true
		}
	}
	if !spare {
		return nil
	}
	return dead
}

// replaceDead takes a voter off the roster that has been dead for long, so that a spare is
// promoted in its place: nextVoter does so because the voters are even then. The dead one
// goes first: beside it the spare would be one more voter whose failure counts. The
// voters that live tolerate as many failures after the removal as before, and one more after
// the promotion. Only one is replaced at a time: the members are not looked at for the
// next before the promotion is done.
func (m *Masters) replaceDead(ctx context.Context, all []standing) error {
	if m.cfg.ReplaceDeadAfter <= 0 {
		return nil
	}
	others := all[:0:0]
	for _, s := range all {
		if s.member.Name != m.cfg.Name {
			others = append(others, s)
		}
	}
	dead := longestDead(others, m.cfg.ReplaceDeadAfter, m.silence, m.ready)
	if dead == nil {
		return nil
	}
	removal, err := m.weigh(ctx, dead.member, false)
	if err != nil {
		return err
	}
	if removal.Refused != nil {
		return removal.Refused
	}
	spare := false
	for _, s := range others {
		spare = spare || m.ready(s) && removal.living[s.member.Name]
	}
	if removal.Alive || !spare || removal.After.Tolerated() < removal.Before.Tolerated() {
		return nil
	}
	if err := m.proveWrite(ctx); err != nil {
		return err
	}
	m.log.Warn("a spare replaces a dead master", zap.String("dead", dead.member.Name), zap.Duration("for", m.silence(dead.member)))
	return m.expel(ctx, dead.member)
}
