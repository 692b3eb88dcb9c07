package daemonset

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"kijabi.dev/controller-manager/internal/podset"
)

// machine is a small cluster around one set: nodes that come and go, kubelets, a scheduler, a user.
type machine struct {
	t       *rapid.T
	set     *appsv1.DaemonSet
	nodes   map[string]*corev1.Node
	pods    map[string]*corev1.Pod
	gone    departed
	hash    string
	serial  int
	version int
}

// TestMachine runs decide against nodes, kubelets and users that do anything.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{t: t, nodes: map[string]*corev1.Node{}, pods: map[string]*corev1.Pod{}, hash: "good-0"}
		n := int32(rapid.IntRange(1, 2).Draw(t, "limit"))
		m.set = set(rapid.SampledFrom([]func(*appsv1.DaemonSet){unavailable(n), surge(n), onDelete}).Draw(t, "strategy"))
		for i := range rapid.IntRange(0, 5).Draw(t, "nodes") {
			m.node(fmt.Sprintf("n%d", i), func(*corev1.Node) {})
		}
		templates := rapid.SampledFrom([]string{"good-0", "good-1", "bad-1", "bad-2"})
		names := rapid.SampledFrom([]string{"n0", "n1", "n2", "n3", "n4", "n5"})
		t.Repeat(map[string]func(*rapid.T){
			"reconcile": func(*rapid.T) { m.reconcile() },
			"lost answer": func(t *rapid.T) {
				known := maps.Clone(m.pods)
				m.perform(m.decide(known))
				m.hash = templates.Draw(t, "template") // the user may be fast
				m.perform(m.decide(known))             // again, on the same knowledge
			},
			"kubelet": func(t *rapid.T) { m.kubelet(m.any(t)) },
			"unready": func(t *rapid.T) { m.change(t, unready) },
			"fail":    func(t *rapid.T) { m.change(t, failed) },
			"delete":  func(t *rapid.T) { m.change(t, m.delete) },
			"node":    func(t *rapid.T) { m.node(names.Draw(t, "node"), func(n *corev1.Node) { n.Spec.Taints = nil }) },
			"taint": func(t *rapid.T) {
				effect := rapid.SampledFrom([]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute}).Draw(t, "effect")
				m.node(names.Draw(t, "node"), tainted("t", effect))
			},
			"node dies": func(t *rapid.T) { m.lose(names.Draw(t, "node")) },
			"template": func(t *rapid.T) {
				m.hash = templates.Draw(t, "template")
			},
			"": func(t *rapid.T) { m.count() },
		})
		m.settle()
	})
}

func (m *machine) node(name string, change func(*corev1.Node)) {
	n := node(name)
	if have := m.nodes[name]; have != nil {
		n = have.DeepCopy()
	}
	m.version++
	n.ResourceVersion = fmt.Sprint(m.version)
	change(n)
	m.nodes[name] = n
}

// lose removes a node; the node lifecycle removes the pods that were on it.
func (m *machine) lose(name string) {
	delete(m.nodes, name)
	for _, p := range m.pods {
		if p.Spec.NodeName == name {
			m.drop(p)
		}
	}
}

func (m *machine) drop(p *corev1.Pod) {
	delete(m.pods, p.Name)
	m.gone.note(p, nil)
}

func (m *machine) any(t *rapid.T) *corev1.Pod {
	if len(m.pods) == 0 {
		t.Skip("no pods")
	}
	return m.pods[rapid.SampledFrom(slices.Sorted(maps.Keys(m.pods))).Draw(t, "pod")]
}

func (m *machine) change(t *rapid.T, f func(*corev1.Pod)) {
	p := m.any(t).DeepCopy()
	m.pods[p.Name] = p
	f(p)
}

// delete does what the API does: pods that run nowhere go at once.
func (m *machine) delete(p *corev1.Pod) {
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed {
		m.drop(p)
		return
	}
	deleting(p)
}

func (m *machine) kubelet(p *corev1.Pod) {
	switch {
	case p.DeletionTimestamp != nil:
		m.drop(p)
	case p.Status.Phase == corev1.PodFailed, m.nodes[nodeOf(p)] == nil:
	default:
		p = p.DeepCopy()
		m.pods[p.Name] = p
		p.Spec.NodeName, p.Status = nodeOf(p), corev1.PodStatus{Phase: corev1.PodRunning}
		if strings.HasPrefix(p.Labels["controller-revision-hash"], "good") {
			p.Status.Conditions = pod("n-x", "").Status.Conditions
		}
	}
}

func (m *machine) serves(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && len(p.Status.Conditions) > 0
}

