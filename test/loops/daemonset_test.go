package loops

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

// TestDaemonSets runs what users are promised of a pod on each node.
func TestDaemonSets(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	for i := range 4 {
		node := hollowNode(nodeName(i), "64")
		if i == 3 {
			node.Spec.Taints = []corev1.Taint{{Key: "example.com/gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule}}
		}
		if err := s.register(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		k.beat(t, nodeName(i))
	}
	t.Run("Nodes", func(t *harness.T) { testDaemonNodes(t, s, k) })
	t.Run("Update", func(t *harness.T) { testDaemonUpdate(t, s) })
	t.Run("Surge", func(t *harness.T) { testDaemonSurge(t, s) })
	t.Run("FailedPod", func(t *harness.T) { testDaemonFailed(t, s) })
	t.Run("SilentNode", func(t *harness.T) { testDaemonSilentNode(t, s, k) })
}

// agentSet is a log collector on each node.
func agentSet(ns string) *appsv1.DaemonSet {
	labels := map[string]string{"name": "fluentd"}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "fluentd", Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("10m")},
		},
	}
}

// daemonsOn says whether exactly these nodes have a pod of an image that serves.
func daemonsOn(t *harness.T, s *stack, ns, image string, nodes ...string) func() error {
	return func() error {
		var on []string
		for _, pod := range list[*corev1.Pod](t, s, ns) {
			if pod.Spec.Containers[0].Image != image || !isReady(pod) || pod.DeletionTimestamp != nil {
				return fmt.Errorf("%s on %q: image %s, ready %t", pod.Name, pod.Spec.NodeName, pod.Spec.Containers[0].Image, isReady(pod))
			}
			on = append(on, pod.Spec.NodeName)
		}
		slices.Sort(on)
		set, err := get[*appsv1.DaemonSet](s, ns, "fluentd")
		if err != nil {
			return err
		}
		st, want := set.Status, int32(len(nodes))
		if !slices.Equal(on, nodes) || st.ObservedGeneration < set.Generation || st.DesiredNumberScheduled != want || st.CurrentNumberScheduled != want ||
			st.NumberAvailable != want || st.UpdatedNumberScheduled != want || st.NumberUnavailable != 0 || st.NumberMisscheduled != 0 {
			return fmt.Errorf("on %v, want %v; %+v", on, nodes, st)
		}
		return nil
	}
}

func testDaemonNodes(t *harness.T, s *stack, k *kubelets) {
	ns := namespace(t, s, "daemon-nodes")
	follow(t, s, ns, func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		on := map[string]bool{}
		for _, pod := range all {
			if pod.Spec.NodeName != "" && on[pod.Spec.NodeName] {
				return "its node has two"
			}
			on[pod.Spec.NodeName] = true
		}
		return ""
	})
	create(t, s, agentSet(ns))
	harness.Eventually(t, patience, "a pod on each node but the tainted one", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	for _, pod := range list[*corev1.Pod](t, s, ns) {
		if !strings.HasPrefix(pod.Name, "fluentd-") || pod.Labels["controller-revision-hash"] == "" || pod.Labels["pod-template-generation"] != "1" {
			t.Errorf("%s has labels %v", pod.Name, pod.Labels)
		}
		for _, toleration := range pod.Spec.Tolerations {
			if toleration.TolerationSeconds != nil {
				t.Errorf("%s bears %s for %d s only", pod.Name, toleration.Key, *toleration.TolerationSeconds)
			}
		}
	}
	set, err := get[*appsv1.DaemonSet](s, ns, "fluentd")
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "events tell of it", func() error {
		created := 0
		for _, event := range list[*corev1.Event](t, s, ns) {
			if event.InvolvedObject.UID == set.UID && event.Reason == "SuccessfulCreate" && strings.HasPrefix(event.Message, "Created pod: fluentd-") {
				created++
			}
		}
		if created != 3 {
			return fmt.Errorf("%d events", created)
		}
		return nil
	})

	// A node that joins gets its pod, one whose taint goes, too; and cordoning is no hindrance.
	late := hollowNode("n10", "64")
	late.Spec.Unschedulable = true
	if err := s.register(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	k.beat(t, "n10")
	harness.Eventually(t, patience, "the new node has a pod", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02", "n10"))
	gpu := func(effect corev1.TaintEffect) {
		change(t, s, "", "n03", "", func(n *corev1.Node) {
			n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == "example.com/gpu" })
			if effect != "" {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "example.com/gpu", Value: "yes", Effect: effect})
			}
		})
	}
	gpu("")
	harness.Eventually(t, patience, "the node without its taint has a pod", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02", "n03", "n10"))
	gpu(corev1.TaintEffectNoExecute)
	harness.Eventually(t, patience, "it leaves again", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02", "n10"))
	gpu(corev1.TaintEffectNoSchedule)

	// Nodes are chosen by label from now on.
	change(t, s, ns, "fluentd", "", func(set *appsv1.DaemonSet) {
		set.Spec.Template.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "n01"}
	})
	harness.Eventually(t, patience, "only the selected node", daemonsOn(t, s, ns, "image:1", "n01"))
	s.remove(t, agentSet(ns), client.DeleteOptions{Propagation: metav1.DeletePropagationForeground})
	harness.Eventually(t, patience, "the set is gone", gone[*appsv1.DaemonSet](s, ns, "fluentd"))
	if left := len(list[*corev1.Pod](t, s, ns)) + len(list[*appsv1.ControllerRevision](t, s, ns)); left > 0 {
		t.Errorf("%d pods and revisions outlive the set", left)
	}
	k.silence("n10")
	s.remove(t, late, client.DeleteOptions{})
}

