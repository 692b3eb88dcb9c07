package loops

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
	"kijabi.dev/test/harness"
)

const nodeCount = 50

func nodeName(i int) string { return fmt.Sprintf("n%02d", i) }

// testPodRanges registers many nodes at once; later tests use them.
func testPodRanges(t *harness.T, s *stack, k *kubelets) {
	group, ctx := errgroup.WithContext(t.Context())
	for i := range nodeCount {
		group.Go(func() error { return s.register(ctx, hollowNode(nodeName(i), "64")) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range nodeCount {
		k.beat(t, nodeName(i))
	}
	unique := func() error {
		whole, owner := netip.MustParsePrefix("10.244.0.0/16"), map[netip.Prefix]string{}
		for _, node := range list[*corev1.Node](t, s, "") {
			if node.Spec.PodCIDR == "" {
				return fmt.Errorf("node %s has no range", node.Name)
			}
			prefix, err := netip.ParsePrefix(node.Spec.PodCIDR)
			if err != nil || !whole.Contains(prefix.Addr()) || prefix.Bits() != 24 || prefix != prefix.Masked() || !slices.Equal(node.Spec.PodCIDRs, []string{node.Spec.PodCIDR}) {
				t.Fatalf("node %s has range %q, %v: %v", node.Name, node.Spec.PodCIDR, node.Spec.PodCIDRs, err)
			}
			if other, taken := owner[prefix]; taken {
				t.Fatalf("nodes %s and %s both have %s", node.Name, other, prefix)
			}
			owner[prefix] = node.Name
		}
		return nil
	}
	harness.Eventually(t, patience, "every node has a range of its own", unique)

	// The ranges of nodes that leave are given again, to one node each.
	k.silence(nodeName(0), nodeName(1))
	for i := range 2 {
		s.remove(t, hollowNode(nodeName(i), "64"), client.DeleteOptions{})
	}
	for i := range 2 {
		if err := s.register(t.Context(), hollowNode(nodeName(i), "64")); err != nil {
			t.Fatal(err)
		}
		k.beat(t, nodeName(i))
	}
	harness.Eventually(t, patience, "nodes that come anew have ranges, too", unique)
}

func taints(node *corev1.Node) []string {
	var all []string
	for _, taint := range node.Spec.Taints {
		all = append(all, taint.Key+":"+string(taint.Effect))
	}
	slices.Sort(all)
	return all
}

// healthy says whether a node is Ready and without taints.
func healthy(s *stack, name string) func() error {
	return func() error {
		node, err := get[*corev1.Node](s, "", name)
		if err != nil {
			return err
		}
		if harness.NodeReady(node) != corev1.ConditionTrue || len(node.Spec.Taints) > 0 {
			return fmt.Errorf("Ready is %s, taints %v", harness.NodeReady(node), taints(node))
		}
		return nil
	}
}

func testSilentNodes(t *harness.T, s *stack, k *kubelets) {
	for i := range nodeCount {
		k.well(t, nodeName(i))
	}
	ns := namespace(t, s, "silent")
	create(t, s, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	})
	seconds := int64(2)
	d := deployment(ns, "web", 6)
	d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}}
	create(t, s, d)
	// A pod that stays for the default 300 s shares the silent node.
	harness.Eventually(t, patience, "rollout", rolledOut(s, ns, "web"))
	pods := list[*corev1.Pod](t, s, ns)
	victim := pods[0].Spec.NodeName
	patient := create(t, s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "patient", Labels: map[string]string{"app": "web"}}, Spec: podSpec("10m")})
	if err := bind(t, s, patient, victim); err != nil {
		// The scheduler was faster: its choice falls silent, too.
		harness.Eventually(t, patience, "the scheduler's choice", func() error {
			pod, err := get[*corev1.Pod](s, ns, "patient")
			if err == nil && pod.Spec.NodeName == "" {
				err = fmt.Errorf("not bound")
			}
			return err
		})
	}
	patient, err := get[*corev1.Pod](s, ns, "patient")
	if err != nil {
		t.Fatal(err)
	}
	silent := []string{victim}
	if patient.Spec.NodeName != victim {
		silent = append(silent, patient.Spec.NodeName)
	}
	harness.Eventually(t, patience, "all are endpoints", published(t, s, ns, "web", 7))

	doomed := map[string]bool{}
	for _, pod := range list[*corev1.Pod](t, s, ns) {
		if slices.Contains(silent, pod.Spec.NodeName) && pod.Name != "patient" {
			doomed[pod.Name] = true
		}
	}
	started := time.Now()
	k.silence(silent...)
	for _, name := range silent {
		harness.Eventually(t, patience, "node "+name+" is taken out of traffic", func() error {
			node, err := get[*corev1.Node](s, "", name)
			if err != nil {
				return err
			}
			if harness.NodeReady(node) != corev1.ConditionUnknown || !slices.Equal(taints(node), []string{
				"node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule",
			}) {
				return fmt.Errorf("Ready is %s, taints %v", harness.NodeReady(node), taints(node))
			}
			return nil
		})
	}
	// The last heartbeat was up to a second before.
	if took := time.Since(started); took < 2900*time.Millisecond || took > 10*time.Second {
		t.Errorf("silent nodes were noticed after %s, want 3 to 6 s", took)
	} else {
		t.Logf("silent nodes were noticed after %s", took)
	}
	harness.Eventually(t, patience, "its pods are no ready endpoints", func() error {
		pod, err := get[*corev1.Pod](s, ns, "patient")
		if err == nil && (isReady(pod) || endpoints(t, s, ns, "web")[pod.Status.PodIP]) {
			err = fmt.Errorf("it serves: Ready is %s", harness.PodReady(pod))
		}
		return err
	})
	harness.Eventually(t, patience, "pods whose toleration is over are evicted and replaced", func() error {
		for name := range doomed {
			pod, err := get[*corev1.Pod](s, ns, name)
			if err != nil {
				return err // no kubelet confirms its end, so it stays
			}
			if pod.DeletionTimestamp == nil {
				return fmt.Errorf("%s is not being deleted", name)
			}
		}
		return rolledOut(s, ns, "web")()
	})
	// Times in objects are whole seconds, so the toleration may end a second early.
	if took := time.Since(started); took < 3900*time.Millisecond {
		t.Errorf("evicted after %s, before the toleration of 2 s was over", took)
	}
	if pod, err := get[*corev1.Pod](s, ns, "patient"); err != nil || pod.DeletionTimestamp != nil {
		t.Errorf("the pod that tolerates more is %v, %v", pod.DeletionTimestamp, err)
	}

	k.revive(t, silent...)
	harness.Eventually(t, patience, "the patient pod serves again, the doomed are gone", published(t, s, ns, "web", 7))
	s.remove(t, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}, client.DeleteOptions{})
}