func (m *machine) decide(known map[string]*corev1.Pod) plan {
	var e eligibility
	p, err := decide(world{
		set: m.set, seats: e.of(m.set, slices.Collect(maps.Values(m.nodes))), hash: m.hash, now: now, gone: m.gone.of(objectKey("a", "agent")),
		pods:  podset.Claimed(m.set, labels.SelectorFromSet(m.set.Spec.Selector.MatchLabels), slices.Collect(maps.Values(known)), nil),
		pause: func(string) time.Duration { return 0 },
		taken: func(name string) bool { return known[name] != nil },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// reconcile does what the controller does, and returns whether there was anything to do.
func (m *machine) reconcile() bool {
	p := m.decide(m.pods)
	m.check(p)
	m.perform(p)
	m.set.Status = p.status
	return len(p.create)+len(p.remove) > 0
}

func (m *machine) perform(p plan) {
	for _, created := range p.create {
		if m.pods[created.Name] != nil {
			continue // it exists already
		}
		m.serial++
		made := created.DeepCopy()
		made.UID = types.UID(fmt.Sprint(made.Name, "/", m.serial))
		made.CreationTimestamp = metav1.NewTime(now.Add(time.Duration(m.serial) * time.Second))
		made.Status.Phase = corev1.PodPending
		m.pods[made.Name] = made
	}
	for _, removed := range p.remove {
		if have := m.pods[removed.Name]; have != nil && have.UID == removed.UID && have.DeletionTimestamp == nil {
			changed := have.DeepCopy()
			m.pods[changed.Name] = changed
			m.delete(changed)
		}
	}
	m.count()
}

// count looks for nodes with more pods than they may have.
func (m *machine) count() {
	most := 1
	if _, surge := limits(m.set, len(m.nodes)); surge > 0 {
		most = 2
	}
	on := map[string]int{}
	for _, p := range m.pods {
		if on[nodeOf(p)]++; on[nodeOf(p)] > most {
			m.t.Fatalf("%d pods on %s", on[nodeOf(p)], nodeOf(p))
		}
	}
}

// check holds the removals of a plan against what an update may take down.
func (m *machine) check(p plan) {
	serving := map[string]int{}
	for _, pod := range m.pods {
		if m.serves(pod) {
			serving[nodeOf(pod)]++
		}
	}
	judge, without, total := newJudge(m.set), 0, 0
	for name, n := range m.nodes {
		if judge.on(n).run {
			total++
			if serving[name] == 0 {
				without++
			}
		}
	}
	taken := 0
	for _, pod := range p.remove {
		n := m.nodes[nodeOf(pod)]
		if !m.serves(pod) || n == nil || !judge.on(n).stay {
			continue
		}
		if pod.Labels["controller-revision-hash"] == m.hash && serving[n.Name] < 2 {
			m.t.Fatalf("%s serves and is as it should be, but is removed", pod.Name)
		}
		if serving[n.Name]--; serving[n.Name] == 0 {
			taken++
		}
	}
	if allowed, _ := limits(m.set, total); taken > 0 && without+taken > allowed && len(m.nodes) == total {
		m.t.Fatalf("%d of %d nodes are without, and the update takes %d more", without, total, taken)
	}
}

// settle lets the world become quiet: then each node must have what it should.
func (m *machine) settle() {
	m.hash = "good-9"
	if m.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		for _, p := range slices.Collect(maps.Values(m.pods)) { // the user does the update
			m.drop(p)
		}
	}
	for round := 0; ; round++ {
		busy := m.reconcile()
		for _, p := range slices.Collect(maps.Values(m.pods)) {
			if !m.serves(p) {
				busy = true
				m.kubelet(p)
			}
		}
		if !busy {
			break
		}
		if round > 200 {
			m.t.Fatalf("does not settle: %d pods on %d nodes, status %+v", len(m.pods), len(m.nodes), m.set.Status)
		}
	}
	judge, want := newJudge(m.set), int32(0)
	for name, n := range m.nodes {
		var on []*corev1.Pod
		for _, p := range m.pods {
			if nodeOf(p) == name {
				on = append(on, p)
			}
		}
		v := judge.on(n)
		if v.run {
			want++
		}
		if v.run && (len(on) != 1 || on[0].Labels["controller-revision-hash"] != m.hash) || !v.stay && len(on) > 0 || len(on) > 1 {
			m.t.Fatalf("node %s, %+v, has %d pods", name, v, len(on))
		}
	}
	s := m.set.Status
	if s.DesiredNumberScheduled != want || s.CurrentNumberScheduled != want || s.NumberAvailable != want || s.UpdatedNumberScheduled != want || s.NumberUnavailable != 0 {
		m.t.Fatalf("status %+v for %d nodes", s, want)
	}
	for _, p := range m.pods {
		if m.nodes[nodeOf(p)] == nil {
			m.t.Fatalf("%s is for a node that does not exist", p.Name)
		}
	}
}
