package rpcapi

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/snapshot"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// PeerService serves kijabi.peer.v1.PeerService on the masters' own port.
type PeerService struct {
	peerv1pb.UnsafePeerServiceServer

	masters   *masters.Masters
	snapshots *snapshot.Maker
}

var _ peerv1pb.PeerServiceServer = (*PeerService)(nil)

// NewPeerService returns the service of m, and of the maker of this master's snapshots.
func NewPeerService(m *masters.Masters, snapshots *snapshot.Maker) *PeerService {
	return &PeerService{masters: m, snapshots: snapshots}
}

// Raft performs one raft request.
func (s *PeerService) Raft(ctx context.Context, req *peerv1pb.RaftRequest) (*peerv1pb.RaftResponse, error) {
	resp, err := s.masters.HandleRaft(ctx, req)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	return resp, nil
}

// InstallSnapshot receives a roster.
func (s *PeerService) InstallSnapshot(stream grpc.ClientStreamingServer[peerv1pb.InstallSnapshotRequest, peerv1pb.InstallSnapshotResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	resp, err := s.masters.HandleSnapshot(stream.Context(), first, func() ([]byte, error) {
		req, err := stream.Recv()
		return req.GetData(), err
	})
	if err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	return stream.SendAndClose(resp)
}

// Report exchanges what two masters know.
func (s *PeerService) Report(_ context.Context, req *peerv1pb.ReportRequest) (*peerv1pb.ReportResponse, error) {
	report, err := s.masters.Report(req)
	if errors.Is(err, masters.ErrUnknownMember) {
		return nil, apierrors.NewServiceUnavailable(err.Error()) // it may be about to join
	}
	if err != nil {
		return nil, err
	}
	return &peerv1pb.ReportResponse{Report: report}, nil
}

// Defragment rewrites this master's database.
func (s *PeerService) Defragment(_ context.Context, req *peerv1pb.DefragmentRequest) (*peerv1pb.DefragmentResponse, error) {
	before, after, err := s.masters.Defragment(req.GetEpoch())
	if err != nil {
		return nil, statusOf(err, "")
	}
	return &peerv1pb.DefragmentResponse{BytesBefore: before, BytesAfter: after}, nil
}

// GiveUp permits a master to rebuild its data.
func (s *PeerService) GiveUp(ctx context.Context, req *peerv1pb.GiveUpRequest) (*peerv1pb.GiveUpResponse, error) {
	if req.GetName() == "" || req.GetDamage() == "" {
		return nil, apierrors.NewBadRequest("name and damage are required")
	}
	if err := s.masters.PermitRebuild(ctx, req.GetName(), req.GetDamage(), req.GetDiffers()); err != nil {
		return nil, statusOf(err, req.GetName())
	}
	return &peerv1pb.GiveUpResponse{Generation: s.masters.Generation()}, nil
}

// MakeSnapshot makes the snapshot of a slot of time.
func (s *PeerService) MakeSnapshot(ctx context.Context, req *peerv1pb.MakeSnapshotRequest) (*peerv1pb.MakeSnapshotResponse, error) {
	if req.GetSlot() == nil {
		return nil, apierrors.NewBadRequest("slot is required")
	}
	entry, err := s.snapshots.MakeFor(ctx, req.GetSlot().AsTime())
	if err != nil {
		return nil, err
	}
	return &peerv1pb.MakeSnapshotResponse{Snapshot: snapshotOf(entry)}, nil
}
