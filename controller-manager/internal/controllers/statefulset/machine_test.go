package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kijabi.dev/controller-manager/internal/history"
)

// machine is a small cluster around one set: kubelets, a garbage collector, a user.
type machine struct {
	t         *rapid.T
	set       *appsv1.StatefulSet
	pods      map[string]*corev1.Pod
	claims    map[string]*corev1.PersistentVolumeClaim
	revisions []*appsv1.ControllerRevision
	dead      map[types.UID]bool // pods whose node is gone: nobody confirms their end
	serial    int
}

// TestMachine runs decide against kubelets, nodes and users that do anything.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{t: t, pods: map[string]*corev1.Pod{}, claims: map[string]*corev1.PersistentVolumeClaim{}, dead: map[types.UID]bool{}}
		policies := rapid.SampledFrom([]appsv1.PersistentVolumeClaimRetentionPolicyType{retain, remove})
		m.set = set(int32(rapid.IntRange(0, 5).Draw(t, "replicas")), claims(policies.Draw(t, "whenDeleted"), policies.Draw(t, "whenScaled")),
			from(int32(rapid.IntRange(0, 2).Draw(t, "start"))), unavailable(fmt.Sprint(rapid.IntRange(1, 3).Draw(t, "maxUnavailable"))))
		if rapid.Bool().Draw(t, "parallel") {
			parallel(m.set)
		}
		m.set.Spec.RevisionHistoryLimit = ptr.To[int32](2)
		m.set.Spec.Template = template("good-0")
		t.Repeat(map[string]func(*rapid.T){
			"reconcile": func(*rapid.T) { m.reconcile() },
			"kubelet":   func(t *rapid.T) { m.kubelet(m.any(t)) },
			"unready": func(t *rapid.T) {
				m.change(t, func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse })
			},
			"fail":      func(t *rapid.T) { m.change(t, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }) },
			"node dies": func(t *rapid.T) { m.change(t, func(p *corev1.Pod) { m.dead[p.UID] = true; m.delete(p) }) },
			"forced":    func(t *rapid.T) { m.change(t, func(p *corev1.Pod) { delete(m.pods, p.Name) }) },
			"delete":    func(t *rapid.T) { m.change(t, m.delete) },
			"garbage":   func(*rapid.T) { m.collect() },
			"scale":     func(t *rapid.T) { m.set.Spec.Replicas = ptr.To(int32(rapid.IntRange(0, 5).Draw(t, "replicas"))) },
			"partition": func(t *rapid.T) { partitioned(int32(rapid.IntRange(0, 5).Draw(t, "partition")))(m.set) },
			"template": func(t *rapid.T) {
				m.set.Spec.Template = template(rapid.SampledFrom([]string{"good-0", "good-1", "good-2", "bad-1", "bad-2"}).Draw(t, "image"))
			},
			"": func(*rapid.T) {},
		})
		m.settle()
	})
}

func (m *machine) any(t *rapid.T) *corev1.Pod {
	names := make([]string, 0, len(m.pods))
	for name := range m.pods {
		names = append(names, name)
	}
	if len(names) == 0 {
		t.Skip("no pods")
	}
	slices.Sort(names)
	return m.pods[rapid.SampledFrom(names).Draw(t, "pod")]
}

func (m *machine) change(t *rapid.T, f func(*corev1.Pod)) {
	p := m.any(t).DeepCopy()
	m.pods[p.Name] = p
	f(p)
}

// delete does what the API does: pods that run nowhere go at once.
func (m *machine) delete(p *corev1.Pod) {
	if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
		delete(m.pods, p.Name)
		return
	}
	p.DeletionTimestamp = ptr.To(metav1.NewTime(now))
}

func good(p *corev1.Pod) bool { return strings.HasPrefix(p.Spec.Containers[0].Image, "good") }

