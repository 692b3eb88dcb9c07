package disruption

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

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
		anyPod := func(t *rapid.T) *corev1.Pod {
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
				p := anyPod(t)
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
				p := anyPod(t)
				if p.DeletionTimestamp == nil {
					t.Skip()
				}
				delete(all, p.Name)
			},
			"pod is made": func(*rapid.T) { add(false) },
			"pod becomes ready": func(t *rapid.T) {
				p := anyPod(t)
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
