// Package toleration says which taints of a node a pod bears. The scheduler and
// the eviction loop ask it, so that neither places a pod where the other removes it.
package toleration

import (
	corev1 "k8s.io/api/core/v1"
)

// Tolerates says whether one of the pod's tolerations covers the taint.
func Tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	_, tolerated := Seconds(pod, taint)
	return tolerated
}

// Seconds returns for how long the pod bears the taint, and whether it does at all.
// Of several tolerations the one that ends first counts; nil means for ever. The
// number is the pod's own and may be negative, which means not a moment.
func Seconds(pod *corev1.Pod, taint *corev1.Taint) (seconds *int64, tolerated bool) {
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		if !covers(t, taint) {
			continue
		}
		tolerated = true
		if t.TolerationSeconds != nil && (seconds == nil || *t.TolerationSeconds < *seconds) {
			seconds = t.TolerationSeconds
		}
	}
	return seconds, tolerated
}

// covers compares one toleration with a taint. An empty effect or key stands for
// all of them, the latter with operator Exists only.
func covers(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case corev1.TolerationOpExists:
		return true
	case "", corev1.TolerationOpEqual:
		return t.Key != "" && t.Value == taint.Value
	}
	return false
}
