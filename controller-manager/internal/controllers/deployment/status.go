package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of conditions, as Kubernetes words them.
const (
	reasonMinimumAvailable   = "MinimumReplicasAvailable"
	reasonMinimumUnavailable = "MinimumReplicasUnavailable"
	reasonNewAvailable       = "NewReplicaSetAvailable"
	reasonUpdated            = "ReplicaSetUpdated"
	reasonCreated            = "NewReplicaSetCreated"
	reasonFound              = "FoundNewReplicaSet"
	reasonCreateError        = "ReplicaSetCreateError"
	reasonTimedOut           = "ProgressDeadlineExceeded"
	reasonPaused             = "DeploymentPaused"
	reasonResumed            = "DeploymentResumed"
)

// status reports a Deployment; created is the set that is about to be made, if any.
// requeueAfter is when the progress deadline passes.
func status(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, current, created *appsv1.ReplicaSet, now time.Time) (out appsv1.DeploymentStatus, requeueAfter time.Duration) {
	out = *d.Status.DeepCopy()
	out.ObservedGeneration = d.Generation
	out.Replicas = sum(sets, func(s *appsv1.ReplicaSet) int32 { return s.Status.Replicas })
	out.ReadyReplicas = sum(sets, func(s *appsv1.ReplicaSet) int32 { return s.Status.ReadyReplicas })
	out.AvailableReplicas = sum(sets, func(s *appsv1.ReplicaSet) int32 { return s.Status.AvailableReplicas })
	out.TerminatingReplicas = ptr.To(sum(sets, func(s *appsv1.ReplicaSet) int32 { return ptr.Deref(s.Status.TerminatingReplicas, 0) }))
	out.UpdatedReplicas = 0
	if current != nil {
		out.UpdatedReplicas = current.Status.Replicas
	}
	total := deploymentReplicas(d)
	out.UnavailableReplicas = max(0, max(total, sum(sets, replicas))-out.AvailableReplicas)

	_, unavailable := limits(d)
	if out.AvailableReplicas >= total-unavailable {
		setCondition(&out, now, appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinimumAvailable, "Deployment has minimum availability.")
	} else {
		setCondition(&out, now, appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonMinimumUnavailable, "Deployment does not have minimum availability.")
	}
	failures(&out, sets, current)
	if d.DeletionTimestamp == nil {
		requeueAfter = progress(d, &out, current, created, now)
	}
	return out, requeueAfter
}

// failures shows a set's failure to make pods, the current one's before others'.
func failures(out *appsv1.DeploymentStatus, sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet) {
	var found *appsv1.ReplicaSetCondition
	for _, set := range sets {
		for i := range set.Status.Conditions {
			if set.Status.Conditions[i].Type == appsv1.ReplicaSetReplicaFailure && (found == nil || set == current) {
				found = &set.Status.Conditions[i]
			}
		}
	}
	out.Conditions = slices.DeleteFunc(out.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentReplicaFailure })
	if found != nil {
		out.Conditions = append(out.Conditions, appsv1.DeploymentCondition{
			Type: appsv1.DeploymentReplicaFailure, Status: found.Status, Reason: found.Reason, Message: found.Message,
			LastUpdateTime: found.LastTransitionTime, LastTransitionTime: found.LastTransitionTime,
		})
	}
}

// complete says whether the rollout has ended.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	total := deploymentReplicas(d)
	return s.UpdatedReplicas == total && s.Replicas == total && s.AvailableReplicas == total && s.ObservedGeneration >= d.Generation
}

// advanced says whether a rollout got further between two statuses.
func advanced(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas || after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas
}

// hasDeadline says whether lack of progress is to be reported; the largest number stands for never.
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// progress keeps the Progressing condition. Its lastUpdateTime moves whenever the
// rollout got further; without that for progressDeadlineSeconds it has failed, and when
// that will be is returned. Once a rollout is complete, pods that are lost do not make it fail.
func progress(d *appsv1.Deployment, out *appsv1.DeploymentStatus, current, created *appsv1.ReplicaSet, now time.Time) (requeueAfter time.Duration) {
	if !hasDeadline(d) {
		out.Conditions = slices.DeleteFunc(out.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentProgressing })
		return 0
	}
	set := func(status corev1.ConditionStatus, reason, message string) {
		setCondition(out, now, appsv1.DeploymentProgressing, status, reason, message)
	}
	have := condition(out.Conditions, appsv1.DeploymentProgressing)
	if d.Spec.Paused {
		if have == nil || have.Reason != reasonTimedOut {
			set(corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
		}
		return 0
	}
	what := fmt.Sprintf("Deployment %q", d.Name)
	if current != nil {
		what = fmt.Sprintf("ReplicaSet %q", current.Name)
	}
	switch {
	case have != nil && have.Reason == reasonPaused:
		set(corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	case have == nil && current != nil:
		set(corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", current.Name))
	}
	have = condition(out.Conditions, appsv1.DeploymentProgressing)
	switch {
	case created != nil:
		set(corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", created.Name))
	case out.Replicas == out.UpdatedReplicas && have != nil && have.Reason == reasonNewAvailable:
		return 0
	case complete(d, out):
		set(corev1.ConditionTrue, reasonNewAvailable, what+" has successfully progressed.")
		return 0
	case advanced(&d.Status, out):
		// The same reason again moves the update time.
		replaceCondition(out, now, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, what+" is progressing.")
	case have == nil || have.Reason == reasonNewAvailable || have.Reason == reasonTimedOut:
		return 0
	}
	have = condition(out.Conditions, appsv1.DeploymentProgressing)
	deadline := have.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
	if left := deadline.Sub(now); left > 0 {
		return left
	}
	set(corev1.ConditionFalse, reasonTimedOut, what+" has timed out progressing.")
	return 0
}

func condition(conditions []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

// setCondition changes a condition only when its status or reason does.
func setCondition(out *appsv1.DeploymentStatus, now time.Time, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	if c := condition(out.Conditions, t); c != nil && c.Status == status && c.Reason == reason {
		return
	}
	replaceCondition(out, now, t, status, reason, message)
}

func replaceCondition(out *appsv1.DeploymentStatus, now time.Time, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	at := metav1.NewTime(now.Truncate(time.Second))
	fresh := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: at, LastTransitionTime: at}
	if c := condition(out.Conditions, t); c != nil {
		if c.Status == status {
			fresh.LastTransitionTime = c.LastTransitionTime
		}
		*c = fresh
		return
	}
	out.Conditions = append(out.Conditions, fresh)
}
