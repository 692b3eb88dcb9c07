package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/kubelet/internal/status"
	"kijabi.dev/platform/logging"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// Restart implements KubeletService.
func (s *Service) Restart(ctx context.Context, request *kubeletv1pb.RestartRequest) (*kubeletv1pb.RestartResponse, error) {
	target := request.GetTarget()
	pod := s.cfg.Pod(target.GetNamespace(), target.GetPod())
	if pod == nil || target.GetUid() != "" && target.GetUid() != string(pod.UID) {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), target.GetPod())
	}
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s is ending or has ended: its containers are not started again", pod.Name))
	}
	names, err := restartable(pod, request.GetContainers())
	if err != nil {
		return nil, err
	}
	response, instances := &kubeletv1pb.RestartResponse{}, map[string]string{}
	for _, name := range names {
		all, err := s.instances(ctx, pod, name)
		if err != nil {
			return nil, err
		}
		if len(all) == 0 {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("container %s of pod %s has not started yet", name, pod.Name))
		}
		instances[name] = all[0].ID
		response.Containers = append(response.Containers, &kubeletv1pb.RestartedContainer{Name: name, ContainerId: status.ContainerID(all[0].ID)})
	}
	s.cfg.Log.Info("containers are restarted", logging.Pod(pod.Namespace, pod.Name), zap.Strings("containers", names),
		zap.String("user", request.GetCaller().GetUser()), zap.String("request", request.GetCaller().GetRequestId()))
	if !s.cfg.Restart(pod, instances, request.GetCaller().GetUser()) {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), target.GetPod())
	}
	return response, nil
}

// restartable returns the containers that are meant, sorted, all if none is named.
func restartable(pod *corev1.Pod, named []string) ([]string, error) {
	policies := map[string]corev1.RestartPolicy{}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; status.IsSidecar(c) {
			policies[c.Name] = corev1.RestartPolicyAlways
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		policies[c.Name] = pod.Spec.RestartPolicy
		if c.RestartPolicy != nil {
			policies[c.Name] = corev1.RestartPolicy(*c.RestartPolicy)
		}
	}
	var names, unknown []string
	for name := range policies {
		if len(named) == 0 || slices.Contains(named, name) {
			names = append(names, name)
		}
	}
	for _, name := range named {
		if _, ok := policies[name]; !ok {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not among the containers and sidecars of pod %s: %s", pod.Name, strings.Join(unknown, ", ")))
	}
	slices.Sort(names)
	for _, name := range names {
		// The rest of the pod would wait for a container that is gone for good.
		if policies[name] != corev1.RestartPolicyAlways {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("container %s of pod %s has restartPolicy %s: it would not be started again", name, pod.Name, policies[name]))
		}
	}
	return names, nil
}
