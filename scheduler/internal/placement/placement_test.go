package placement_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"kijabi.dev/scheduler/internal/placement"
)

type nodeChange func(*corev1.Node)

func node(name string, changes ...nodeChange) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("2Gi"), corev1.ResourcePods: resource.MustParse("10"),
		}},
	}
	for _, c := range changes {
		c(n)
	}
	return n
}

func label(key, value string) nodeChange {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func taint(key string, effect corev1.TaintEffect) nodeChange {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect})
	}
}

type podChange func(*corev1.Pod)

func pod(name string, changes ...podChange) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name), Labels: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}},
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

func cpu(amount string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
	}
}

func port(number int32) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: number, HostPort: number}}
	}
}

func on(nodeName string) podChange { return func(p *corev1.Pod) { p.Spec.NodeName = nodeName } }

func app(value string) podChange { return func(p *corev1.Pod) { p.Labels["app"] = value } }

func selects(key, value string) podChange {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func tolerates(key string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
}

func term(value string) []corev1.PodAffinityTerm {
	return []corev1.PodAffinityTerm{{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": value}}, TopologyKey: corev1.LabelHostname}}
}

func near(value string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term(value)}}
	}
}

func awayFrom(value string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term(value)}}
	}
}

func spread(value string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": value}},
		}}
	}
}

func prefers(key, value string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}}},
		}}}}
	}
}

// asksFor is how a DaemonSet's pod asks for its node.
func asksFor(nodeName string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{nodeName}},
			}}},
		}}}
	}
}

