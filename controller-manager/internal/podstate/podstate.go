// Package podstate answers the questions that several loops ask of a pod.
package podstate

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Active says whether a pod counts as a replica: neither finished nor on its way out.
func Active(pod *corev1.Pod) bool {
	return !Finished(pod) && pod.DeletionTimestamp == nil
}

// Finished says whether a pod will run no more.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Condition returns a condition of a pod, nil if absent.
func Condition(pod *corev1.Pod, conditionType corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == conditionType {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether a pod's Ready condition holds.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available says whether a pod has been ready for minReady, and if not, how long
// until it will have been; 0 when that does not depend on time.
func Available(pod *corev1.Pod, minReady time.Duration, now time.Time) (available bool, in time.Duration) {
	if !Ready(pod) {
		return false, 0
	}
	if minReady == 0 {
		return true, 0
	}
	since := Condition(pod, corev1.PodReady).LastTransitionTime.Time
	if left := since.Add(minReady).Sub(now); left > 0 {
		return false, left
	}
	return true, 0
}
