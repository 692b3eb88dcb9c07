package masters

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/store"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// Care is what the masters do for the health of the local etcd member; *etcdnode.Node implements it.
type Care interface {
	Space() (etcdnode.Space, error)
	Settle()
	Compact(ctx context.Context, revision int64) error
	Defragment() (before, after int64, err error)
	Alarms() []etcdnode.Alarm
	SetAlarm(ctx context.Context, a etcdnode.Alarm, active bool) error
	Digests(ctx context.Context, revision int64) (map[uint64]etcdnode.Digest, error)
}

var _ Care = (*etcdnode.Node)(nil)

const (
	spaceInterval = time.Second
	// Parts of the limit, in percent, from which on there is a warning, and the history is
	// shortened. What is full is so until less than againPercent is in use.
	warnPercent     = 80
	pressurePercent = 90
	againPercent    = 95
	// againFree is how much must be free, above the reserve, on a disk that had none.
	againFree = 4 << 20
	// keptHistory stays when the history is shortened: members that lag a little need not load anew.
	keptHistory = 5 * time.Second
	// relief is the time between two such compactions; each reads all of the database.
	relief     = 15 * time.Second
	reliefFull = 2 * time.Second
	// compactTimeout bounds a compaction, which goes on without being waited for.
	compactTimeout = time.Minute
	// moveForSpace is the time between two attempts of a leader without room to hand over.
	moveForSpace = time.Minute
)

// care is what this master knows of the health of the data. It is safe for concurrent use.
type care struct {
	space         atomic.Pointer[etcdnode.Space] // nil until it was measured
	defragmenting atomic.Bool
	full          atomic.Bool // growth is refused

	mu       sync.Mutex
	concerns map[string]string // by topic
	counts   CareCounts

	// permitted may rebuild its data at present; guarded by Masters.change.
	permitted permit
}

type permit struct {
	name string
	at   time.Time
}

// CareCounts are what this master has done since it started.
type CareCounts struct {
	// Defragmented databases, and attempts that failed.
	Defragmented, DefragmentationsFailed int64
	// Compared the data of all members, and found differences.
	Compared, Differed int64
	// Shortened the history for lack of space.
	Shortened int64
}

func newCare() *care { return &care{concerns: map[string]string{}} }

func (c *care) count(change func(*CareCounts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.counts)
}

// worry notes, or with an empty text takes back, what needs attention.
func (c *care) worry(topic, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text == "" {
		delete(c.concerns, topic)
		return
	}
	c.concerns[topic] = text
}

func (c *care) worries() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Values(c.concerns))
}

// CareCounts returns what this master has done.
func (m *Masters) CareCounts() CareCounts {
	m.care.mu.Lock()
	defer m.care.mu.Unlock()
	return m.care.counts
}

// Full says whether this master leads and refuses growth.
func (m *Masters) Full() bool { return m.care.full.Load() }

// measureSpace keeps known what this master's database takes.
func (m *Masters) measureSpace(ctx context.Context) error {
	for m.cfg.Care != nil && ctx.Err() == nil {
		m.measure()
		m.beat(ctx, spaceInterval)
	}
	return nil
}

func (m *Masters) measure() {
	space, err := m.cfg.Care.Space()
	if err != nil {
		m.log.Warn("space is not known", zap.Error(err))
		return
	}
	m.care.space.Store(&space)
}

// reportCare adds what others must know of this master's data.
func (m *Masters) reportCare(r *peerv1pb.ReportRequest) {
	r.Concerns, r.Defragmenting = m.care.worries(), m.care.defragmenting.Load()
	if m.cfg.Concerns != nil {
		r.Concerns = append(r.Concerns, m.cfg.Concerns()...)
	}
	if s := m.care.space.Load(); s != nil {
		// All of one moment.
		r.DatabaseBytes, r.DatabaseInUseBytes, r.DatabaseLimitBytes = s.File, s.InUse, s.Limit
		r.DiskFreeBytes = wrapperspb.Int64(s.Free)
	}
}

