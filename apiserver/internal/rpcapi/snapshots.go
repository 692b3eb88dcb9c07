package rpcapi

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kijabi.dev/apiserver/internal/snapshot"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// snapshotPiece is how much of a snapshot goes into one message.
const snapshotPiece = 256 << 10

// listTimeout bounds the answer of another master's archive.
const listTimeout = 10 * time.Second

func snapshotOf(e snapshot.Entry) *mastersv1pb.Snapshot {
	return &mastersv1pb.Snapshot{Name: e.Name, Master: e.Master, Time: timestamppb.New(e.Time), Revision: e.Revision, Bytes: e.Bytes}
}

func (s *MastersService) snapshotStatus() *mastersv1pb.SnapshotStatus {
	state := s.masters.SnapshotState()
	status := &mastersv1pb.SnapshotStatus{Interval: durationpb.New(s.settings.SnapshotInterval), Error: state.Error}
	if last := state.Last; last != nil {
		status.Last = &mastersv1pb.Snapshot{
			Name: last.Name, Master: last.Master, Time: timestamppb.New(last.Time), Revision: last.Revision, Bytes: last.Bytes,
		}
	}
	return status
}

// SaveSnapshot makes a snapshot of this master's data.
func (s *MastersService) SaveSnapshot(req *mastersv1pb.SaveSnapshotRequest, out grpc.ServerStreamingServer[mastersv1pb.SaveSnapshotResponse]) error {
	begin := func(e snapshot.Entry) error {
		return out.Send(&mastersv1pb.SaveSnapshotResponse{Snapshot: snapshotOf(e)})
	}
	if req.GetContent() {
		return s.settings.Snapshots.Send(pieces{out}, begin)
	}
	entry, err := s.settings.Snapshots.Make(out.Context())
	if err != nil {
		return err
	}
	return begin(entry)
}

// pieces sends what is written.
type pieces struct {
	out grpc.ServerStreamingServer[mastersv1pb.SaveSnapshotResponse]
}

// Write implements io.Writer.
func (p pieces) Write(b []byte) (int, error) {
	for piece := range slices.Chunk(b, snapshotPiece) {
		if err := p.out.Send(&mastersv1pb.SaveSnapshotResponse{Data: piece}); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// ListSnapshots lists this master's archive and, unless told otherwise, those of the others.
func (s *MastersService) ListSnapshots(ctx context.Context, req *mastersv1pb.ListSnapshotsRequest) (*mastersv1pb.ListSnapshotsResponse, error) {
	entries, err := s.settings.Snapshots.List(ctx)
	if err != nil && req.GetLocal() {
		return nil, err
	}
	resp := &mastersv1pb.ListSnapshotsResponse{}
	status := s.masters.Status()
	if err != nil {
		resp.Missing = append(resp.Missing, fmt.Sprintf("%s: %v", status.AnsweredBy, err))
	}
	for _, e := range entries {
		resp.Snapshots = append(resp.Snapshots, snapshotOf(e))
	}
	if req.GetLocal() {
		return resp, nil
	}
	for _, m := range status.Members {
		if m.Name == status.AnsweredBy {
			continue
		}
		theirs, err := s.listOf(ctx, m.Name)
		if err != nil {
			resp.Missing = append(resp.Missing, fmt.Sprintf("%s: %v", m.Name, err))
		}
		resp.Snapshots = append(resp.Snapshots, theirs...)
	}
	slices.SortFunc(resp.GetSnapshots(), func(a, b *mastersv1pb.Snapshot) int {
		return cmp.Or(b.GetTime().AsTime().Compare(a.GetTime().AsTime()), strings.Compare(a.GetName(), b.GetName()))
	})
	// A bucket is every master's archive.
	resp.Snapshots = slices.CompactFunc(resp.GetSnapshots(), func(a, b *mastersv1pb.Snapshot) bool { return a.GetName() == b.GetName() })
	return resp, nil
}

func (s *MastersService) listOf(ctx context.Context, master string) ([]*mastersv1pb.Snapshot, error) {
	conn, err := s.masters.MemberConn(master)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	answer, err := mastersv1pb.NewMastersServiceClient(conn).ListSnapshots(ctx, &mastersv1pb.ListSnapshotsRequest{Local: true})
	return answer.GetSnapshots(), err
}
