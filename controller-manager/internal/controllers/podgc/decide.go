package podgc

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podstate"
)

// fate is what becomes of a pod.
type fate int

const (
	// stays: it ends by itself, or others see to it.
	stays fate = iota
	// homeless: its node is not known; it goes if that stays so.
	homeless
	// unbound: it is being deleted, and no node has ever had it.
	unbound
	// abandoned: it is being deleted, and its node is out of service for good.
	abandoned
)

// judge decides about one pod; node is the one that it is bound to, nil if that is not known.
// It is pure.
func judge(pod *corev1.Pod, node *corev1.Node) fate {
	deleted := pod.DeletionTimestamp != nil
	if deleted && ptr.Deref(pod.DeletionGracePeriodSeconds, 0) == 0 && podstate.Finished(pod) {
		return stays // it only waits for its finalizers
	}
	switch {
	case pod.Spec.NodeName == "" && deleted:
		return unbound
	case pod.Spec.NodeName == "":
		return stays
	case node == nil:
		return homeless
	case deleted && outOfService(node):
		return abandoned
	}
	return stays
}

// outOfService says whether an administrator has said that a node is off, and it is not Ready.
func outOfService(node *corev1.Node) bool {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// excess returns the finished pods beyond the threshold that go: evicted ones first, since no
// controller looks for them, then the oldest. It is pure.
func excess(ended []*corev1.Pod, threshold int) []*corev1.Pod {
	if threshold < 0 {
		return nil
	}
	kept := slices.DeleteFunc(slices.Clone(ended), func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	n := len(kept) - threshold
	if n <= 0 {
		return nil
	}
	evicted := func(pod *corev1.Pod) int {
		if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted" {
			return 0
		}
		return 1
	}
	slices.SortFunc(kept, func(a, b *corev1.Pod) int {
		return cmp.Or(evicted(a)-evicted(b), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return kept[:n]
}