// short says whether a master's disk is known to have no room.
func short(r *peerv1pb.ReportRequest) bool {
	return r.GetDiskFreeBytes() != nil && r.GetDiskFreeBytes().GetValue() <= 0
}

// room is how much space the masters have together.
type room struct {
	inUse, limit int64
	limitOf      string // whose limit it is
	// voters on the roster; of the living ones, how many have room, and who has not.
	voters, roomy int
	short         []string
}

// room looks at the living masters. After a time without room, a disk needs a little more.
func (m *Masters) room(full bool) room {
	own := m.ownReport() // a new leader may not be on the roster yet
	r := room{inUse: own.GetDatabaseInUseBytes(), limit: own.GetDatabaseLimitBytes(), limitOf: m.cfg.Name}
	need := int64(1)
	if full {
		need = againFree
	}
	for _, member := range m.roster.list() {
		report := own
		if member.Name != m.cfg.Name {
			known, _ := m.peers.get(member.Name)
			report = known.report
		}
		if member.Role == Voter {
			r.voters++
		}
		if !m.alive(member.Name) {
			continue
		}
		if limit := report.GetDatabaseLimitBytes(); limit > 0 && (r.limit == 0 || limit < r.limit) {
			r.limit, r.limitOf = limit, member.Name
		}
		switch free := report.GetDiskFreeBytes(); {
		case member.Role != Voter:
		case free != nil && free.GetValue() < need:
			r.short = append(r.short, member.Name)
		default:
			r.roomy++
		}
	}
	return r
}

// used says how many percent of the limit are in use.
func (r room) used() int64 {
	if r.limit == 0 {
		return 0
	}
	return r.inUse * 100 / r.limit
}

// refusal is why nothing may grow; nil if it may. Who was full stays so for a while.
func (r room) refusal(full bool) error {
	from := int64(100)
	if full {
		from = againPercent
	}
	switch {
	case r.used() >= from:
		return fmt.Errorf("%w: %s of the %s that the database may have are in use: delete what is not needed, which always works, or raise etcd.quotaBytes in the apiserver.yaml of %s; writes are accepted again below %d %%",
			store.ErrFull, size(r.inUse), size(r.limit), r.limitOf, againPercent)
	case len(r.short) > 0 && r.roomy < r.voters/2+1:
		return fmt.Errorf("%w: the disk of %s has no more than its reserve free: make room there; deletions work, and writes are accepted again when a majority of the masters has room",
			store.ErrFull, strings.Join(r.short, " and of "))
	}
	return nil
}

// left is what may be written until the next look, given the refusal of now, and the refusal of more.
func (r room) left(refusal error) (bytes int64, more error) {
	switch {
	case refusal != nil:
		return 0, refusal
	case r.limit == 0:
		return 0, nil
	}
	r.short = nil
	left := r.limit - r.inUse
	r.inUse = r.limit
	return left, r.refusal(false)
}

