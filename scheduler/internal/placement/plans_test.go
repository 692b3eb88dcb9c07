package placement_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kijabi.dev/scheduler/internal/placement"
)

func ownedBy(owner string) podChange {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: ptr.To(true)}}
	}
}

// What is remembered of pods alike changes no decision, whatever comes and goes meanwhile.
func TestChooseIsDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := placement.NewCluster()
		nodes := func() string { return fmt.Sprintf("n%02d", rapid.IntRange(0, 11).Draw(t, "node")) }
		made := 0
		anyPod := func() *corev1.Pod {
			changes := []podChange{}
			if owner := rapid.IntRange(0, 3).Draw(t, "owner"); owner > 0 {
				changes = append(changes, ownedBy(fmt.Sprintf("o%d", owner)))
			}
			if amount := rapid.SampledFrom([]string{"", "100m", "700m"}).Draw(t, "cpu"); amount != "" {
				changes = append(changes, cpu(amount))
			}
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				changes = append(changes, port(80))
			case 1:
				changes = append(changes, selects("zone", "a"))
			case 2:
				changes = append(changes, tolerates("special"))
			case 3:
				changes = append(changes, prefers("zone", "b"))
			case 4:
				changes = append(changes, app("x"), spread("x"))
			case 5:
				changes = append(changes, app("y"), awayFrom("y"))
			}
			made++
			return pod(fmt.Sprintf("p%d", made), changes...)
		}
		var there []types.UID
		t.Repeat(map[string]func(*rapid.T){
			"node": func(*rapid.T) {
				changes := []nodeChange{label("zone", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone"))}
				if rapid.Bool().Draw(t, "tainted") {
					changes = append(changes, taint("special", corev1.TaintEffectNoSchedule))
				}
				c.SetNode(node(nodes(), changes...))
			},
			"no node": func(*rapid.T) { c.RemoveNode(nodes()) },
			"pod": func(*rapid.T) {
				p := anyPod()
				p.Spec.NodeName = nodes()
				c.SetPod(p)
				there = append(there, p.UID)
			},
			"no pod": func(*rapid.T) {
				if len(there) > 0 {
					c.RemovePod(rapid.SampledFrom(there).Draw(t, "gone"))
				}
			},
			"forget": func(*rapid.T) { c.ForgetAssumed() },
			"place": func(*rapid.T) {
				// As many that one owner has a plan of its own.
				template := anyPod()
				for i := range rapid.IntRange(1, 40).Draw(t, "times") {
					p := template.DeepCopy()
					p.Name = fmt.Sprintf("%s-%d", p.Name, i)
					p.UID = types.UID(p.Name)
					want, got := c.Decide(p), c.Choose(p)
					if got.Node != want.Node {
						t.Fatalf("chosen %q, decided %q for %+v", got.Node, want.Node, p.Spec)
					}
					if want.Node == "" {
						if got.Summary() != want.Summary() {
							t.Fatalf("%q, not %q", got.Summary(), want.Summary())
						}
						break
					}
					c.Assume(p, got.Node)
					there = append(there, p.UID)
				}
			},
		})
	})
}

// BenchmarkPlace places pods of one owner on 1,000 nodes.
func BenchmarkPlace(b *testing.B) {
	for name, place := range map[string]func(*placement.Cluster, *corev1.Pod) placement.Decision{
		"Choose": (*placement.Cluster).Choose, "Decide": (*placement.Cluster).Decide,
	} {
		b.Run(name, func(b *testing.B) {
			c := placement.NewCluster()
			for i := range 1000 {
				c.SetNode(node(fmt.Sprintf("n%04d", i)))
			}
			for i := 0; b.Loop(); i++ {
				p := pod(fmt.Sprintf("p%d", i%5000), ownedBy("web"))
				c.RemovePod(p.UID)
				c.Assume(p, place(c, p).Node)
			}
		})
	}
}
