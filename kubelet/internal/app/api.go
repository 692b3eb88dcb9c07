package app

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/kubelet/internal/podworker"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
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
