package rpcapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/snapshot"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// metadataHop marks a membership request that another master has passed on: it is not
// passed on again.
const metadataHop = "kijabi-masters-hop"

// MastersService serves kijabi.masters.v1.MastersService. What only the leader can do is
// passed on to it once.
type MastersService struct {
	mastersv1pb.UnsafeMastersServiceServer

	masters  *masters.Masters
	settings Settings
}

// Settings are the cluster's, told to machines that join.
type Settings struct {
	// Network ranges. Required.
	Network configv1.Network
	// EtcdQuotaBytes bounds the database of this master; 0 means the default.
	EtcdQuotaBytes int64
	// ReplaceDeadAfter is how long a voter must be dead before a spare replaces it; 0 means
	// never.
	ReplaceDeadAfter time.Duration
	// CertificateLife is how long the certificates live that this master issues.
	CertificateLife time.Duration
	// VirtualAddresses of the masters; none if nil.
	VirtualAddresses []string
	// Snapshots makes snapshots of this master, every SnapshotInterval; 0 means only by hand. Required.
	Snapshots        *snapshot.Maker
	SnapshotInterval time.Duration
}

var _ mastersv1pb.MastersServiceServer = (*MastersService)(nil)

// NewMastersService returns the service of m.
func NewMastersService(m *masters.Masters, settings Settings) *MastersService {
	return &MastersService{masters: m, settings: settings}
}

// network is the cluster's ranges on the wire.
func (s *MastersService) network() *mastersv1pb.Network {
	n := s.settings.Network
	return &mastersv1pb.Network{
		PodCidr: n.PodCIDR, ServiceCidr: n.ServiceCIDR, DnsAddress: n.DNSAddress, ClusterDomain: n.ClusterDomain,
		NodePortFirst: n.NodePortFirst, NodePortLast: n.NodePortLast,
	}
}

// WatchLeader streams who leads; the open stream is the component's sign of life.
func (s *MastersService) WatchLeader(req *mastersv1pb.WatchLeaderRequest, out grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error {
	if req.GetComponent() == "" {
		return apierrors.NewBadRequest("component is required")
	}
	detach := s.masters.Attach(req.GetComponent())
	defer detach()
	for l := range s.masters.WatchLeadership(out.Context()) {
		if err := out.Send(&mastersv1pb.WatchLeaderResponse{Leader: l.Leader, Epoch: l.Epoch, Leading: l.Leading}); err != nil {
			return err
		}
	}
	return out.Context().Err()
}

// Status describes the masters as this one sees them.
func (s *MastersService) Status(context.Context, *mastersv1pb.StatusRequest) (*mastersv1pb.StatusResponse, error) {
	status := s.masters.Status()
	resp := &mastersv1pb.StatusResponse{
		ClusterId: status.ClusterID, Leader: status.Leadership.Leader, Epoch: status.Leadership.Epoch,
		LeaderChanges: status.LeaderChanges, Uptime: durationpb.New(status.Uptime), AnsweredBy: status.AnsweredBy,
		Network: s.network(), Quorum: quorum(status.Quorum),
		Snapshots: s.snapshotStatus(), Generation: s.masters.Generation(), Warnings: status.Warnings,
		VirtualAddresses: s.settings.VirtualAddresses,
	}
	for _, c := range status.LastChanges {
		resp.LastLeaderChanges = append(resp.LastLeaderChanges, &mastersv1pb.LeaderChange{
			Time: timestamppb.New(c.At), From: c.From, To: c.To, Reason: c.Reason,
		})
	}
	for _, m := range status.Members {
		resp.Members = append(resp.Members, memberStatus(m, status.Expected))
	}
	return resp, nil
}

// Join adds a master.
func (s *MastersService) Join(ctx context.Context, req *mastersv1pb.JoinRequest) (*mastersv1pb.JoinResponse, error) {
	result, err := s.masters.Join(ctx, masters.Member{
		Name: req.GetName(), PeerAddress: req.GetPeerAddress(), EtcdPeerURL: req.GetEtcdPeerUrl(),
		GRPCAddress: req.GetGrpcAddress(), RESTAddress: req.GetRestAddress(),
	})
	if errors.Is(err, masters.ErrNotLeader) {
		return passOn(ctx, s.masters, req, mastersv1pb.MastersServiceClient.Join)
	}
	if err != nil {
		return nil, statusOf(err, req.GetName())
	}
	resp := &mastersv1pb.JoinResponse{
		ClusterId: result.ClusterID, EtcdInitialCluster: result.EtcdInitialCluster, Pki: result.SharedFiles,
		Network: s.network(), EtcdQuotaBytes: s.settings.EtcdQuotaBytes,
		ReplaceDeadAfter: durationpb.New(s.settings.ReplaceDeadAfter), CertificateLife: durationpb.New(s.settings.CertificateLife),
		Generation: result.Generation, VirtualAddresses: s.settings.VirtualAddresses,
	}
	for _, m := range result.Members {
		resp.Members = append(resp.Members, member(m))
	}
	return resp, nil
}

// Remove takes a master off the roster, or tells what that would come to.
func (s *MastersService) Remove(ctx context.Context, req *mastersv1pb.RemoveRequest) (*mastersv1pb.RemoveResponse, error) {
	removal, err := s.masters.Remove(ctx, req.GetName(), masters.RemoveOptions{
		Force: req.GetForce(), PlanOnly: req.GetPlanOnly(), By: userOf(ctx),
	})
	if errors.Is(err, masters.ErrNotLeader) {
		return passOn(ctx, s.masters, req, mastersv1pb.MastersServiceClient.Remove)
	}
	if err != nil {
		return nil, statusOf(err, req.GetName())
	}
	resp := &mastersv1pb.RemoveResponse{
		Before: quorum(removal.Before), After: quorum(removal.After),
		Alive: removal.Alive, Leader: removal.Leader, Role: role(removal.Member.Role),
	}
	if removal.Refused != nil {
		resp.Refusal = removal.Refused.Error()
	}
	return resp, nil
}

// Transfer hands leadership over.
func (s *MastersService) Transfer(ctx context.Context, req *mastersv1pb.TransferRequest) (*mastersv1pb.TransferResponse, error) {
	leader, err := s.masters.Transfer(ctx, req.GetTo(), "transfer by "+userOf(ctx))
	if errors.Is(err, masters.ErrNotLeader) {
		return passOn(ctx, s.masters, req, mastersv1pb.MastersServiceClient.Transfer)
	}
	if err != nil {
		return nil, statusOf(err, req.GetTo())
	}
	return &mastersv1pb.TransferResponse{Leader: leader}, nil
}

// userOf is the name of who asks, also when another master passes the request on.
func userOf(ctx context.Context) string {
	caller, known := rpc.CallerFrom(ctx)
	if !known {
		return "nobody known"
	}
	return caller.Name
}

// passOn repeats a request at the leader, once, in the caller's name. The caller has been
// authorized here and the leader trusts a master.
func passOn[Req, Resp any](ctx context.Context, m *masters.Masters, req Req, call func(mastersv1pb.MastersServiceClient, context.Context, Req, ...grpc.CallOption) (Resp, error)) (Resp, error) {
	var none Resp
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(metadataHop)) > 0 {
		return none, apierrors.NewServiceUnavailable(masters.ErrNotLeader.Error())
	}
	conn, _, err := m.LeaderConn()
	if err != nil {
		return none, apierrors.NewServiceUnavailable(err.Error())
	}
	if caller, known := rpc.CallerFrom(ctx); known {
		ctx = rpc.WithForwarded(ctx, caller)
	}
	return call(mastersv1pb.NewMastersServiceClient(conn), metadata.AppendToOutgoingContext(ctx, metadataHop, "1"), req)
}

