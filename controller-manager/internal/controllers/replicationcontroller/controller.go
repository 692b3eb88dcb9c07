// Package replicationcontroller keeps as many pods alive as each ReplicationController
// asks for, as ReplicaSets do.
package replicationcontroller

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/replicas"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Controllers *informer.Informer[*corev1.ReplicationController]
	Pods        *informer.Informer[*corev1.Pod]
	Clock       clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

var _ controller.Controller = (*replicas.Controller[*corev1.ReplicationController])(nil)

// New returns the controller.
func New(cfg Config) *replicas.Controller[*corev1.ReplicationController] {
	return replicas.New(replicas.Config[*corev1.ReplicationController]{
		Name: "replicationcontroller", Owners: cfg.Controllers, Pods: cfg.Pods, Clock: cfg.Clock, Event: cfg.Event,
		See: see, Report: report,
	})
}

func see(rc *corev1.ReplicationController) (replicas.Owner, error) {
	template := rc.Spec.Template
	if template == nil {
		template = &corev1.PodTemplateSpec{} // validation requires one
	}
	owner := replicas.Owner{
		Object: rc, Replicas: ptr.Deref(rc.Spec.Replicas, 1), MinReadySeconds: rc.Spec.MinReadySeconds,
		Selector: labels.Set(rc.Spec.Selector).AsSelectorPreValidated(), Template: template,
		Status: replicas.Status{
			ObservedGeneration: rc.Status.ObservedGeneration, Replicas: rc.Status.Replicas,
			FullyLabeled: rc.Status.FullyLabeledReplicas, Ready: rc.Status.ReadyReplicas, Available: rc.Status.AvailableReplicas,
		},
	}
	for _, c := range rc.Status.Conditions {
		if c.Type == corev1.ReplicationControllerReplicaFailure {
			owner.Status.Failure = &replicas.Failure{Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime}
		}
	}
	return owner, nil
}

func report(rc *corev1.ReplicationController, status replicas.Status) (*corev1.ReplicationController, bool) {
	updated := rc.DeepCopy()
	out := &updated.Status
	out.ObservedGeneration, out.Replicas, out.FullyLabeledReplicas = status.ObservedGeneration, status.Replicas, status.FullyLabeled
	out.ReadyReplicas, out.AvailableReplicas = status.Ready, status.Available
	out.Conditions = nil
	for _, c := range rc.Status.Conditions {
		if c.Type != corev1.ReplicationControllerReplicaFailure {
			out.Conditions = append(out.Conditions, c)
		}
	}
	if status.Failure != nil {
		out.Conditions = append(out.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue, Reason: status.Failure.Reason,
			Message: status.Failure.Message, LastTransitionTime: status.Failure.Since,
		})
	}
	return updated, !equality.Semantic.DeepEqual(updated.Status, rc.Status)
}
