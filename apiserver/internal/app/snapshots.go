package app

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/snapshot"
	"kijabi.dev/apiserver/internal/storage/sealed"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

const (
	snapshotInterval    = time.Hour
	minSnapshotInterval = time.Minute
	keepHourly          = 24
	keepDaily           = 7
)

// intervalOf is the time between two scheduled snapshots, 0 if none are scheduled.
func intervalOf(cfg configv1.Snapshots) (time.Duration, error) {
	interval := cmp.Or(cfg.Interval.Duration, snapshotInterval)
	if interval < minSnapshotInterval {
		return 0, fmt.Errorf("snapshots.interval is %s, want at least %s", interval, minSnapshotInterval)
	}
	if cfg.Disabled {
		return 0, nil
	}
	return interval, nil
}

// openArchive returns where this master's snapshots are kept.
func openArchive(cfg *configv1.APIServerConfiguration) (snapshot.Archive, error) {
	if cfg.Snapshots.S3 != nil {
		return snapshot.NewBucket(*cfg.Snapshots.S3, cfg.ClusterID)
	}
	return snapshot.Directory(cmp.Or(cfg.Snapshots.Directory, filepath.Join(filepath.Dir(cfg.DataDir), "snapshots"))), nil
}

// newMaker returns the maker of this master's snapshots.
func newMaker(cfg *configv1.APIServerConfiguration, data datastore, group *masters.Masters, keys *sealed.Keys, log *zap.Logger) (*snapshot.Maker, error) {
	archive, err := openArchive(cfg)
	if err != nil {
		return nil, err
	}
	return snapshot.NewMaker(snapshot.MakerConfig{
		Master: cfg.NodeName, Archive: archive, Keys: keys, Describe: describe(cfg.ClusterID, group), Revision: data.Revision, Copy: data.WriteDatabase,
		Scratch:    filepath.Join(cfg.DataDir, "scratch"),
		KeepHourly: cmp.Or(cfg.Snapshots.KeepHourly, keepHourly), KeepDaily: cmp.Or(cfg.Snapshots.KeepDaily, keepDaily),
		Clock: clock.RealClock{}, Log: log,
	}), nil
}

// describe says what a snapshot made now is of.
func describe(clusterID string, group *masters.Masters) func() snapshot.Header {
	return func() snapshot.Header {
		h := snapshot.Header{ClusterID: clusterID, Generation: group.Generation(), Epoch: group.Leadership().Epoch, Version: lifecycle.Version()}
		for _, m := range group.Members() {
			h.Members = append(h.Members, snapshot.Member{Name: m.Name, PeerAddress: m.PeerAddress, Role: string(m.Role)})
		}
		return h
	}
}

// scheduleSnapshots has a snapshot made in each interval, by one master of the group.
func scheduleSnapshots(interval time.Duration, group *masters.Masters, maker *snapshot.Maker, log *zap.Logger) lifecycle.Task {
	if interval == 0 {
		return func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}
	}
	return masters.NewSnapshots(masters.SnapshotsConfig{
		Masters: group, Interval: interval, Clock: clock.RealClock{}, Log: log,
		Make: func(ctx context.Context, slot time.Time) (masters.Snapshot, error) {
			e, err := maker.MakeFor(ctx, slot)
			return masters.Snapshot{Name: e.Name, Master: e.Master, Time: e.Time, Revision: e.Revision, Bytes: e.Bytes}, err
		},
		Ask: func(ctx context.Context, master string, slot time.Time) (masters.Snapshot, error) {
			conn, err := group.MemberConn(master)
			if err != nil {
				return masters.Snapshot{}, err
			}
			answer, err := peerv1pb.NewPeerServiceClient(conn).MakeSnapshot(ctx, &peerv1pb.MakeSnapshotRequest{Slot: timestamppb.New(slot)})
			made := answer.GetSnapshot()
			return masters.Snapshot{
				Name: made.GetName(), Master: made.GetMaster(), Time: made.GetTime().AsTime(), Revision: made.GetRevision(), Bytes: made.GetBytes(),
			}, err
		},
	}).Run
}