// statusOf gives an error of the masters its class.
func statusOf(err error, name string) error {
	resource := schema.GroupResource{Resource: "masters"}
	switch {
	case errors.Is(err, masters.ErrUnknownMember):
		return apierrors.NewNotFound(resource, name)
	case errors.Is(err, masters.ErrConflict), errors.Is(err, masters.ErrQuorum):
		return apierrors.NewConflict(resource, name, err)
	case errors.Is(err, masters.ErrNotLeader), errors.Is(err, masters.ErrNoLeader), errors.Is(err, masters.ErrUnsettled):
		return apierrors.NewServiceUnavailable(err.Error())
	}
	return fmt.Errorf("master %s: %w", name, err)
}

func quorum(q masters.Quorum) *mastersv1pb.Quorum {
	return &mastersv1pb.Quorum{
		Voters: int32(q.Voters), Living: int32(q.Living), Needed: int32(q.Needed()), Tolerated: int32(q.Tolerated()), //nolint:gosec // a handful
	}
}

func role(r masters.Role) mastersv1pb.MemberRole {
	switch r {
	case masters.Voter:
		return mastersv1pb.MemberRole_MEMBER_ROLE_VOTER
	case masters.Learner:
		return mastersv1pb.MemberRole_MEMBER_ROLE_LEARNER
	case masters.Spare:
		return mastersv1pb.MemberRole_MEMBER_ROLE_SPARE
	case masters.Leaving:
		return mastersv1pb.MemberRole_MEMBER_ROLE_LEAVING
	}
	return mastersv1pb.MemberRole_MEMBER_ROLE_UNSPECIFIED
}

func member(m masters.Member) *mastersv1pb.Member {
	return &mastersv1pb.Member{
		Name: m.Name, PeerAddress: m.PeerAddress, GrpcAddress: m.GRPCAddress, RestAddress: m.RESTAddress,
		Role: role(m.Role), EtcdId: m.EtcdID, EtcdPeerUrl: m.EtcdPeerURL,
	}
}

func memberStatus(m masters.MemberStatus, expected []string) *mastersv1pb.Member {
	out := member(m.Member)
	out.Alive, out.Leader, out.EtcdLeader = m.Alive, m.Leader, m.EtcdLeader
	out.AppliedRevision, out.DatabaseBytes = m.AppliedRevision, m.DatabaseBytes
	out.DatabaseInUseBytes, out.DatabaseLimitBytes = m.DatabaseInUse, m.DatabaseLimit
	if m.DiskFree != nil {
		out.DiskFreeBytes = wrapperspb.Int64(*m.DiskFree)
	}
	present := map[string]bool{}
	for _, c := range m.Components {
		present[c] = true
		out.Components = append(out.Components, &mastersv1pb.ComponentStatus{Name: c, Healthy: true})
	}
	for _, c := range expected {
		if !present[c] {
			out.Components = append(out.Components, &mastersv1pb.ComponentStatus{Name: c})
		}
	}
	if m.Alive { // else the kernel of its machine has taken them back
		out.VirtualAddresses = m.VirtualAddresses
	}
	if m.DiskLatency > 0 {
		out.DiskLatency = durationpb.New(m.DiskLatency)
	}
	if !m.CertificateEnd.IsZero() {
		out.CertificateNotAfter = timestamppb.New(m.CertificateEnd)
	}
	if !m.LastSeen.IsZero() {
		out.LastSeen = timestamppb.New(m.LastSeen)
	}
	return out
}