func TestDecide(t *testing.T) {
	tests := map[string]struct {
		nodes []*corev1.Node
		pods  []*corev1.Pod
		pod   *corev1.Pod
		want  string // node, or summary
	}{
		"the emptier node": {
			nodes: []*corev1.Node{node("n1"), node("n2")}, pods: []*corev1.Pod{pod("x", on("n1"), cpu("1"))},
			pod: pod("p", cpu("100m")), want: "n2",
		},
		"the node that is asked for by name": {
			nodes: []*corev1.Node{node("n1"), node("n2"), node("n3")}, pods: []*corev1.Pod{pod("x", on("n2"), cpu("1"))},
			pod: pod("p", cpu("100m"), asksFor("n2")), want: "n2",
		},
		"and no other": {
			nodes: []*corev1.Node{node("n1"), node("n2")}, pod: pod("p", asksFor("n3")),
			want: "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
		},
		"insufficient cpu everywhere": {
			nodes: []*corev1.Node{node("n1"), node("n2")}, pod: pod("p", cpu("3")),
			want: "0/2 nodes are available: 2 Insufficient cpu.",
		},
		"reasons are counted, most frequent first": {
			nodes: []*corev1.Node{node("n1"), node("n2"), node("n3", taint("gpu", corev1.TaintEffectNoSchedule))}, pod: pod("p", cpu("3")),
			want: "0/3 nodes are available: 2 Insufficient cpu, 1 node(s) had untolerated taint {gpu: }.",
		},
		"no nodes at all": {pod: pod("p"), want: "no nodes available to schedule pods"},
		"the selected node": {
			nodes: []*corev1.Node{node("n1"), node("n2", label("disk", "ssd"))}, pod: pod("p", selects("disk", "ssd")), want: "n2",
		},
		"no selected node": {
			nodes: []*corev1.Node{node("n1")}, pod: pod("p", selects("disk", "ssd")),
			want: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
		},
		"a tolerated taint": {
			nodes: []*corev1.Node{node("n1", taint("gpu", corev1.TaintEffectNoSchedule))}, pod: pod("p", tolerates("gpu")), want: "n1",
		},
		"a cordoned node": {
			nodes: []*corev1.Node{node("n1", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, pod: pod("p"),
			want: "0/1 nodes are available: 1 node(s) were unschedulable.",
		},
		"rather not the tainted node": {
			nodes: []*corev1.Node{node("n1", taint("slow", corev1.TaintEffectPreferNoSchedule)), node("n2")},
			pods:  []*corev1.Pod{pod("x", on("n2"), cpu("1"))}, pod: pod("p"), want: "n2",
		},
		"the preferred node": {
			nodes: []*corev1.Node{node("n1"), node("n2", label("zone", "b"))},
			pods:  []*corev1.Pod{pod("x", on("n2"), cpu("1"))}, pod: pod("p", prefers("zone", "b")), want: "n2",
		},
		"a taken host port": {
			nodes: []*corev1.Node{node("n1")}, pods: []*corev1.Pod{pod("x", on("n1"), port(80))}, pod: pod("p", port(80)),
			want: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
		},
		"too many pods": {
			nodes: []*corev1.Node{node("n1", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("1") })},
			pods:  []*corev1.Pod{pod("x", on("n1"))}, pod: pod("p"), want: "0/1 nodes are available: 1 Too many pods.",
		},
		"near another pod": {
			nodes: []*corev1.Node{node("n1"), node("n2")}, pods: []*corev1.Pod{pod("x", on("n2"), app("db"), cpu("1"))}, pod: pod("p", near("db")), want: "n2",
		},
		"the first of a group that wants to be together": {
			nodes: []*corev1.Node{node("n1")}, pod: pod("p", app("db"), near("db")), want: "n1",
		},
		"away from its like": {
			nodes: []*corev1.Node{node("n1"), node("n2")}, pods: []*corev1.Pod{pod("x", on("n1"), app("db")), pod("y", on("n2"), cpu("1"))},
			pod: pod("p", awayFrom("db")), want: "n2",
		},
		"refused by a pod that is there": {
			nodes: []*corev1.Node{node("n1")}, pods: []*corev1.Pod{pod("x", on("n1"), awayFrom("web"))}, pod: pod("p", app("web")),
			want: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
		},
		"spread over nodes": {
			nodes: []*corev1.Node{node("n1"), node("n2", func(n *corev1.Node) { n.Spec.Unschedulable = true })},
			pods:  []*corev1.Pod{pod("x", on("n1"), app("web"))}, pod: pod("p", app("web"), spread("web")),
			want: "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable.",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := placement.NewCluster()
			for _, n := range test.nodes {
				c.SetNode(n)
			}
			for _, p := range test.pods {
				c.SetPod(p)
			}
			d := c.Decide(test.pod)
			got := d.Node
			if got == "" {
				got = d.Summary()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Replicas of one owner go to different nodes as long as there are any.
func TestReplicasAreSpread(t *testing.T) {
	c := placement.NewCluster()
	for i := range 4 {
		c.SetNode(node(fmt.Sprint("n", i)))
	}
	owned := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{UID: "set", Controller: new(bool)}}
		*p.OwnerReferences[0].Controller = true
	}
	used := map[string]bool{}
	for i := range 4 {
		p := pod(fmt.Sprint("p", i), cpu("10m"), owned)
		d := c.Decide(p)
		if used[d.Node] {
			t.Errorf("second replica on %s", d.Node)
		}
		used[d.Node] = true
		c.Assume(p, d.Node)
	}
}

// Whatever is assumed, confirmed, forgotten and removed, in any order: no node is
// ever given more than it has, and in the end everything has been given back.
func TestAssumeAndForgetBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := placement.NewCluster()
		c.SetNode(node("n1"))
		c.SetNode(node("n2"))
		alive := map[types.UID]*corev1.Pod{}
		where := map[types.UID]string{}
		confirmed := map[types.UID]bool{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				p := pod(fmt.Sprint("p", i), cpu(fmt.Sprintf("%dm", rapid.IntRange(1, 1500).Draw(t, "cpu"))))
				if d := c.Decide(p); d.Node != "" {
					c.Assume(p, d.Node)
					alive[p.UID], where[p.UID] = p, d.Node
				}
			case 1:
				for uid, p := range alive {
					bound := p.DeepCopy()
					bound.Spec.NodeName = where[uid]
					c.SetPod(bound)
					confirmed[uid] = true
					break
				}
			case 2:
				for uid := range alive {
					c.Forget(uid)
					if !confirmed[uid] {
						delete(alive, uid)
					}
					break
				}
			case 3:
				for uid := range alive {
					c.RemovePod(uid)
					delete(alive, uid)
					break
				}
			}
			used := map[string]int64{}
			for uid, p := range alive {
				used[where[uid]] += p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
			}
			for name, amount := range used {
				if amount > 2000 {
					t.Fatalf("%s was given %dm of 2000m", name, amount)
				}
			}
		}
		for uid := range alive {
			c.RemovePod(uid)
		}
		for _, verdict := range c.Decide(pod("last", cpu("2"))).Verdicts {
			if len(verdict.Reasons) > 0 {
				t.Fatalf("%s keeps something back: %v", verdict.Node, verdict.Reasons)
			}
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	for _, nodes := range []int{100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			c := placement.NewCluster()
			for i := range nodes {
				c.SetNode(node(fmt.Sprint("n", i)))
			}
			for i := range nodes * 5 {
				c.SetPod(pod(fmt.Sprint("p", i), cpu("100m"), on(fmt.Sprint("n", rand.IntN(nodes)))))
			}
			p := pod("new", cpu("100m"))
			b.ReportAllocs()
			for b.Loop() {
				c.Decide(p)
			}
		})
	}
}
