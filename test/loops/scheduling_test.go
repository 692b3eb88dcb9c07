package loops

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	schedulerv1pb "kijabi.dev/proto/gen/kijabi/scheduler/v1"
	"kijabi.dev/test/harness"
)

// TestScheduler runs the scheduler without any other loop.
func TestScheduler(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "scheduler")
	t.Run("Explained", func(t *harness.T) { testExplained(t, s) })
	t.Run("BoundOnce", func(t *harness.T) { testBoundOnce(t, s) })
}

func pod(ns, name, cpu string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: podSpec(cpu)}
}

// unschedulable says whether a pod's condition and one of its events tell why it waits.
func unschedulable(t *harness.T, s *stack, pod *corev1.Pod, why string) func() error {
	t.Helper()
	return func() error {
		have, err := get[*corev1.Pod](s, pod.Namespace, pod.Name)
		if err != nil {
			return err
		}
		said := fmt.Errorf("conditions %v", have.Status.Conditions)
		for _, c := range have.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && c.Message == why {
				said = nil
			}
		}
		if said != nil {
			return said
		}
		for _, event := range list[*corev1.Event](t, s, pod.Namespace) {
			if event.InvolvedObject.UID == pod.UID && event.Reason == "FailedScheduling" && event.Type == corev1.EventTypeWarning && event.Message == why {
				return nil
			}
		}
		return fmt.Errorf("no event says %q", why)
	}
}

func bound(s *stack, ns, name, node string) func() error {
	return func() error {
		pod, err := get[*corev1.Pod](s, ns, name)
		if err == nil && (pod.Spec.NodeName == "" || node != "" && pod.Spec.NodeName != node) {
			err = fmt.Errorf("it is on node %q: %v", pod.Spec.NodeName, pod.Status.Conditions)
		}
		return err
	}
}

func testExplained(t *harness.T, s *stack) {
	ns := namespace(t, s, "explained")
	conn, err := rpc.DialName(s.at(configv1.PortScheduler), pki.ServerName(pki.ComponentScheduler, machine), s.identity(t, pki.ComponentAdmin, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	explain := func() *schedulerv1pb.ExplainResponse {
		ctx, cancel := contextOf(t)
		defer cancel()
		res, err := schedulerv1pb.NewSchedulerServiceClient(conn).Explain(ctx, &schedulerv1pb.ExplainRequest{Namespace: ns, Name: "big"})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}

	big := create(t, s, pod(ns, "big", "2"))
	harness.Eventually(t, patience, "without nodes the pod waits", unschedulable(t, s, big, "no nodes available to schedule pods"))
	if res := explain(); res.GetNode() != "" || res.GetSummary() != "no nodes available to schedule pods" || res.GetAttempts() < 1 {
		t.Errorf("explained without nodes: %v", res)
	}

	if err := s.register(t.Context(), hollowNode("small", "1")); err != nil {
		t.Fatal(err)
	}
	tainted := hollowNode("tainted", "8")
	tainted.Spec.Taints = []corev1.Taint{{Key: "reserved", Value: "yes", Effect: corev1.TaintEffectNoSchedule}}
	if err := s.register(t.Context(), tainted); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "the reasons are those of each node", unschedulable(t, s, big,
		"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {reserved: yes}."))
	reasons := map[string]string{}
	for _, verdict := range explain().GetVerdicts() {
		if verdict.GetFits() {
			t.Errorf("it fits on %s", verdict.GetNode())
		}
		reasons[verdict.GetNode()] = strings.Join(verdict.GetReasons(), "; ")
	}
	if reasons["small"] != "Insufficient cpu" || !strings.Contains(reasons["tainted"], "reserved") {
		t.Errorf("verdicts %v", reasons)
	}

	if err := s.register(t.Context(), hollowNode("large", "4")); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "a node that fits is taken", bound(s, ns, "big", "large"))
	if res := explain(); res.GetNode() != "large" || len(res.GetVerdicts()) != 3 {
		t.Errorf("explained: %v", res)
	}

	stranger, err := rpc.DialName(s.at(configv1.PortScheduler), pki.ServerName(pki.ComponentScheduler, machine), s.identity(t, pki.ComponentKubelet, "small"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	ctx, cancel := contextOf(t)
	defer cancel()
	if _, err := schedulerv1pb.NewSchedulerServiceClient(stranger).Explain(ctx, &schedulerv1pb.ExplainRequest{Namespace: ns, Name: "big"}); err == nil {
		t.Error("a node may ask the scheduler")
	}
	for _, name := range []string{"small", "large", "tainted"} {
		s.remove(t, hollowNode(name, "1"), client.DeleteOptions{})
	}
}

// testBoundOnce fills 100 nodes to the brim while the scheduler is killed.
func testBoundOnce(t *harness.T, s *stack) {
	const nodes, perNode = 100, 10
	ns := namespace(t, s, "crowd")
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	for i := range nodes {
		group.Go(func() error { return s.register(ctx, hollowNode(fmt.Sprintf("crowd-%02d", i), "1")) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	load := map[string]int{} // guarded by the history's lock
	bindings := 0
	h := follow(t, s, ns, func(before, after *corev1.Pod, _ map[types.UID]*corev1.Pod) string {
		var was, is string
		if before != nil {
			was = before.Spec.NodeName
		}
		if after != nil {
			is = after.Spec.NodeName
		}
		if was == is {
			return ""
		}
		load[was]--
		load[is]++
		switch {
		case after == nil:
			return ""
		case was != "":
			return fmt.Sprintf("moved from %s to %s", was, is)
		case load[is] > perNode:
			return fmt.Sprintf("node %s has room for %d and got one more", is, perNode)
		}
		bindings++
		return ""
	})
	count := func(all map[types.UID]*corev1.Pod) int {
		n := 0
		for _, pod := range all {
			if pod.Spec.NodeName != "" {
				n++
			}
		}
		return n
	}
	const batch = 250
	for first := 0; first < nodes*perNode; first += batch {
		var ops []client.Op
		for i := first; i < first+batch; i++ {
			ops = append(ops, client.CreateOp(pod(ns, fmt.Sprintf("pod-%03d", i), "100m")))
		}
		ctx, cancel := contextOf(t)
		_, err := s.api.Transact(ctx, ops, false)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 400, 700} {
		h.until(t, "some pods are bound", func(all map[types.UID]*corev1.Pod) bool { return count(all) >= n })
		s.restart(t, "scheduler")
	}
	h.until(t, "all pods are bound", func(all map[types.UID]*corev1.Pod) bool { return count(all) == nodes*perNode })
	if bindings != nodes*perNode {
		t.Errorf("%d bindings of %d pods", bindings, nodes*perNode)
	}

	late := create(t, s, pod(ns, "late", "100m"))
	harness.Eventually(t, patience, "there is no room for one more", unschedulable(t, s, late, "0/100 nodes are available: 100 Insufficient cpu."))
	leaver, err := get[*corev1.Pod](s, ns, "pod-123")
	if err != nil {
		t.Fatal(err)
	}
	now := int64(0)
	s.remove(t, leaver, client.DeleteOptions{GracePeriodSeconds: &now})
	harness.Eventually(t, patience, "until one leaves", bound(s, ns, "late", leaver.Spec.NodeName))
}