func bind(t *harness.T, s *stack, pod *corev1.Pod, node string) error {
	t.Helper()
	ctx, cancel := contextOf(t)
	defer cancel()
	return s.api.Bind(ctx, object.KeyOf(pod), pod.UID, node)
}

// testStorm silences most nodes: then the masters' own network is the likelier
// culprit, and none is taken out of traffic.
func testStorm(t *harness.T, s *stack, k *kubelets) {
	var silent []string
	for i := range nodeCount * 7 / 10 {
		silent = append(silent, nodeName(i))
	}
	k.silence(silent...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := nodev1pb.NewNodeServiceClient(s.admin).WatchLiveness(ctx, &nodev1pb.WatchLivenessRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// Twice as long as one node alone would have had.
	for long := map[string]bool{}; len(long) < len(silent); {
		res, err := stream.Recv()
		if err != nil {
			t.Fatalf("%d nodes known to be silent: %v", len(long), err)
		}
		for _, node := range res.GetNodes() {
			if node.GetSilence().AsDuration() > 8*time.Second {
				long[node.GetNode()] = true
			}
		}
	}
	for i := range nodeCount {
		if err := healthy(s, nodeName(i))(); err != nil {
			t.Errorf("node %s: %v", nodeName(i), err)
		}
	}
	// Once most are back, those that are not follow.
	last := silent[len(silent)-2:]
	for _, name := range silent[:len(silent)-2] {
		k.beat(t, name)
	}
	for _, name := range last {
		harness.Eventually(t, patience, "node "+name+" is taken out after the storm", func() error {
			node, err := get[*corev1.Node](s, "", name)
			if err == nil && harness.NodeReady(node) != corev1.ConditionUnknown {
				err = fmt.Errorf("Ready is %s", harness.NodeReady(node))
			}
			return err
		})
	}
	k.revive(t, last...)
	for i := range nodeCount {
		k.well(t, nodeName(i))
	}
}
