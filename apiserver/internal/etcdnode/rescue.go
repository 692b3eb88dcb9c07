package etcdnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/protobuf/proto"
)

// RestoreConfig says what a member is made of; all fields are required.
type RestoreConfig struct {
	// Database is a file as WriteDatabase or Salvage have written it.
	Database string
	// Name of the master, Dir of the new member's data, which must be empty, and its PeerURL.
	Name, Dir, PeerURL string
	// ClusterToken must differ from those of all clusters that the database was of, so that
	// their members do not take the new one for one of theirs.
	ClusterToken string
	// Bump is how far the new member's revision lies above the database's: at least as far as the
	// cluster can have gone since, so that no revision is given twice.
	Bump uint64
	Log  *zap.Logger
}

// Restore makes the data of a member that is alone in a new cluster and holds a copy of another's
// database. Its revision is Bump above the copy's, and everything up to it is compacted: who
// watches from an older revision has to list again.
func Restore(cfg RestoreConfig) error {
	db, err := OpenDatabase(cfg.Database) // etcd panics over one that is damaged
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		return err
	}
	err = snapshot.NewV3(quiet(cfg.Log)).Restore(snapshot.RestoreConfig{
		SnapshotPath: cfg.Database, Name: cfg.Name, OutputDataDir: cfg.Dir, PeerURLs: []string{cfg.PeerURL},
		InitialCluster: cfg.Name + "=" + cfg.PeerURL, InitialClusterToken: cfg.ClusterToken,
		SkipHashCheck: true, RevisionBump: cfg.Bump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("make an etcd member of %s: %w", cfg.Database, err)
	}
	return nil
}

// Salvage writes the database of a member that has lost its cluster to file, with everything
// that its log holds. Dir stays as it is; a copy of it in scratch is worked on, and removed.
//
// What the log holds beyond what the member knew to be committed is kept: it may have been
// acknowledged. A write without an answer may thereby happen after all.
func Salvage(ctx context.Context, dir, scratch, file string, log *zap.Logger) (revision int64, err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if err := os.CopyFS(filepath.Join(scratch, "member"), os.DirFS(filepath.Join(dir, "member"))); err != nil {
		return 0, fmt.Errorf("copy the data of %s: %w", dir, err)
	}
	if err := readableByOwner(scratch); err != nil {
		return 0, err
	}
	if err := commitAll(filepath.Join(scratch, "member", "wal"), quiet(log)); err != nil {
		return 0, fmt.Errorf("log of %s: %w", dir, err)
	}
	node, err := startAlone(ctx, scratch, log)
	if err != nil {
		return 0, fmt.Errorf("replay the log of %s: %w", dir, err)
	}
	defer node.Close()
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("salvaged database: %w", err)
	}
	revision, err = node.WriteDatabase(out)
	return revision, errors.Join(err, out.Close())
}

// readableByOwner takes away what others may do; etcd insists.
func readableByOwner(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

// commitAll declares all entries of a log committed.
func commitAll(dir string, log *zap.Logger) error {
	state, last, err := appendState(dir, log)
	if errors.Is(err, io.ErrUnexpectedEOF) && wal.Repair(log, dir) { // its last write was torn
		state, last, err = appendState(dir, log)
	}
	if err != nil {
		return err
	}
	if last > state.GetCommit() {
		log.Warn("entries that were not known to be committed are kept", zap.Uint64("committed", state.GetCommit()), zap.Uint64("last", last))
	}
	return nil
}

func appendState(dir string, log *zap.Logger) (state *raftpb.HardState, last uint64, err error) {
	snapshots, err := wal.ValidSnapshotEntries(log, dir)
	if err != nil {
		return nil, 0, err
	}
	from := &walpb.Snapshot{}
	if n := len(snapshots); n > 0 {
		from = snapshots[n-1]
	}
	w, err := wal.Open(log, dir, from)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	metadata, state, entries, err := w.ReadAll()
	if err != nil {
		return nil, 0, err
	}
	last = max(state.GetCommit(), from.GetIndex())
	if n := len(entries); n > 0 {
		last = max(last, entries[n-1].GetIndex())
	}
	promotion, err := promotionOf(metadata)
	if err != nil {
		return nil, 0, err
	}
	promotion.Index, promotion.Term = new(last+1), new(state.GetTerm())
	all := &raftpb.HardState{Term: new(state.GetTerm()), Vote: new(state.GetVote()), Commit: new(last + 1)}
	return state, last, w.Save(all, []*raftpb.Entry{promotion})
}

// promotionOf makes the member vote whose log has the given metadata: one that was a learner
// could not be alone. It does nothing to one that votes.
func promotionOf(metadata []byte) (*raftpb.Entry, error) {
	var self etcdserverpb.Metadata
	if err := proto.Unmarshal(metadata, &self); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	who, err := json.Marshal(membership.ConfigChangeContext{Member: membership.Member{ID: types.ID(self.GetNodeID())}, IsPromote: true})
	if err != nil {
		return nil, err
	}
	change, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(self.GetNodeID()), Context: who})
	return &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Data: change}, err
}

// startAlone starts the member whose data dir holds without its cluster. It listens on the
// loopback interface, for nobody.
func startAlone(ctx context.Context, dir string, log *zap.Logger) (*Node, error) {
	nobody := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	ec := embed.NewConfig()
	ec.Name, ec.Dir, ec.ForceNewCluster = "salvage", dir, true
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{nobody}, []url.URL{nobody}
	ec.ListenClientUrls, ec.AdvertiseClientUrls, ec.ListenClientHttpUrls = nil, nil, nil
	ec.InitialCluster = ec.Name + "=" + nobody.String()
	ec.MaxTxnOps, ec.MaxRequestBytes, ec.MaxLearners = maxTxnOps, maxRequestBytes, maxLearners
	ec.QuotaBackendBytes = math.MaxInt64
	ec.TickMs, ec.ElectionMs = uint(defaultTick.Milliseconds()), uint(defaultElection.Milliseconds())
	ec.EnableGRPCGateway = false
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet(log))
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return nil, err
	}
	node := &Node{cfg: Config{Name: ec.Name, Log: log}, etcd: e}
	select {
	case <-e.Server.ReadyNotify():
		return node, nil
	case err = <-e.Err():
	case <-e.Server.StopNotify():
		err = errors.New("the member stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	node.Close()
	return nil, err
}

func quiet(log *zap.Logger) *zap.Logger {
	return log.Named("etcd").WithOptions(zap.IncreaseLevel(zapcore.WarnLevel))
}
