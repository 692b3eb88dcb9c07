package nodelifecycle

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pressures are the conditions that taint a node while they hold.
func pressures() map[corev1.NodeConditionType]string {
	return map[corev1.NodeConditionType]string{
		corev1.NodeMemoryPressure:     corev1.TaintNodeMemoryPressure,
		corev1.NodeDiskPressure:       corev1.TaintNodeDiskPressure,
		corev1.NodePIDPressure:        corev1.TaintNodePIDPressure,
		corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
	}
}

// taintKind is a taint without its value and time.
type taintKind struct {
	key    string
	effect corev1.TaintEffect
}

// wantedTaints lists what a node's conditions and spec say, in the order in which the taints
// are added. Only of a node that is not ready pods are evicted; pressure keeps new ones away.
func wantedTaints(node *corev1.Node, unreachable bool) []taintKind {
	var want []taintKind
	key := ""
	switch {
	case unreachable:
		key = corev1.TaintNodeUnreachable
	case ready(node) != corev1.ConditionTrue:
		key = corev1.TaintNodeNotReady
	}
	if key != "" {
		want = append(want, taintKind{key, corev1.TaintEffectNoSchedule}, taintKind{key, corev1.TaintEffectNoExecute})
	}
	for _, c := range node.Status.Conditions {
		if key, ok := pressures()[c.Type]; ok && c.Status == corev1.ConditionTrue {
			want = append(want, taintKind{key, corev1.TaintEffectNoSchedule})
		}
	}
	if node.Spec.Unschedulable {
		want = append(want, taintKind{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule})
	}
	return want
}

// owned tells whether this loop alone keeps a taint. Others of the same key, such as an
// administrator's with another effect, are theirs.
func owned(t *corev1.Taint) bool {
	switch t.Key {
	case corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady:
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure,
		corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable:
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	return false
}

// taintsFor replaces this loop's taints by those that hold. A taint that stays keeps
// its time, from which evictions count; an administrator's that evicts gets one.
func taintsFor(node *corev1.Node, unreachable bool, now metav1.Time) []corev1.Taint {
	want := wantedTaints(node, unreachable)
	var out []corev1.Taint
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if owned(t) && !slices.Contains(want, taintKind{t.Key, t.Effect}) {
			continue
		}
		out = append(out, *t)
		if t.Effect == corev1.TaintEffectNoExecute && t.TimeAdded == nil {
			out[len(out)-1].TimeAdded = &now
		}
	}
	for _, kind := range want {
		if !slices.ContainsFunc(out, func(t corev1.Taint) bool { return t.Key == kind.key && t.Effect == kind.effect }) {
			out = append(out, corev1.Taint{Key: kind.key, Effect: kind.effect, TimeAdded: &now})
		}
	}
	return out
}
