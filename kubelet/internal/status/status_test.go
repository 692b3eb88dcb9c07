package status

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/runtime"
)

func instance(name string, state runtime.State, attempt uint32, code int32) runtime.Container {
	return runtime.Container{ID: name, Name: name, State: state, Attempt: attempt, ExitCode: code, StartedAt: time.Unix(1, 0), FinishedAt: time.Unix(2, 0)}
}

func input(policy corev1.RestartPolicy, names ...string) Input {
	in := Input{
		Pod:     &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{RestartPolicy: policy}},
		HostIPs: []string{"192.0.2.1"}, Sandbox: &runtime.Sandbox{IPs: []string{"10.0.0.1"}}, Instances: map[string][]runtime.Container{},
		Waiting: map[string]Waiting{}, InitDone: true, Now: time.Unix(100, 0),
		Result:  func(string) (probes.Result, bool) { return probes.Result{Started: true, Ready: true}, true },
		Message: func(*corev1.Container, *runtime.Container) string { return "" },
	}
	for _, name := range names {
		in.Pod.Spec.Containers = append(in.Pod.Spec.Containers, corev1.Container{Name: name})
	}
	return in
}

func TestPhase(t *testing.T) {
	for _, row := range []struct {
		name      string
		policy    corev1.RestartPolicy
		instances []runtime.Container
		waiting   string
		ended     bool
		want      corev1.PodPhase
	}{
		{"nothing yet", corev1.RestartPolicyAlways, nil, "", false, corev1.PodPending},
		{"one of two", corev1.RestartPolicyAlways, []runtime.Container{instance("a", runtime.Running, 0, 0)}, "", false, corev1.PodPending},
		{"all run", corev1.RestartPolicyAlways, []runtime.Container{instance("a", runtime.Running, 0, 0), instance("b", runtime.Running, 0, 0)}, "", false, corev1.PodRunning},
		{"crashed, to run again", corev1.RestartPolicyAlways, []runtime.Container{instance("a", runtime.Exited, 0, 1), instance("b", runtime.Running, 0, 0)}, "a", false, corev1.PodRunning},
		{"all ended, always", corev1.RestartPolicyAlways, []runtime.Container{instance("a", runtime.Exited, 0, 0), instance("b", runtime.Exited, 0, 0)}, "", false, corev1.PodRunning},
		{"all well", corev1.RestartPolicyNever, []runtime.Container{instance("a", runtime.Exited, 0, 0), instance("b", runtime.Exited, 0, 0)}, "", false, corev1.PodSucceeded},
		{"one badly", corev1.RestartPolicyNever, []runtime.Container{instance("a", runtime.Exited, 0, 1), instance("b", runtime.Exited, 0, 0)}, "", false, corev1.PodFailed},
		{"one badly, on failure", corev1.RestartPolicyOnFailure, []runtime.Container{instance("a", runtime.Exited, 0, 1), instance("b", runtime.Exited, 0, 0)}, "a", false, corev1.PodRunning},
		{"deleted, well", corev1.RestartPolicyAlways, []runtime.Container{instance("a", runtime.Exited, 0, 0), instance("b", runtime.Exited, 0, 0)}, "", true, corev1.PodSucceeded},
		{"deleted, badly", corev1.RestartPolicyAlways, []runtime.Container{instance("a", runtime.Exited, 0, 137), instance("b", runtime.Exited, 0, 0)}, "", true, corev1.PodFailed},
		{"deleted before it ran", corev1.RestartPolicyAlways, nil, "", true, corev1.PodFailed},
	} {
		in := input(row.policy, "a", "b")
		in.Ended = row.ended
		for _, c := range row.instances {
			in.Instances[c.Name] = []runtime.Container{c}
		}
		if row.waiting != "" {
			in.Waiting[row.waiting] = Waiting{Reason: CrashLoopBackOff}
		}
		if got := Compute(in); got.Phase != row.want {
			t.Errorf("%s: %s, want %s", row.name, got.Phase, row.want)
		}
	}
}

func TestConditionsKeepTheirTimes(t *testing.T) {
	in := input(corev1.RestartPolicyAlways, "a")
	in.Instances["a"] = []runtime.Container{instance("a", runtime.Running, 0, 0)}
	in.Pod.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(10, 0)},
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(20, 0)},
		{Type: "example.com/theirs", Status: corev1.ConditionTrue},
	}
	got := map[corev1.PodConditionType]corev1.PodCondition{}
	for _, condition := range Compute(in).Conditions {
		got[condition.Type] = condition
	}
	if c := got[corev1.PodReady]; c.Status != corev1.ConditionTrue || c.LastTransitionTime.Unix() != 20 {
		t.Errorf("ready %+v", c)
	}
	if c := got[corev1.ContainersReady]; c.Status != corev1.ConditionTrue || c.LastTransitionTime.Unix() != 100 {
		t.Errorf("containers ready %+v", c)
	}
	if c := got[corev1.PodScheduled]; c.LastTransitionTime.Unix() != 10 {
		t.Errorf("scheduled %+v", c)
	}
	if _, kept := got["example.com/theirs"]; !kept || len(got) != 6 {
		t.Errorf("conditions %v", got)
	}
}

func TestReadinessGateHoldsReadyBack(t *testing.T) {
	in := input(corev1.RestartPolicyAlways, "a")
	in.Instances["a"] = []runtime.Container{instance("a", runtime.Running, 0, 0)}
	in.Pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "gate"}}
	for _, condition := range Compute(in).Conditions {
		if condition.Type == corev1.PodReady && (condition.Status != corev1.ConditionFalse || condition.Reason != "ReadinessGatesNotReady") {
			t.Errorf("ready %+v", condition)
		}
	}
}

func TestLastStateAndForgottenInstances(t *testing.T) {
	in := input(corev1.RestartPolicyAlways, "a")
	in.Instances["a"] = []runtime.Container{instance("a", runtime.Running, 2, 0), instance("a", runtime.Exited, 1, 3)}
	first := Compute(in)
	if s := first.ContainerStatuses[0]; s.RestartCount != 2 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 3 {
		t.Errorf("status %+v", s)
	}
	in.Pod.Status, in.Instances, in.Sandbox = first, map[string][]runtime.Container{}, nil
	if s := Compute(in); s.ContainerStatuses[0].RestartCount != 2 || s.PodIP != "10.0.0.1" {
		t.Errorf("after the runtime forgot: %+v", s)
	}
}
