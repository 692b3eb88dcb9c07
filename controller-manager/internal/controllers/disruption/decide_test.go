package disruption

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func budget(least, most *intstr.IntOrString) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", Generation: 3},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: least, MaxUnavailable: most},
	}
}

func text(s string) *intstr.IntOrString { return ptr.To(intstr.Parse(s)) }

type change func(*corev1.Pod)

func pod(name string, ready bool, changes ...change) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: name, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
			OwnerReferences: []metav1.OwnerReference{{UID: "set", Controller: ptr.To(true)}},
		},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

func of(owner types.UID) change { return func(p *corev1.Pod) { p.OwnerReferences[0].UID = owner } }
func alone(p *corev1.Pod)       { p.OwnerReferences = nil }
func leaving(p *corev1.Pod)     { p.DeletionTimestamp = &metav1.Time{Time: now} }

func pods(ready, unready int, changes ...change) (out []*corev1.Pod) {
	for i := range ready + unready {
		out = append(out, pod(fmt.Sprint("p", i), i < ready, changes...))
	}
	return out
}

func TestDecide(t *testing.T) {
	sizes := map[types.UID]size{"set": {"deployment", 5}, "other": {"deployment", 5}, "third": {"third", 4}}
	for name, test := range map[string]struct {
		pdb                                 *policyv1.PodDisruptionBudget
		pods                                []*corev1.Pod
		expected, desired, healthy, allowed int32
		unmanaged                           int
		fails                               bool
	}{
		"a number":                           {pdb: budget(text("2"), nil), pods: pods(3, 1), expected: 4, desired: 2, healthy: 3, allowed: 1},
		"a number of pods of nobody":         {pdb: budget(text("2"), nil), pods: pods(3, 0, alone), expected: 3, desired: 2, healthy: 3, allowed: 1},
		"a percentage rounds up":             {pdb: budget(text("50%"), nil), pods: pods(4, 0), expected: 5, desired: 3, healthy: 4, allowed: 1},
		"a maximum":                          {pdb: budget(nil, text("1")), pods: pods(5, 0), expected: 5, desired: 4, healthy: 5, allowed: 1},
		"a maximum in percent":               {pdb: budget(nil, text("30%")), pods: pods(5, 0), expected: 5, desired: 3, healthy: 5, allowed: 2},
		"a maximum of more than there are":   {pdb: budget(nil, text("9")), pods: pods(5, 0), expected: 5, desired: 0, healthy: 5, allowed: 5},
		"sets of one workload count once":    {pdb: budget(nil, text("1")), pods: append(pods(2, 0), pod("q", true, of("other")), pod("r", true, of("third"))), expected: 9, desired: 8, healthy: 4},
		"too few":                            {pdb: budget(text("4"), nil), pods: pods(3, 2), expected: 5, desired: 4, healthy: 3},
		"those that leave are not healthy":   {pdb: budget(text("1"), nil), pods: append(pods(1, 0), pod("q", true, leaving)), expected: 2, desired: 1, healthy: 1},
		"none at all":                        {pdb: budget(text("0"), nil), allowed: 0},
		"a percentage of pods of nobody":     {pdb: budget(text("50%"), nil), pods: pods(2, 0, alone), unmanaged: 2, healthy: 2},
		"a percentage of an unknown owner's": {pdb: budget(text("50%"), nil), pods: pods(2, 0, of("unknown")), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := decide(test.pdb, test.pods, sizes, now)
			if (err != nil) != test.fails {
				t.Fatalf("error %v", err)
			}
			if test.fails {
				failed := failed(test.pdb, err, now)
				c := meta.FindStatusCondition(failed.Conditions, policyv1.DisruptionAllowedCondition)
				if c == nil || c.Reason != policyv1.SyncFailedReason || c.Status != metav1.ConditionFalse || failed.DisruptionsAllowed != 0 {
					t.Errorf("status %+v", failed)
				}
				return
			}
			s := p.status
			if s.ExpectedPods != test.expected || s.DesiredHealthy != test.desired || s.CurrentHealthy != test.healthy ||
				s.DisruptionsAllowed != test.allowed || s.ObservedGeneration != 3 || len(p.unmanaged) != test.unmanaged {
				t.Errorf("status %+v, %d unmanaged", s, len(p.unmanaged))
			}
			want := policyv1.InsufficientPodsReason
			if test.allowed > 0 {
				want = policyv1.SufficientPodsReason
			}
			if c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition); c == nil || c.Reason != want || (c.Status == metav1.ConditionTrue) != (test.allowed > 0) {
				t.Errorf("conditions %+v", s.Conditions)
			}
		})
	}
}

// Who was let go does not count until it is seen to go, two minutes at most.
func TestDisruptedPods(t *testing.T) {
	pdb := budget(text("1"), nil)
	pdb.Status.DisruptedPods = map[string]metav1.Time{
		"fresh": metav1.NewTime(now.Add(-30 * time.Second)), "going": metav1.NewTime(now.Add(-30 * time.Second)),
		"gone": metav1.NewTime(now.Add(-30 * time.Second)), "stays": metav1.NewTime(now.Add(-2 * time.Minute)),
		"another": metav1.NewTime(now.Add(-30 * time.Second)),
	}
	made := func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Second)) }
	p, err := decide(pdb, []*corev1.Pod{
		pod("fresh", true), pod("going", true, leaving), pod("stays", true), pod("another", true, made), pod("p", true),
	}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.status.DisruptedPods) != 1 || p.status.DisruptedPods["fresh"] != pdb.Status.DisruptedPods["fresh"] || p.status.CurrentHealthy != 3 || p.requeueAfter != 90*time.Second {
		t.Errorf("status %+v, again in %s", p.status, p.requeueAfter)
	}
	if len(p.stayed) != 1 || p.stayed[0].Name != "stays" {
		t.Errorf("stayed %v", p.stayed)
	}
}