func testDaemonUpdate(t *harness.T, s *stack) {
	ns := namespace(t, s, "daemon-update")
	settled := false // guarded by the history's lock
	h := follow(t, s, ns, func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		serving := 0
		for _, pod := range all {
			if pod.DeletionTimestamp == nil && isReady(pod) {
				serving++
			}
		}
		if settled && serving < 2 {
			return fmt.Sprintf("%d of 3 nodes are served", serving)
		}
		return ""
	})
	create(t, s, agentSet(ns))
	harness.Eventually(t, patience, "first rollout", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	h.mu.Lock()
	settled = true
	h.mu.Unlock()
	image := func(name string) {
		change(t, s, ns, "fluentd", "", func(set *appsv1.DaemonSet) { set.Spec.Template.Spec.Containers[0].Image = name })
	}
	image("image:2")
	harness.Eventually(t, patience, "update", daemonsOn(t, s, ns, "image:2", "n00", "n01", "n02"))
	image(brokenImage)
	harness.Eventually(t, patience, "the broken update stops at its first node", func() error {
		set, err := get[*appsv1.DaemonSet](s, ns, "fluentd")
		if err == nil && (set.Status.UpdatedNumberScheduled != 1 || set.Status.NumberUnavailable != 1) {
			err = fmt.Errorf("%+v", set.Status)
		}
		return err
	})
	k := newKubectl(t, s)
	if have := revisionsIn(k(t, "-n", ns, "rollout", "history", "daemonset/fluentd")); have != "1 2 3" {
		t.Errorf("revisions %s", have)
	}
	if said := k(t, "-n", ns, "rollout", "undo", "daemonset/fluentd", "--to-revision=3"); !strings.Contains(said, "skipped rollback") {
		t.Errorf("undone to what it is: %s", said)
	}
	k(t, "-n", ns, "rollout", "undo", "daemonset/fluentd", "--to-revision=1")
	if said := k(t, "-n", ns, "rollout", "status", "daemonset/fluentd"); !strings.Contains(said, "successfully rolled out") {
		t.Errorf("rollout status: %s", said)
	}
	harness.Eventually(t, patience, "rollback", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	if have := revisionsIn(k(t, "-n", ns, "rollout", "history", "daemonset/fluentd")); have != "2 3 4" {
		t.Errorf("revisions %s", have)
	}
	h.mu.Lock()
	settled = false
	h.mu.Unlock()
	s.remove(t, agentSet(ns), client.DeleteOptions{})
}

// testDaemonSurge: no node is without a serving pod for a moment.
func testDaemonSurge(t *harness.T, s *stack) {
	ns := namespace(t, s, "daemon-surge")
	settled := false // guarded by the history's lock
	h := follow(t, s, ns, func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		serving, pods := map[string]bool{}, map[string]int{}
		for _, pod := range all {
			serving[pod.Spec.NodeName] = serving[pod.Spec.NodeName] || pod.DeletionTimestamp == nil && isReady(pod)
			pods[pod.Spec.NodeName]++
		}
		for _, node := range []string{"n00", "n01", "n02"} {
			if settled && !serving[node] || pods[node] > 2 {
				return fmt.Sprintf("%s has %d pods, serving is %t", node, pods[node], serving[node])
			}
		}
		return ""
	})
	set := agentSet(ns)
	set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
		MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
	}}
	create(t, s, set)
	harness.Eventually(t, patience, "first rollout", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	h.mu.Lock()
	settled = true
	h.mu.Unlock()
	change(t, s, ns, "fluentd", "", func(set *appsv1.DaemonSet) { set.Spec.Template.Spec.Containers[0].Image = "image:2" })
	harness.Eventually(t, patience, "update", daemonsOn(t, s, ns, "image:2", "n00", "n01", "n02"))
	if n := h.total(); n != 6 {
		t.Errorf("%d pods were created for one update of three nodes", n)
	}
	h.mu.Lock()
	settled = false
	h.mu.Unlock()
	s.remove(t, set, client.DeleteOptions{})
}

