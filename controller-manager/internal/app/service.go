package app

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"kijabi.dev/platform/election"
	"kijabi.dev/platform/kube/controller"
	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"
)

// service serves kijabi.controllermanager.v1.ControllerManagerService.
type service struct {
	controllermanagerv1pb.UnsafeControllerManagerServiceServer

	loops   *controller.Runtime
	elector *election.Elector
}

// ListLoops describes every loop and its queue.
func (s *service) ListLoops(context.Context, *controllermanagerv1pb.ListLoopsRequest) (*controllermanagerv1pb.ListLoopsResponse, error) {
	state, _ := s.elector.State()
	res := &controllermanagerv1pb.ListLoopsResponse{Running: state.Leading, Epoch: state.Epoch}
	for _, loop := range s.loops.Loops() {
		res.Loops = append(res.Loops, &controllermanagerv1pb.Loop{
			Name: loop.Name, Depth: int64(loop.Depth), Active: int64(loop.Active),
			Reconciles: loop.Reconciles, Failures: loop.Failures, LastError: loop.LastError,
			Oldest: durationpb.New(loop.Oldest),
		})
	}
	return res, nil
}
