package masters

import (
	"slices"
	"time"
)

// MemberStatus is a master as this one sees it.
type MemberStatus struct {
	Member
	Alive, Leader   bool
	AppliedRevision int64
	// DatabaseBytes is the size of its etcd database, DatabaseInUse what is in use of it, and
	// DatabaseLimit the most that may be; 0 if not known.
	DatabaseBytes, DatabaseInUse, DatabaseLimit int64
	// DiskFree is what is free on its disk, above its reserve; nil if not known.
	DiskFree *int64
	// Defragmenting its database at present.
	Defragmenting bool
	EtcdLeader    bool
	// Components that hold a leader stream there.
	Components []string
	// DiskLatency of its last synced write beside its data; 0 if not known.
	DiskLatency time.Duration
	// CertificateEnd is when the first of its certificates ends, by its clock; zero if not known.
	CertificateEnd time.Time
	// VirtualAddresses that it holds.
	VirtualAddresses []string
	// LastSeen is when it was last reached, by this machine's clock; zero if never.
	LastSeen time.Time
}

// Status is the group as this master sees it.
type Status struct {
	ClusterID     string
	Leadership    Leadership
	Members       []MemberStatus
	Quorum        Quorum
	LeaderChanges int64
	// LastChanges of leadership, oldest first.
	LastChanges []LeaderChange
	Uptime      time.Duration
	AnsweredBy  string
	// Expected are the components a healthy master has.
	Expected []string
	// Warnings are what needs attention, for people.
	Warnings []string
}

// Lag is how many revisions a master is behind the leader, or while none is known behind the
// newest. Reports are half a second old, so a healthy follower of a busy leader lags a little.
func (s Status) Lag(m MemberStatus) int64 {
	var newest int64
	for _, other := range s.Members {
		if other.Leader {
			newest = other.AppliedRevision
			break
		}
		newest = max(newest, other.AppliedRevision)
	}
	return max(newest-m.AppliedRevision, 0)
}

// Status describes the group.
func (m *Masters) Status() Status {
	now := m.cfg.Clock.Now()
	s := Status{
		ClusterID: m.roster.cluster(), Leadership: m.Leadership(), LeaderChanges: m.changes.Load(),
		Uptime: now.Sub(m.started), AnsweredBy: m.cfg.Name, Expected: m.cfg.Components,
		LastChanges: m.history.list(now),
	}
	for _, member := range m.roster.list() {
		status := MemberStatus{Member: member, Alive: m.alive(member.Name), Leader: member.Name == s.Leadership.Leader}
		report := m.ownReport()
		if member.Name == m.cfg.Name {
			status.LastSeen = now
		} else {
			known, _ := m.peers.get(member.Name)
			report, status.LastSeen = known.report, known.at
		}
		status.AppliedRevision, status.DatabaseBytes = report.GetAppliedRevision(), report.GetDatabaseBytes()
		status.EtcdLeader, status.Components = report.GetEtcdLeader(), report.GetComponents()
		status.VirtualAddresses = report.GetVirtualAddresses()
		status.DiskLatency = report.GetDiskLatency().AsDuration()
		if end := report.GetCertificateNotAfter(); end != nil {
			status.CertificateEnd = end.AsTime()
		}
		status.DatabaseInUse, status.DatabaseLimit = report.GetDatabaseInUseBytes(), report.GetDatabaseLimitBytes()
		if free := report.GetDiskFreeBytes(); free != nil {
			status.DiskFree = &free.Value
		}
		status.Defragmenting = report.GetDefragmenting()
		if status.Alive {
			s.Warnings = append(s.Warnings, report.GetConcerns()...)
		}
		if member.Role == Voter {
			s.Quorum.count(status.Alive)
		}
		s.Members = append(s.Members, status)
	}
	s.Warnings = append(s.spaceWarnings(), s.Warnings...)
	slices.Sort(s.Warnings)
	s.Warnings = slices.Compact(s.Warnings)
	return s
}