// size is a number of bytes for people.
func size(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// keepLimit refuses growth while there is no space, so far below etcd's own quota that deletions,
// each of which writes a little, always work.
func (m *Masters) keepLimit(ctx context.Context) error {
	if m.cfg.Care == nil {
		return nil
	}
	defer func() {
		m.care.full.Store(false)
		m.cfg.Store.SetRoom(0, nil)
	}()
	var moved time.Time
	var given int64
	for ctx.Err() == nil {
		// What is left to write is reckoned from now. While much is written, the size is behind.
		if left, bounded := m.cfg.Store.Room(); bounded && given > 0 && left < given-given/4 {
			m.cfg.Care.Settle()
		}
		m.measure()
		before := m.care.full.Load()
		r := m.room(before)
		refusal := r.refusal(before)
		if full := refusal != nil; full != before {
			m.care.full.Store(full)
			if full {
				m.log.Error("the data store is full, nothing may grow", zap.Error(refusal))
			} else {
				m.log.Info("the data store has room again", zap.Int64("inUse", r.inUse), zap.Int64("limit", r.limit))
			}
		}
		var more error
		given, more = r.left(refusal)
		m.cfg.Store.SetRoom(given, more)
		if refusal == nil && slices.Contains(r.short, m.cfg.Name) && m.cfg.Clock.Since(moved) > moveForSpace {
			moved = m.cfg.Clock.Now()
			m.leaveFor(ctx, "its disk is full", func(r *peerv1pb.ReportRequest) bool { return !short(r) })
		}
		m.beat(ctx, spaceInterval)
	}
	return nil
}

// leaveFor hands leadership to a living voter that is fit for it, if there is one.
func (m *Masters) leaveFor(ctx context.Context, reason string, fit func(*peerv1pb.ReportRequest) bool) bool {
	for _, member := range m.roster.list() {
		known, _ := m.peers.get(member.Name)
		if member.Name == m.cfg.Name || member.Role != Voter || !m.alive(member.Name) || !fit(known.report) {
			continue
		}
		m.log.Warn("handing over", zap.String("because", reason), zap.String("to", member.Name))
		ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
		defer cancel()
		err := m.handOver(ctx, member.Name, "handed over: "+reason)
		if err != nil {
			m.log.Warn("could not hand over", zap.Error(err))
		}
		return err == nil
	}
	return false
}

// shortenHistory forgets old revisions before their time while space is short.
func (m *Masters) shortenHistory(ctx context.Context) error {
	if m.cfg.Care == nil {
		return nil
	}
	type mark struct {
		at       time.Time
		revision int64
	}
	var marks []mark
	var done time.Time
	var kept int64
	for ctx.Err() == nil {
		now := m.cfg.Clock.Now()
		marks = append(marks, mark{now, m.cfg.Etcd.Status().Revision})
		for len(marks) > 1 && now.Sub(marks[1].at) >= keptHistory {
			marks = marks[1:]
		}
		pause := relief
		full := m.care.full.Load()
		if full {
			pause = reliefFull
		}
		oldest := marks[0]
		pressed := full || m.room(false).used() >= pressurePercent
		if pressed && now.Sub(oldest.at) >= keptHistory && oldest.revision > kept && now.Sub(done) >= pause {
			if err := m.compact(ctx, oldest.revision); err == nil {
				kept = oldest.revision
			} else if ctx.Err() == nil {
				m.log.Warn("history not shortened", zap.Error(err))
			}
			done = now
		}
		m.beat(ctx, spaceInterval)
	}
	return nil
}

func (m *Masters) compact(ctx context.Context, revision int64) error {
	if err := m.proveWrite(ctx); err != nil { // compactions are not guarded by the fence
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	if err := m.cfg.Care.Compact(ctx, revision); err != nil {
		return err
	}
	m.care.count(func(c *CareCounts) { c.Shortened++ })
	m.log.Warn("history shortened for lack of space", zap.Int64("from", revision))
	return nil
}

// spaceWarnings says what will be short.
func (s *Status) spaceWarnings() []string {
	var warnings []string
	var fullest room
	for _, m := range s.Members {
		if !m.Alive {
			continue
		}
		if r := (room{inUse: m.DatabaseInUse, limit: m.DatabaseLimit, limitOf: m.Name}); r.used() > fullest.used() {
			fullest = r
		}
		if m.DiskFree != nil && *m.DiskFree <= 0 {
			warnings = append(warnings, fmt.Sprintf("the disk of %s has no more than its reserve free: make room there", m.Name))
		}
	}
	if fullest.used() >= warnPercent {
		warnings = append(warnings, fmt.Sprintf("%d %% of the %s that the database may have (on %s) are in use: delete what is not needed, or raise etcd.quotaBytes; from 100 %% on nothing may grow",
			fullest.used(), size(fullest.limit), fullest.limitOf))
	}
	return warnings
}
