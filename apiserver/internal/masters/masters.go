// Package masters keeps the group of masters: who belongs to it, who leads, and how the
// others are reached.
//
// A raft group over the masters' own port decides who leads and holds the roster. The
// leader claims the store's epoch, makes the local etcd member etcd's leader, grows
// and shrinks both groups in step, and gives leadership up when it cannot prove that it
// can write (docs/decisions/leadership-is-fenced.md).
package masters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zapio"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/storage/etcd"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/lifecycle"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// Errors of this package.
var (
	// ErrNotLeader is returned by what only the leading master can do.
	ErrNotLeader = errors.New("this master does not lead")
	// ErrNoLeader means that no leader is known at present.
	ErrNoLeader = errors.New("no master leads at present")
	// ErrUnknownMember means that a name is not on the roster.
	ErrUnknownMember = errors.New("no such master")
	// ErrQuorum refuses a change that would lose the quorum.
	ErrQuorum = errors.New("the remaining masters would have no quorum")
	// ErrUnsettled refuses a change that may be possible in a moment.
	ErrUnsettled = errors.New("the masters are not settled, try again in a few seconds")
	// ErrConflict refuses a join that contradicts the roster.
	ErrConflict = errors.New("conflicts with the roster")
)

// defaultHeartbeat is how long a follower waits for its leader, who sends five to ten
// heartbeats in that time and steps down after as long without a majority (the fence, not
// the lease, is what keeps an old leader from writing). Noticing a crash takes up to three times
// as long, beside which etcd elects, too. Less deposes leaders that are merely late on a
// busy machine; with more, writes may not go on within a second.
const defaultHeartbeat = 200 * time.Millisecond

// Etcd is the local etcd member, embedded in the apiserver; *etcdnode.Node implements it.
type Etcd interface {
	Status() etcdnode.Status
	Members() []etcdnode.Member
	AddLearner(ctx context.Context, peerURL string) (uint64, []etcdnode.Member, error)
	Promote(ctx context.Context, id uint64) error
	Remove(ctx context.Context, id uint64) error
	// Lead makes the local member etcd's leader.
	Lead(ctx context.Context) error
}

// Store is the local store; *store.Store implements it.
type Store interface {
	Lead(ctx context.Context) error
	Fresh(ctx context.Context) error
	Term() store.Term
	TermChanged() <-chan struct{}
	Revision() int64
	SetRoom(bytes int64, refusal error)
	Room() (bytes int64, bounded bool)
}

var (
	_ Etcd         = (*etcdnode.Node)(nil)
	_ SeparateEtcd = (*etcd.Separate)(nil)
	_ Store        = (*store.Store)(nil)
)

// Config is what Masters need. Fields are required unless said otherwise.
type Config struct {
	// Name of this machine.
	Name string
	// ClusterID is given to the roster of a new group.
	ClusterID string
	// The addresses others use, as on the roster.
	PeerAddress, EtcdPeerURL, GRPCAddress, RESTAddress string
	// Dir holds raft's data.
	Dir string
	// Bootstrap forms a group of one if Dir holds none yet.
	Bootstrap bool
	// Etcd is the local member; nil with a separate etcd, whose members are not the masters'
	// business: EtcdPeerURL is then empty, and raft's membership the only one.
	Etcd Etcd
	// Separate is the separate etcd; nil with an embedded member.
	Separate SeparateEtcd
	// Retention is how long a separate etcd keeps revisions; 0 means 24 h. Embedded members see
	// to that themselves.
	Retention time.Duration
	// Store is the local store.
	Store Store
	// Care looks after the local member's data; nil when that is not this group's business.
	Care Care
	// CompareEvery is the time between two comparisons of all members' data; 0 means a minute.
	CompareEvery time.Duration
	// DefragmentAbove is the size of a database in bytes below which it is left alone; 0 means
	// 100 MiB. Whether one needs it is looked at every DefragmentEvery; 0 means 30 s.
	DefragmentAbove int64
	DefragmentEvery time.Duration
	// Concerns are what else needs attention on this machine, for people; nil means nothing.
	Concerns func() []string
	// Dial connects to other masters.
	Dial Dial
	// Heartbeat, Election and LeaderLease are raft's times; 0 means 200 ms for each.
	Heartbeat, Election, LeaderLease time.Duration
	// Components are the programs a healthy master has beside it; leadership moves to a
	// master that has them all when this one lacks some for ComponentGrace (0: 15 s). May
	// be empty.
	Components     []string
	ComponentGrace time.Duration
	// ReplaceDeadAfter is how long a voter must have been dead before a spare replaces it; 0
	// means never. It takes effect on the leader.
	ReplaceDeadAfter time.Duration
	// CertificateEnd is when the first of this master's certificates ends, for others to
	// show; nil means not known.
	CertificateEnd func() time.Time
	// VirtualAddresses are those that this master holds, for others to show; nil means none.
	VirtualAddresses func() []string
	// Abandon ends the process at once, of a leader that cannot lead, hand over, or end in order, or
	// of a master whose disk has failed;
	// nil means that it says so and exits with code 1.
	Abandon func()
	// DiskFailed is told of a write to raft's log that the disk has failed, before Abandon; may be nil.
	DiskFailed func(error)
	// SharedFiles returns the key material that a joining master needs; nil means none.
	SharedFiles func() (map[string][]byte, error)
	// Clock; nil means the real one. Raft's own times do not follow it.
	Clock clock.WithTicker
	// Log; raft's own messages below warning are left out.
	Log *zap.Logger
}

