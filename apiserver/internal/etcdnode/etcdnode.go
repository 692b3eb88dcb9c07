// Package etcdnode runs the embedded etcd member: the one importer of etcd's server.
//
// The member listens for other members only, under the peer CA. Clients do not exist:
// the apiserver in the same process reaches it through Backend.
package etcdnode

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/storage/etcd"
)

const (
	maxTxnOps       = etcd.MaxTxnOps
	maxRequestBytes = etcd.MaxRequestBytes
	// maxLearners is raised from etcd's 1: several masters may join or wait as spares.
	maxLearners = 8

	// defaultTick is also the heartbeat, and the grain of etcd's random election timeouts: with
	// fewer of them in an election, two followers collide more often and lose a round.
	defaultTick     = 30 * time.Millisecond
	defaultElection = 300 * time.Millisecond
	// catchUpEntries of the log stay in memory for members that lag; whoever lags more gets the
	// whole database. An entry is a batch, 30 KB at full rate: etcd's 5,000 would take 150 MB.
	catchUpEntries   = 2_000
	defaultRetention = 24 * time.Hour
)

// Config configures a member. Fields are required unless said otherwise.
type Config struct {
	// Name of this master.
	Name string
	// Dir holds the member's data. An existing member there is restarted and
	// InitialCluster ignored.
	Dir string
	// PeerURL is what other members dial.
	PeerURL string
	// ListenPeerURL is where the member listens; empty means PeerURL.
	ListenPeerURL string
	// ClusterToken tells clusters apart: the cluster id.
	ClusterToken string
	// InitialCluster is "name=url,…" with this member in it, when it joins an existing
	// cluster that has added it; empty to form a new cluster of one.
	InitialCluster string
	// CertFile, KeyFile and CAFile are the peer identity, read again at each handshake.
	// All three empty means no TLS (tests only; PeerURL is then http).
	CertFile, KeyFile, CAFile string
	// QuotaBytes bounds what the database has in use; 0 means a quarter of its disk, from 256 MiB
	// to 8 GiB. The leading master keeps it; etcd's own quota lies far above.
	QuotaBytes int64
	// Retention is how long revisions are kept; 0 means 24 h.
	Retention time.Duration
	// Tick and Election are raft's times; 0 means 30 and 300 ms.
	Tick, Election time.Duration
	// Log; etcd's own messages below warning are left out.
	Log *zap.Logger
}

// Node is a running member. Its methods are safe for concurrent use.
type Node struct {
	cfg     Config
	etcd    *embed.Etcd
	backend *etcd.Backend
	close   sync.Once
}

// Exists says whether dir holds a member's data.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "member", "wal"))
	return err == nil
}

// Start starts the member and returns once it serves; that needs a quorum. Its peers
// must be reachable, else Start waits until ctx ends. Run must be called afterwards, or Close.
// The error is a *Damaged if its data cannot be used, an ErrRemoved if the cluster goes on without it.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	trust, err := examine(ctx, cfg.Dir, cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("etcd member %s: %w", cfg.Name, err)
	}
	e, err := startEtcd(ctx, cfg, trust)
	if err != nil && differs(err) {
		err = errors.Join(&Damaged{Reason: err.Error(), Usable: true, Differs: true}, proven(cfg.Dir))
	}
	if err != nil {
		return nil, fmt.Errorf("start etcd member %s: %w", cfg.Name, err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		e.Close()
		return nil, fmt.Errorf("etcd member %s: %w", cfg.Name, err)
	case <-e.Server.StopNotify():
		e.Close()
		return nil, removed(cfg.Name)
	case <-ctx.Done():
		e.Close()
		return nil, fmt.Errorf("etcd member %s did not become ready: %w", cfg.Name, ctx.Err())
	}
	return &Node{cfg: cfg, etcd: e, backend: etcd.New(v3client.New(e.Server))}, nil
}

// removed is why a server stops by itself.
func removed(name string) error {
	return fmt.Errorf("%s %w, by hand or replaced by a spare while it was away: run `kijabi reset` on it, or `kijabi master leave` to keep it as a node; it may join again with a new token", name, ErrRemoved)
}