func TestAnnouncedEnds(t *testing.T) {
	announced := func(ago time.Duration, reason string) change {
		return func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(now.Add(-ago)),
			})
		}
	}
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	for name, test := range map[string]struct {
		pod       *corev1.Pod
		announced bool
		in        time.Duration
	}{
		"never":               {pod("p", true), false, 0},
		"just now":            {pod("p", true, announced(30*time.Second, "EvictionByEvictionAPI")), true, 90 * time.Second},
		"long ago":            {pod("p", true, announced(3*time.Minute, "EvictionByEvictionAPI")), true, 0},
		"it comes":            {pod("p", true, announced(3*time.Minute, "EvictionByEvictionAPI"), leaving), false, 0},
		"it came":             {pod("p", true, announced(3*time.Minute, "EvictionByEvictionAPI"), ended), false, 0},
		"the kubelet does it": {pod("p", true, announced(3*time.Minute, corev1.PodReasonTerminationByKubelet)), false, 0},
	} {
		if got, in := stale(test.pod, now); got != test.announced || in != test.in {
			t.Errorf("%s: %v, in %s", name, got, in)
		}
	}
}

// However evictions, deletions and this loop's looks interleave, as many pods are healthy
// as the budget says, if there were as many to begin with and no pod fails by itself.
func TestBudgetHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "pods")
		pdb := budget(text(fmt.Sprint(rapid.IntRange(0, n).Draw(t, "least"))), nil)
		all := map[string]*corev1.Pod{}
		next := 0
		add := func(ready bool) {
			name := fmt.Sprint("p", next)
			next++
			all[name] = pod(name, ready)
		}
		for range n {
			add(true)
		}
		// What the pod cache holds is one of the states that there were. It may be an old one
		// when another master takes over, but never older than the budget that it is held against.
		states, seen := []map[string]*corev1.Pod{{}}, 0
		seenPDB, asOf, seenAsOf := pdb, 0, 0 // the budget, its cache, and the states that were the newest then
		least := int32(pdb.Spec.MinAvailable.IntValue())
		healthyNow := func() (out int32) {
			for _, p := range all {
				if p.DeletionTimestamp == nil && p.Status.Conditions[0].Status == corev1.ConditionTrue {
					out++
				}
			}
			return out
		}
		any := func(t *rapid.T) *corev1.Pod {
			var names []string
			for i := range next {
				if name := fmt.Sprint("p", i); all[name] != nil {
					names = append(names, name)
				}
			}
			if len(names) == 0 {
				t.Skip()
			}
			return all[rapid.SampledFrom(names).Draw(t, "pod")]
		}
		write := func(changed *policyv1.PodDisruptionBudget) { pdb, asOf = changed, len(states)-1 }
		t.Repeat(map[string]func(*rapid.T){
			"":               func(*rapid.T) { states = append(states, maps.Clone(all)) },
			"pods are seen":  func(t *rapid.T) { seen = rapid.IntRange(seen, len(states)-1).Draw(t, "up to") },
			"all is seen":    func(*rapid.T) { seen, seenPDB, seenAsOf = len(states)-1, pdb, asOf },
			"budget is seen": func(*rapid.T) { seenPDB, seenAsOf = pdb, asOf },
			"another leads":  func(t *rapid.T) { seen = rapid.IntRange(0, seen).Draw(t, "from") },
			"loop looks": func(t *rapid.T) {
				if seen < seenAsOf {
					t.Skip() // it waits
				}
				list := slices.Collect(maps.Values(states[seen]))
				p, err := decide(seenPDB, list, nil, now)
				if err != nil {
					t.Fatal(err)
				}
				if seenPDB != pdb {
					return // a conflict: somebody wrote since
				}
				counted := pdb.DeepCopy()
				counted.Status = p.status
				write(counted)
			},
			"evict": func(t *rapid.T) { // as the apiserver does, in one commit
				p := any(t)
				if p.DeletionTimestamp != nil || p.Status.Conditions[0].Status != corev1.ConditionTrue {
					t.Skip()
				}
				if pdb.Status.ObservedGeneration < pdb.Generation || pdb.Status.DisruptionsAllowed <= 0 {
					return
				}
				taken := pdb.DeepCopy()
				taken.Status.DisruptionsAllowed--
				if taken.Status.DisruptedPods == nil {
					taken.Status.DisruptedPods = map[string]metav1.Time{}
				}
				taken.Status.DisruptedPods[p.Name] = metav1.NewTime(now)
				write(taken)
				gone := p.DeepCopy()
				gone.DeletionTimestamp = &metav1.Time{Time: now}
				all[p.Name] = gone
				if have := healthyNow(); have < least {
					t.Fatalf("%d pods are healthy, the budget wants %d", have, least)
				}
			},
			"pod is gone": func(t *rapid.T) {
				p := any(t)
				if p.DeletionTimestamp == nil {
					t.Skip()
				}
				delete(all, p.Name)
			},
			"pod is made": func(*rapid.T) { add(false) },
			"pod becomes ready": func(t *rapid.T) {
				p := any(t)
				if p.DeletionTimestamp != nil {
					t.Skip()
				}
				ready := p.DeepCopy()
				ready.Status.Conditions[0].Status = corev1.ConditionTrue
				all[p.Name] = ready
			},
		})
	})
}