func (m *machine) kubelet(p *corev1.Pod) {
	switch {
	case m.dead[p.UID]:
	case p.DeletionTimestamp != nil:
		delete(m.pods, p.Name)
	case p.Status.Phase == corev1.PodFailed:
	default:
		p = p.DeepCopy()
		m.pods[p.Name] = p
		p.Status.Phase, p.Status.Conditions[0].Status = corev1.PodRunning, corev1.ConditionFalse
		if good(p) {
			p.Status.Conditions[0].Status = corev1.ConditionTrue
		}
	}
}

// collect removes claims all of whose owners are gone.
func (m *machine) collect() {
	there := map[types.UID]bool{m.set.UID: true}
	for _, p := range m.pods {
		there[p.UID] = true
	}
	for name, c := range m.claims {
		if len(c.OwnerReferences) > 0 && !slices.ContainsFunc(c.OwnerReferences, func(ref metav1.OwnerReference) bool { return there[ref.UID] }) {
			delete(m.claims, name)
		}
	}
}

func (m *machine) ready(p *corev1.Pod) bool {
	return p != nil && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && p.Status.Conditions[0].Status == corev1.ConditionTrue
}

// reconcile does what the controller does, checks the plan and performs it. It returns whether
// there was anything to do.
func (m *machine) reconcile() bool {
	selector := labels.SelectorFromSet(m.set.Spec.Selector.MatchLabels)
	past, err := history.Of(history.Question{
		Owner: m.set, Template: &m.set.Spec.Template, Selector: selector, HashLabel: hashLabel, Owned: m.revisions,
		Taken: func(name string) bool {
			return slices.ContainsFunc(m.revisions, func(r *appsv1.ControllerRevision) bool { return r.Name == name })
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	current := past.Find(m.set.Status.CurrentRevision)
	if current == nil {
		current = past.Update
	}
	owned := make([]*corev1.Pod, 0, len(m.pods))
	for _, p := range m.pods {
		owned = append(owned, p)
	}
	p, err := decide(world{
		set: m.set, pods: members(m.set, selector, owned, nil), current: current, update: past.Update, now: now,
		taken:   func(name string) bool { return m.pods[name] != nil },
		claimOf: func(name string) *corev1.PersistentVolumeClaim { return m.claims[name] },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.check(p, current.Name, past.Update.Name)
	if past.Find(past.Update.Name) == nil {
		past.Known = append(past.Known, past.Update)
	}
	m.revisions = past.Known
	m.perform(p)
	used := map[string]bool{p.status.CurrentRevision: true}
	for _, pod := range m.pods {
		used[revisionOf(pod)] = true
	}
	for _, old := range past.Expired(m.set.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool { return used[r.Name] }) {
		m.revisions = slices.DeleteFunc(m.revisions, func(r *appsv1.ControllerRevision) bool { return r == old })
	}
	m.set.Status = p.status
	return len(p.create)+len(p.remove)+len(p.owners)+len(p.lack) > 0
}

func (m *machine) perform(p plan) {
	for _, c := range p.owners {
		changed := c.claim.DeepCopy()
		changed.OwnerReferences = c.owners
		m.claims[changed.Name] = changed
	}
	for _, made := range append(p.lack, p.create...) {
		for _, c := range made.claims {
			m.claims[c.Name] = c
		}
	}
	for _, made := range p.create {
		if m.pods[made.pod.Name] != nil {
			m.t.Fatalf("a second %s", made.pod.Name)
		}
		for _, v := range made.pod.Spec.Volumes {
			if v.PersistentVolumeClaim == nil {
				continue
			}
			if c := m.claims[v.PersistentVolumeClaim.ClaimName]; c == nil || doomed(c, made.pod.Name) {
				m.t.Fatalf("%s starts without claim %s", made.pod.Name, v.PersistentVolumeClaim.ClaimName)
			}
		}
		m.serial++
		created := made.pod.DeepCopy()
		created.UID = types.UID(fmt.Sprint(created.Name, "/", m.serial))
		created.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}}
		m.pods[created.Name] = created
	}
	for _, pod := range p.remove {
		changed := pod.DeepCopy()
		m.pods[pod.Name] = changed
		m.delete(changed)
	}
}

// check holds a plan against what is promised.
func (m *machine) check(p plan, current, update string) {
	first, n := start(m.set), replicas(m.set)
	at := func(i int) *corev1.Pod { return m.pods[podName(m.set.Name, first+i)] }
	ordered := m.set.Spec.PodManagementPolicy == appsv1.OrderedReadyPodManagement
	healthy, gap := 0, n // gap is the first place that is not well
	for i := range n {
		if m.ready(at(i)) {
			healthy++
		} else if gap == n {
			gap = i
		}
	}
	for _, made := range p.create {
		ordinal, _ := ordinalOf(m.set, made.pod)
		if want := map[bool]string{true: current, false: update}[ordinal-first < partition(m.set)]; revisionOf(made.pod) != want {
			m.t.Fatalf("%s is made of %s, not %s", made.pod.Name, revisionOf(made.pod), want)
		}
		if ordered && (ordinal-first != gap || len(p.create) > 1) {
			m.t.Fatalf("%s is created while %d is the first that is not well", made.pod.Name, gap+first)
		}
	}
	taken := 0 // well, in their place, and removed all the same
	for _, pod := range p.remove {
		ordinal, _ := ordinalOf(m.set, pod)
		i := ordinal - first
		switch {
		case i < 0 || i >= n:
			last := slices.MaxFunc(p.claim.Own, func(a, b *corev1.Pod) int {
				x, _ := ordinalOf(m.set, a)
				y, _ := ordinalOf(m.set, b)
				return x - y
			})
			if ordered && (gap < n || len(p.remove) > 1 || i >= n && pod != last) {
				m.t.Fatalf("%s is scaled away beside %d removals, first not well %d, last %s", pod.Name, len(p.remove), gap+first, last.Name)
			}
		case pod.Status.Phase == corev1.PodFailed:
		case i < partition(m.set) || revisionOf(pod) == update:
			m.t.Fatalf("the update removes %s of %s", pod.Name, revisionOf(pod))
		case m.ready(pod):
			taken++
		case ordered && i != gap:
			m.t.Fatalf("%s is replaced before %d", pod.Name, gap+first)
		}
	}
	if taken > 0 && n-healthy+taken > maxUnavailable(m.set) {
		m.t.Fatalf("the update takes %d of %d that are well of %d", taken, healthy, n)
	}
}

// settle lets the world become quiet: then the set must be as its spec says.
func (m *machine) settle() {
	m.set.Spec.Template = template("good-9")
	partitioned(0)(m.set)
	for name, p := range m.pods {
		if m.dead[p.UID] {
			delete(m.pods, name) // its node is known to be gone
		}
	}
	for round := 0; ; round++ {
		busy := m.reconcile()
		for _, p := range m.pods {
			if !m.ready(p) {
				busy = true
				m.kubelet(p)
			}
		}
		before := len(m.claims)
		m.collect()
		if !busy && before == len(m.claims) {
			break
		}
		if round > 300 {
			m.t.Fatalf("does not settle: %d pods of %d, status %+v", len(m.pods), replicas(m.set), m.set.Status)
		}
	}
	n := replicas(m.set)
	if len(m.pods) != n {
		m.t.Fatalf("%d pods of %d", len(m.pods), n)
	}
	for i := range n {
		name := podName(m.set.Name, start(m.set)+i)
		p := m.pods[name]
		if p == nil || p.Spec.Containers[0].Image != "good-9" || m.claims["data-"+name] == nil {
			m.t.Fatalf("%s is %+v", name, p)
		}
	}
	s, want := m.set.Status, int32(n)
	if s.Replicas != want || s.ReadyReplicas != want || s.AvailableReplicas != want || s.UpdatedReplicas != want || s.CurrentReplicas != want || s.CurrentRevision != s.UpdateRevision {
		m.t.Fatalf("status %+v of %d", s, n)
	}
	if len(m.revisions) > 3 {
		m.t.Fatalf("%d revisions, two old ones and the one in force are wanted", len(m.revisions))
	}
}