// Run keeps the member until ctx ends or it fails; then it is closed.
func (n *Node) Run(ctx context.Context) error {
	defer n.Close()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var neighbours []string
	served := time.After(provenAfter)
	for {
		select {
		case <-ctx.Done():
			return proven(n.cfg.Dir)
		case <-served:
			if err := proven(n.cfg.Dir); err != nil {
				return fmt.Errorf("etcd member %s: %w", n.cfg.Name, err)
			}
		case err := <-n.etcd.Err():
			return fmt.Errorf("etcd member %s: %w", n.cfg.Name, err)
		case <-n.etcd.Server.StopNotify():
			return removed(n.cfg.Name)
		case <-ticker.C:
			if err := keepReserve(n.cfg.Dir, n.cfg.Log); err != nil {
				n.cfg.Log.Warn("no reserve is kept for when the disk is full", zap.Error(err))
			}
			var err error
			if neighbours, err = n.rememberNeighbours(neighbours); err != nil && !errors.Is(err, syscall.ENOSPC) {
				return fmt.Errorf("etcd member %s: remember its neighbours: %w", n.cfg.Name, err)
			}
		}
	}
}

// Close ends the member. It may be called twice.
func (n *Node) Close() { n.close.Do(n.etcd.Close) }

// Abort ends the member at once, telling nobody, as when its machine loses power. Close
// must still be called.
func (n *Node) Abort() { n.etcd.Server.HardStop() }

// Backend is the in-process way to the data.
func (n *Node) Backend() *etcd.Backend { return n.backend }

func embedConfig(ctx context.Context, cfg Config, trust bool) (*embed.Config, error) {
	advertise, err := url.Parse(cfg.PeerURL)
	if err != nil {
		return nil, fmt.Errorf("peer URL: %w", err)
	}
	listen := advertise
	if cfg.ListenPeerURL != "" {
		if listen, err = url.Parse(cfg.ListenPeerURL); err != nil {
			return nil, fmt.Errorf("listen URL: %w", err)
		}
	}
	if cfg.Log == nil {
		return nil, errors.New("no log")
	}
	// etcd refuses a directory that others can read.
	if err := errors.Join(os.MkdirAll(cfg.Dir, 0o700), os.Chmod(cfg.Dir, 0o700)); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	ec := embed.NewConfig()
	ec.Name, ec.Dir = cfg.Name, cfg.Dir
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{*listen}, []url.URL{*advertise}
	ec.ListenClientUrls, ec.AdvertiseClientUrls, ec.ListenClientHttpUrls = nil, nil, nil
	ec.InitialClusterToken = cfg.ClusterToken
	ec.InitialCluster, ec.ClusterState = cfg.InitialCluster, embed.ClusterStateFlagExisting
	if cfg.InitialCluster == "" {
		ec.InitialCluster, ec.ClusterState = cfg.Name+"="+cfg.PeerURL, embed.ClusterStateFlagNew
	}
	if ec.PeerTLSInfo = tlsOf(cfg); cfg.CertFile != "" {
		ec.TlsMinVersion = "TLS1.3"
	}
	ec.MaxTxnOps, ec.MaxRequestBytes, ec.MaxLearners = maxTxnOps, maxRequestBytes, maxLearners
	ec.QuotaBackendBytes = ceiling(limitOf(cfg))
	ec.SnapshotCatchUpEntries = catchUpEntries
	ec.UnsafeNoFsync = withoutFsync
	ec.AutoCompactionMode = embed.CompactorModePeriodic
	ec.AutoCompactionRetention = orDefault(cfg.Retention, defaultRetention).String()
	ec.TickMs = uint(orDefault(cfg.Tick, defaultTick).Milliseconds())
	ec.ElectionMs = uint(orDefault(cfg.Election, defaultElection).Milliseconds())
	// The masters package guards membership by itself; etcd's check would make every
	// change wait until all connections are five seconds old.
	ec.StrictReconfigCheck = false
	ec.EnableGRPCGateway = false
	gate, ok := ec.ServerFeatureGate.(featuregate.MutableFeatureGate)
	if !ok {
		return nil, errors.New("etcd's feature gate cannot be set")
	}
	if err := gate.SetFromMap(map[string]bool{
		string(features.InitialCorruptCheck): !trust && neighboursServe(ctx, cfg, ec.PeerTLSInfo),
		string(features.CompactHashCheck):    true,
	}); err != nil {
		return nil, fmt.Errorf("corruption checks: %w", err)
	}
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet(cfg.Log).WithOptions(zap.WithFatalHook(diskFailed{cfg.Dir})))
	return ec, nil
}

// tlsOf is what members trust and show each other.
func tlsOf(cfg Config) transport.TLSInfo {
	if cfg.CertFile == "" {
		return transport.TLSInfo{}
	}
	return transport.TLSInfo{
		CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, TrustedCAFile: cfg.CAFile,
		ClientCertAuth: true, MinVersion: tls.VersionTLS13,
		// The peer CA signs masters only; their addresses may change.
		SkipClientSANVerify: true,
	}
}

func orDefault[T int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