// Masters is this master's part in the group. All methods are safe for concurrent use.
type Masters struct {
	cfg       Config
	log       *zap.Logger
	roster    *roster
	transport *transport
	conns     *conns
	peers     *peers
	directory *Directory
	raft      *raft.Raft
	logs      *logStore
	elected   chan bool // raft's leadership changes
	leader    *leader
	started   time.Time
	changes   atomic.Int64 // leader changes seen

	history  history
	handover atomic.Pointer[peerv1pb.Handover] // how this master last gave leadership away
	disk     diskTimes
	care     *care

	change sync.Mutex // one change of membership at a time
	vigil  vigil      // of tendMembers alone

	reigning sync.Mutex
	reign    *reign      // the present one; guarded by reigning
	again    atomic.Bool // begin another reign after the present one
}

// New opens raft's data and joins the group in the background: the peer port must be
// served soon after. Run must be called, or Close.
func New(cfg Config) (*Masters, error) {
	if cfg.Name == "" || cfg.PeerAddress == "" || cfg.Dir == "" || cfg.Store == nil || cfg.Dial == nil || cfg.Log == nil {
		return nil, errors.New("masters: name, peer address, directory, store, dial and log are required")
	}
	if (cfg.Etcd == nil) == (cfg.Separate == nil) {
		return nil, errors.New("masters: either an embedded etcd member or a separate etcd is required")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	cfg.Heartbeat = orDefault(cfg.Heartbeat, defaultHeartbeat)
	cfg.Election = orDefault(cfg.Election, max(defaultHeartbeat, cfg.Heartbeat))
	cfg.LeaderLease = orDefault(cfg.LeaderLease, cfg.Heartbeat)
	cfg.ComponentGrace = orDefault(cfg.ComponentGrace, 15*time.Second)
	cfg.CompareEvery, cfg.DefragmentEvery = orDefault(cfg.CompareEvery, compareEvery), orDefault(cfg.DefragmentEvery, defragmentEvery)
	cfg.DefragmentAbove = cmp.Or(cfg.DefragmentAbove, defragmentAbove)
	cfg.Retention = orDefault(cfg.Retention, defaultRetention)
	if cfg.Abandon == nil {
		cfg.Abandon = func() {
			cfg.Log.Error("this master can neither go on nor hand over nor end in order, ending the process")
			os.Exit(1)
		}
	}
	m := &Masters{
		cfg: cfg, log: cfg.Log, roster: newRoster(), conns: newConns(cfg.Dial), peers: newPeers(),
		directory: newDirectory(cfg.Name, cfg.Clock), elected: make(chan bool, 16), leader: newLeader(),
		started: cfg.Clock.Now(), care: newCare(),
	}
	m.transport = newTransport(cfg.PeerAddress, cfg.Clock.Now, func(address string) (peerv1pb.PeerServiceClient, error) {
		conn, err := m.conns.get(address)
		if err != nil {
			return nil, err
		}
		return peerv1pb.NewPeerServiceClient(conn), nil
	})
	if err := m.open(); err != nil {
		return nil, fmt.Errorf("masters of %s: %w", cfg.Name, errors.Join(err, m.closeLogs()))
	}
	return m, nil
}

func orDefault(v, def time.Duration) time.Duration {
	if v == 0 {
		return def
	}
	return v
}

func (m *Masters) open() error {
	if err := os.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	var err error
	if m.logs, err = openLog(m.cfg.Dir); err != nil {
		return err
	}
	m.logs.broken = func(err error) {
		m.log.Error("the disk has failed a write of raft's log", zap.Error(err))
		if m.cfg.DiskFailed != nil {
			m.cfg.DiskFailed(err)
		}
		m.cfg.Abandon()
	}
	if m.transport.generation, err = readGeneration(m.cfg.Dir); err != nil {
		return err
	}
	output := &zapio.Writer{Log: m.log.Named("raft"), Level: zapcore.WarnLevel}
	snapshots, err := raft.NewFileSnapshotStore(filepath.Join(m.cfg.Dir, "raft"), 2, io.Discard)
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(m.cfg.Name)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = m.cfg.Heartbeat, m.cfg.Election, m.cfg.LeaderLease
	rc.SnapshotThreshold, rc.TrailingLogs = 256, 256 // the log is a few entries a day
	// Followers learn of a committed roster change within this; an idle group talks less.
	rc.CommitTimeout = 150 * time.Millisecond
	rc.NotifyCh = m.elected
	rc.LogLevel, rc.LogOutput = "WARN", output
	rc.NoLegacyTelemetry = true
	exists, err := raft.HasExistingState(m.logs, m.logs, snapshots)
	if err != nil {
		return fmt.Errorf("existing state: %w", err)
	}
	if !exists && m.cfg.Bootstrap {
		first := raft.Configuration{Servers: []raft.Server{{ID: rc.LocalID, Address: m.transport.LocalAddr()}}}
		if err := raft.BootstrapCluster(rc, m.logs, m.logs, snapshots, m.transport, first); err != nil {
			return fmt.Errorf("form a group of one: %w", err)
		}
	}
	if m.raft, err = raft.NewRaft(rc, m.roster, m.logs, m.logs, snapshots, m.transport); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	m.transport.raft.Store(m.raft)
	return nil
}

// Run takes part in the group until ctx ends, in which case leadership is handed over
// first, or until this master has been removed or can neither lead nor hand over.
func (m *Masters) Run(ctx context.Context) error {
	err := lifecycle.RunAll(ctx, m.exchangeReports, m.followLeader, m.reignWhenElected, m.noticeRemoval, m.noticeSuccessor, m.timeDisk, m.measureSpace, m.compactSeparate)
	m.Close()
	if err != nil {
		return fmt.Errorf("masters of %s: %w", m.cfg.Name, err)
	}
	return nil
}

// Close leaves the group without handing over; the roster keeps this master. It may be
// called twice.
func (m *Masters) Close() {
	_ = m.transport.Close()
	_ = m.raft.Shutdown().Error()
	_ = m.closeLogs()
	m.conns.close()
}

func (m *Masters) closeLogs() error {
	if m.logs == nil {
		return nil
	}
	return m.logs.Close()
}

// ErrRemoved ends the process of a master that was removed while it lived.
var ErrRemoved = errors.New("it has been removed from the masters of its cluster: run `kijabi reset` on it, or `kijabi master leave` to keep it as a node; it may join again with a new token")

// noticeRemoval ends Run when the group has removed this master: raft's membership is without
// it, and the roster has said before that it is leaving. etcd's member, which is told reliably,
// ends with the same advice.
func (m *Masters) noticeRemoval(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.cfg.Clock.After(lifecycle.UntilBeat(m.cfg.Clock.Now(), reportInterval)):
			if m.raft.State() == raft.Shutdown || m.removed() {
				return ErrRemoved
			}
		}
	}
}

