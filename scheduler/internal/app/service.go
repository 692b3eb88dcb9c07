package app

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/object"
	schedulerv1pb "kijabi.dev/proto/gen/kijabi/scheduler/v1"
	"kijabi.dev/scheduler/internal/placement"
)

// service serves kijabi.scheduler.v1.SchedulerService.
type service struct {
	schedulerv1pb.UnsafeSchedulerServiceServer

	scheduler *scheduler
}

// Explain returns the last decision on a pod.
func (s *service) Explain(_ context.Context, req *schedulerv1pb.ExplainRequest) (*schedulerv1pb.ExplainResponse, error) {
	key := object.Key{Namespace: req.GetNamespace(), Name: req.GetName()}
	s.scheduler.mu.Lock()
	defer s.scheduler.mu.Unlock()
	d, ok := s.scheduler.decisions[s.scheduler.names[key]]
	if !ok {
		return nil, apierrors.NewNotFound(object.KindOf[*corev1.Pod]().GroupResource(), key.Name)
	}
	return &schedulerv1pb.ExplainResponse{
		Node: d.Node, Verdicts: verdicts(d.Verdicts), Summary: d.Summary(),
		Decided: timestamppb.New(d.at), Attempts: int32(d.attempts),
	}, nil
}

// Simulate tells where a pod would go now.
func (s *service) Simulate(_ context.Context, req *schedulerv1pb.SimulateRequest) (*schedulerv1pb.SimulateResponse, error) {
	if req.GetPod() == nil {
		return nil, apierrors.NewBadRequest("pod is required")
	}
	obj, err := object.Unpack(req.GetPod())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewBadRequest("pod is not a k8s.io.api.core.v1.Pod")
	}
	s.scheduler.mu.Lock()
	defer s.scheduler.mu.Unlock()
	d := s.scheduler.cluster.Decide(pod)
	return &schedulerv1pb.SimulateResponse{Node: d.Node, Verdicts: verdicts(d.Verdicts)}, nil
}

func verdicts(in []placement.Verdict) []*schedulerv1pb.NodeVerdict {
	out := make([]*schedulerv1pb.NodeVerdict, 0, len(in))
	for _, v := range in {
		out = append(out, &schedulerv1pb.NodeVerdict{Node: v.Node, Fits: len(v.Reasons) == 0, Reasons: v.Reasons, Score: v.Score})
	}
	return out
}
