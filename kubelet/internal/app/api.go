package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/kubelet/internal/podworker"
	"kijabi.dev/kubelet/internal/volumes"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// podAPI writes pods for their workers.
type podAPI struct{ client *client.Client }

var _ podworker.API = (*podAPI)(nil)

// UpdateStatus implements podworker.API.
func (a *podAPI) UpdateStatus(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	stored, err := a.client.UpdateStatus(ctx, pod)
	if err != nil {
		return nil, err
	}
	return stored.(*corev1.Pod), nil
}

// Get implements podworker.API.
func (a *podAPI) Get(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return client.Get[*corev1.Pod](ctx, a.client, object.Key{Namespace: namespace, Name: name})
}

// ConfirmDeleted implements podworker.API.
func (a *podAPI) ConfirmDeleted(ctx context.Context, pod *corev1.Pod) error {
	now := int64(0)
	err := a.client.Delete(ctx, pod, client.DeleteOptions{GracePeriodSeconds: &now, UID: pod.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // a conflict is another pod of the name
		return nil
	}
	return err
}

// volumeMasters answers about volumes from whichever master answers.
type volumeMasters struct {
	client  *client.Client
	masters mastersv1pb.MastersServiceClient
}

var _ volumes.Masters = (*volumeMasters)(nil)

// mastersTimeout bounds one question.
const mastersTimeout = 10 * time.Second

// Origin implements volumes.Masters.
func (m *volumeMasters) Origin(ctx context.Context) (volumes.Origin, error) {
	ctx, cancel := context.WithTimeout(ctx, mastersTimeout)
	defer cancel()
	status, err := m.masters.Status(ctx, &mastersv1pb.StatusRequest{})
	if err != nil {
		return volumes.Origin{}, fmt.Errorf("status of the masters: %w", err)
	}
	if status.GetClusterId() == "" {
		return volumes.Origin{}, errors.New("status of the masters names no cluster")
	}
	return volumes.Origin{Cluster: status.GetClusterId(), Generation: status.GetGeneration()}, nil
}

// Exists implements volumes.Masters.
func (m *volumeMasters) Exists(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, mastersTimeout)
	defer cancel()
	_, err := client.Get[*corev1.PersistentVolume](ctx, m.client, object.Key{Name: name})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read PersistentVolume %s: %w", name, err)
	}
	return true, nil
}