func (m *Masters) removed() bool {
	self, found := m.roster.get(m.cfg.Name)
	if found && self.Role != Leaving || !found && len(m.roster.list()) == 0 {
		return false
	}
	configuration := m.raft.GetConfiguration()
	return configuration.Error() == nil && !slices.ContainsFunc(configuration.Configuration().Servers, func(s raft.Server) bool {
		return string(s.ID) == m.cfg.Name
	})
}

// Directory is the masters' knowledge of nodes.
func (m *Masters) Directory() *Directory { return m.directory }

// LeaderConn returns a connection to the leading master's peer port, and its name.
// ErrNoLeader while none is known; when this master leads, a connection to itself.
func (m *Masters) LeaderConn() (grpc.ClientConnInterface, string, error) {
	address, id := m.raft.LeaderWithID()
	if id == "" {
		return nil, "", ErrNoLeader
	}
	conn, err := m.conns.get(string(address))
	if err != nil {
		return nil, "", err
	}
	return conn, string(id), nil
}

// MemberConn returns a connection to a master's peer port.
func (m *Masters) MemberConn(name string) (grpc.ClientConnInterface, error) {
	member, found := m.roster.get(name)
	if !found {
		return nil, fmt.Errorf("%w: %s", ErrUnknownMember, name)
	}
	conn, err := m.conns.get(member.PeerAddress)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Members lists the roster by name.
func (m *Masters) Members() []Member { return m.roster.list() }

// ClusterID of the group; empty until the roster has been learned.
func (m *Masters) ClusterID() string { return m.roster.cluster() }

// HandleRaft performs one raft request of another master.
func (m *Masters) HandleRaft(ctx context.Context, req *peerv1pb.RaftRequest) (*peerv1pb.RaftResponse, error) {
	if err := m.checkGeneration(req.GetGeneration()); err != nil {
		return nil, err
	}
	return m.transport.handle(ctx, req.GetKind(), req.GetBody())
}

// HandleSnapshot installs a roster sent by another master; next returns its further pieces and io.EOF.
func (m *Masters) HandleSnapshot(ctx context.Context, first *peerv1pb.InstallSnapshotRequest, next func() ([]byte, error)) (*peerv1pb.InstallSnapshotResponse, error) {
	if err := m.checkGeneration(first.GetGeneration()); err != nil {
		return nil, err
	}
	return m.transport.install(ctx, first.GetHead(), next)
}

// etcdID is a member id as the roster writes it.
func etcdID(id uint64) string { return strconv.FormatUint(id, 16) }

func parseEtcdID(s string) uint64 {
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0
	}
	return id
}
