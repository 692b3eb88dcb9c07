package install

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
)

// admin is root's access on a master. It knows, too, the masters that the machine's programs
// have learned of: root may never have looked at the cluster.
func (l Layout) admin() (*access.Access, error) {
	admin, err := access.Load(l.AdminDir())
	if err != nil {
		return nil, err
	}
	learned, err := rpc.LearnedAddresses(filepath.Join(l.StateDir, networkAgent, "apiservers.json"))
	if err != nil {
		return nil, err
	}
	for _, address := range learned {
		if !slices.ContainsFunc(admin.Cluster.Masters, func(m access.Master) bool { return m.GRPC == address }) {
			admin.Cluster.Masters = append(admin.Cluster.Masters, access.Master{Name: address, GRPC: address})
		}
	}
	return admin, nil
}

// rosterOf asks any master who the masters are.
func rosterOf(ctx context.Context, found *access.Access) ([]*mastersv1pb.Member, error) {
	conn, _, err := found.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("status of the masters: %w", err)
	}
	return status.GetMembers(), nil
}

func onRoster(members []*mastersv1pb.Member, name string) bool {
	return slices.ContainsFunc(members, func(m *mastersv1pb.Member) bool { return m.GetName() == name })
}

// accessThrough is the same access by way of the given masters, except the one of a name.
func accessThrough(found *access.Access, members []*mastersv1pb.Member, except string) *access.Access {
	through := *found
	through.Cluster.Masters = nil
	for _, m := range members {
		if m.GetName() != except {
			through.Cluster.Masters = append(through.Cluster.Masters, access.Master{Name: m.GetName(), GRPC: m.GetGrpcAddress(), REST: m.GetRestAddress()})
		}
	}
	return &through
}

// RemoveMaster takes a master off the roster, or asks what that would come to. The others are
// asked, since the one that goes may end before it answers, and again while leadership moves,
// as it does first when the leader goes. The answer is empty if it was lost on the way.
func RemoveMaster(ctx context.Context, found *access.Access, request *mastersv1pb.RemoveRequest) (*mastersv1pb.RemoveResponse, error) {
	members, err := rosterOf(ctx, found)
	if err != nil {
		return nil, err
	}
	through := accessThrough(found, members, request.GetName())
	if len(through.Cluster.Masters) == 0 {
		through = found // the only master refuses by itself, with the reason
	}
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	for attempt := 0; ; attempt++ {
		answer, err := removeOnce(ctx, through, request)
		switch {
		case err == nil:
			return answer, nil
		case apierrors.IsNotFound(err) && attempt > 0 && !request.GetPlanOnly():
			return &mastersv1pb.RemoveResponse{}, nil
		case !apierrors.IsServiceUnavailable(err) && !apierrors.IsServerTimeout(err) && !apierrors.IsTimeout(err):
			return nil, err
		}
		select {
		case <-time.After(leaderPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func removeOnce(ctx context.Context, through *access.Access, request *mastersv1pb.RemoveRequest) (*mastersv1pb.RemoveResponse, error) {
	conn, _, err := through.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return mastersv1pb.NewMastersServiceClient(conn).Remove(ctx, request)
}
