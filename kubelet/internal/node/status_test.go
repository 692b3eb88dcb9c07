package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"

	configv1 "kijabi.dev/platform/config/v1"
)

func TestRegisterLabelsAndConditions(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := NewReporter(Config{
		Kubelet: &configv1.KubeletConfiguration{
			Common: configv1.Common{NodeName: "master-1"},
			Labels: map[string]string{"node-role.kubernetes.io/control-plane": "", "disk": "fast"},
			Taints: []configv1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: "NoSchedule"}},
		},
		Clock: clocktesting.NewFakeClock(now),
	})
	node := r.register(corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}})
	if role, ok := node.Labels["node-role.kubernetes.io/control-plane"]; !ok || role != "" || node.Labels["disk"] != "fast" {
		t.Errorf("labels %v", node.Labels)
	}
	if len(node.Spec.Taints) != 1 {
		t.Errorf("taints %v", node.Spec.Taints)
	}
	if since := node.Status.Conditions[0].LastTransitionTime; !since.Time.Equal(now) {
		t.Errorf("not Ready since %s, want %s", since, now)
	}
	node.Labels["disk"] = "slow"
	if r.label(node) || node.Labels["disk"] != "slow" {
		t.Errorf("an operator's change was undone: %v", node.Labels)
	}
}