func testDaemonFailed(t *harness.T, s *stack) {
	ns := namespace(t, s, "daemon-failed")
	set := create(t, s, agentSet(ns))
	harness.Eventually(t, patience, "first rollout", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	victim := list[*corev1.Pod](t, s, ns)[0]
	change(t, s, ns, victim.Name, "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	harness.Eventually(t, patience, "the failed pod is gone", gone[*corev1.Pod](s, ns, victim.Name))
	harness.Eventually(t, patience, "and replaced", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	harness.Eventually(t, patience, "events tell of it", eventTold(t, s, ns, "FailedDaemonPod",
		fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", ns, victim.Name, victim.Spec.NodeName)))
	s.remove(t, set, client.DeleteOptions{})
}

// testDaemonSilentNode: what belongs to a node stays there when it falls silent.
func testDaemonSilentNode(t *harness.T, s *stack, k *kubelets) {
	ns := namespace(t, s, "daemon-silent")
	set := create(t, s, agentSet(ns))
	harness.Eventually(t, patience, "first rollout", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	guest := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "guest"}, Spec: podSpec("10m")}
	guest.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "n01"}
	guest.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](0)}}
	create(t, s, guest)
	harness.Eventually(t, patience, "the guest runs", func() error {
		pod, err := get[*corev1.Pod](s, ns, "guest")
		if err == nil && !isReady(pod) {
			err = fmt.Errorf("it does not")
		}
		return err
	})
	k.silence("n01")
	harness.Eventually(t, 2*patience, "the guest is evicted", func() error {
		pod, err := get[*corev1.Pod](s, ns, "guest")
		if err == nil && pod.DeletionTimestamp == nil {
			err = fmt.Errorf("it is not")
		}
		return err
	})
	harness.Eventually(t, patience, "the set has seen it", func() error {
		have, err := get[*appsv1.DaemonSet](s, ns, "fluentd")
		if err == nil && have.Status.NumberMisscheduled != 1 {
			err = fmt.Errorf("%+v", have.Status)
		}
		return err
	})
	pods := 0
	for _, pod := range list[*corev1.Pod](t, s, ns) {
		if pod.Spec.NodeName == "n01" && pod.Name != "guest" {
			pods++
			if pod.DeletionTimestamp != nil {
				t.Errorf("%s is evicted", pod.Name)
			}
		}
	}
	if pods != 1 {
		t.Errorf("%d pods on the silent node", pods)
	}
	k.revive(t, "n01")
	harness.Eventually(t, patience, "the guest is gone", gone[*corev1.Pod](s, ns, "guest"))
	harness.Eventually(t, patience, "all as before", daemonsOn(t, s, ns, "image:1", "n00", "n01", "n02"))
	s.remove(t, set, client.DeleteOptions{})
}
