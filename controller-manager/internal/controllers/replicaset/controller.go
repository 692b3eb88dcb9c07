// Package replicaset keeps as many pods alive as each ReplicaSet asks for.
package replicaset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/replicas"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	ReplicaSets *informer.Informer[*appsv1.ReplicaSet]
	Pods        *informer.Informer[*corev1.Pod]
	Clock       clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

var _ controller.Controller = (*replicas.Controller[*appsv1.ReplicaSet])(nil)

// New returns the controller.
func New(cfg Config) *replicas.Controller[*appsv1.ReplicaSet] {
	return replicas.New(replicas.Config[*appsv1.ReplicaSet]{
		Name: "replicaset", Owners: cfg.ReplicaSets, Pods: cfg.Pods, Clock: cfg.Clock, Event: cfg.Event,
		See: see, Report: report,
	})
}

func see(set *appsv1.ReplicaSet) (replicas.Owner, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	owner := replicas.Owner{
		Object: set, Replicas: ptr.Deref(set.Spec.Replicas, 1), MinReadySeconds: set.Spec.MinReadySeconds,
		Selector: selector, Template: &set.Spec.Template,
		Status: replicas.Status{
			ObservedGeneration: set.Status.ObservedGeneration, Replicas: set.Status.Replicas,
			FullyLabeled: set.Status.FullyLabeledReplicas, Ready: set.Status.ReadyReplicas,
			Available: set.Status.AvailableReplicas, Terminating: set.Status.TerminatingReplicas,
		},
	}
	for _, c := range set.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure {
			owner.Status.Failure = &replicas.Failure{Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime}
		}
	}
	return owner, err
}

func report(set *appsv1.ReplicaSet, status replicas.Status) (*appsv1.ReplicaSet, bool) {
	updated := set.DeepCopy()
	out := &updated.Status
	out.ObservedGeneration, out.Replicas, out.FullyLabeledReplicas = status.ObservedGeneration, status.Replicas, status.FullyLabeled
	out.ReadyReplicas, out.AvailableReplicas, out.TerminatingReplicas = status.Ready, status.Available, status.Terminating
	out.Conditions = nil
	for _, c := range set.Status.Conditions {
		if c.Type != appsv1.ReplicaSetReplicaFailure {
			out.Conditions = append(out.Conditions, c)
		}
	}
	if status.Failure != nil {
		out.Conditions = append(out.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: status.Failure.Reason,
			Message: status.Failure.Message, LastTransitionTime: status.Failure.Since,
		})
	}
	return updated, !equality.Semantic.DeepEqual(updated.Status, set.Status)
}
