package app

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kijabi.dev/platform/election"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/object"
	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"

	"kijabi.dev/controller-manager/internal/metrics"
)

// service serves kijabi.controllermanager.v1.ControllerManagerService.
type service struct {
	controllermanagerv1pb.UnsafeControllerManagerServiceServer

	loops   *controller.Runtime
	elector *election.Elector
	metrics *metrics.Metrics
}

// ListLoops describes every loop and its queue.
func (s *service) ListLoops(context.Context, *controllermanagerv1pb.ListLoopsRequest) (*controllermanagerv1pb.ListLoopsResponse, error) {
	state, _ := s.elector.State()
	res := &controllermanagerv1pb.ListLoopsResponse{Running: state.Leading, Epoch: state.Epoch}
	for _, loop := range s.loops.Loops() {
		res.Loops = append(res.Loops, described(&loop))
	}
	return res, nil
}

// PauseLoop makes a loop work on nothing.
func (s *service) PauseLoop(ctx context.Context, req *controllermanagerv1pb.PauseLoopRequest) (*controllermanagerv1pb.PauseLoopResponse, error) {
	loop, err := s.loops.Pause(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &controllermanagerv1pb.PauseLoopResponse{Loop: described(&loop)}, nil
}

// ResumeLoop ends a loop's pause.
func (s *service) ResumeLoop(_ context.Context, req *controllermanagerv1pb.ResumeLoopRequest) (*controllermanagerv1pb.ResumeLoopResponse, error) {
	loop, err := s.loops.Resume(req.GetName())
	if err != nil {
		return nil, err
	}
	return &controllermanagerv1pb.ResumeLoopResponse{Loop: described(&loop)}, nil
}

// Metrics is the page for Prometheus.
func (s *service) Metrics(context.Context, *controllermanagerv1pb.MetricsRequest) (*controllermanagerv1pb.MetricsResponse, error) {
	contentType, text, err := s.metrics.Page()
	if err != nil {
		return nil, err
	}
	return &controllermanagerv1pb.MetricsResponse{ContentType: contentType, Text: text}, nil
}

// described is a loop as a message.
func described(s *controller.LoopStatus) *controllermanagerv1pb.Loop {
	loop := &controllermanagerv1pb.Loop{
		Name: s.Name, Depth: int64(s.Depth), Delayed: int64(s.Delayed), Active: int64(s.Active),
		Oldest: durationpb.New(s.Oldest), OldestKey: key(s.OldestKey), Longest: durationpb.New(s.Longest), LongestKey: key(s.LongestKey),
		Reconciles: s.Reconciles, Failures: s.Failures, Retries: s.Retries, Rate: s.Rate,
		Paused: !s.Paused.IsZero(), PausedSince: moment(s.Paused),
	}
	if s.Failed.Error != "" {
		loop.LastFailure = &controllermanagerv1pb.Failure{Key: key(s.Failed.Key), Error: s.Failed.Error, Time: moment(s.Failed.Time)}
	}
	return loop
}

// key is nil for none.
func key(k object.Key) *controllermanagerv1pb.Key {
	if k == (object.Key{}) {
		return nil
	}
	return &controllermanagerv1pb.Key{Namespace: k.Namespace, Name: k.Name}
}

// moment is nil for none.
func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
