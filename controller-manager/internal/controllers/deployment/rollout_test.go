package deployment

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// simulated is a cluster with one Deployment. Its ReplicaSet loop acts by itself, later than
// the Deployment's and in steps that may come apart: it makes and removes pods for the
// size it saw, and reports what it counted before, some time.
type simulated struct {
	d    *appsv1.Deployment
	sets map[string]*set
	next int
	now  time.Time

	// most is how many pods there may be. It falls to what the present size allows once
	// everybody has seen that.
	most int32
	// lost counts available pods that the world took since the sets' loops and the
	// Deployment's knew all: decisions on what was known then may cost as many again.
	lost int32
	// settled says that there have been enough available pods since the size was changed.
	settled bool
	least   int32
}

// set is a ReplicaSet with its pods.
type set struct {
	*appsv1.ReplicaSet

	seen int32 // the size its loop acts on
	gen  int64 // the generation of that
	pods []*pod
}

type pod struct{ available, terminating bool }

func (s *set) active() (active, available int32) {
	for _, p := range s.pods {
		if !p.terminating {
			active++
			if p.available {
				available++
			}
		}
	}
	return active, available
}

func (c *simulated) names() []string { return slices.Sorted(maps.Keys(c.sets)) }

func (c *simulated) count() (active, available int32) {
	for _, s := range c.sets {
		a, v := s.active()
		active, available = active+a, available+v
	}
	return active, available
}

// allowed is what the present spec allows.
func (c *simulated) allowed() (most, least int32) {
	if c.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return deploymentReplicas(c.d), 0
	}
	surge, unavailable := limits(c.d)
	return deploymentReplicas(c.d) + surge, deploymentReplicas(c.d) - unavailable
}

// synced says whether the world is as all statuses say.
func (c *simulated) synced() bool {
	for _, s := range c.sets {
		active, available := s.active()
		if s.seen != replicas(s.ReplicaSet) || s.Status.Replicas != active || s.Status.AvailableReplicas != available || !observed(s.ReplicaSet) {
			return false
		}
		if desired, ok := number(s.ReplicaSet, annotationDesired); ok && replicas(s.ReplicaSet) > 0 && desired != deploymentReplicas(c.d) {
			return false
		}
	}
	return true
}

// deploy is a step of the Deployment's loop. Each of its writes may be refused.
func (c *simulated) deploy(t *rapid.T, refused func() bool) {
	var sets []*appsv1.ReplicaSet
	for _, name := range c.names() {
		sets = append(sets, c.sets[name].ReplicaSet)
	}
	if c.synced() {
		c.lost = 0
		most, least := c.allowed()
		active, available := c.count()
		c.most = max(most, active)
		if c.least != least || !c.settled {
			c.settled, c.least = available >= least, least
		}
	}
	p, err := decide(c.d, sets, nil, c.now)
	if err != nil {
		t.Fatal(err)
	}
	failed := false
	for _, updated := range p.update {
		if refused() {
			failed = true
			continue
		}
		s := c.sets[updated.Name]
		if replicas(updated) != replicas(s.ReplicaSet) {
			updated.Generation++
		}
		s.ReplicaSet = updated
	}
	for _, gone := range p.remove {
		s := c.sets[gone.Name]
		if sameTemplate(&gone.Spec.Template, &c.d.Spec.Template) || len(s.pods) > 0 {
			t.Fatalf("set %s of a live revision was removed", gone.Name)
		}
		delete(c.sets, gone.Name)
	}
	if failed {
		return
	}
	if p.create != nil {
		if refused() {
			return
		}
		if c.sets[p.create.Name] != nil {
			t.Fatalf("set %s made twice", p.create.Name)
		}
		c.next++
		p.create.UID, p.create.Generation = types.UID(fmt.Sprint("set", c.next)), 1
		p.create.CreationTimestamp = metav1.NewTime(c.now.Add(time.Duration(c.next) * time.Second))
		c.sets[p.create.Name] = &set{ReplicaSet: p.create}
	}
	if p.revision != "" {
		c.d.Annotations = map[string]string{annotationRevision: p.revision}
	}
	c.d.Status = p.status
}

// read lets a set's loop see the size that the set asks for now.
func (c *simulated) read(s *set) { s.seen, s.gen = replicas(s.ReplicaSet), s.Generation }

// act lets a set's loop make or remove pods for the size it has seen, or report: as long as
// it has something to do for a new generation it does not report that one.
func (c *simulated) act(t *rapid.T, s *set) {
	active, available := s.active()
	switch diff := s.seen - active; {
	case diff > 0:
		for range diff {
			s.pods = append(s.pods, &pod{})
		}
		if all, _ := c.count(); all > c.most {
			t.Fatalf("%d pods, at most %d are allowed", all, c.most)
		}
		return
	case diff < 0:
		slices.SortStableFunc(s.pods, func(a, b *pod) int { // those that are not available go first
			if a.available == b.available {
				return 0
			}
			if b.available {
				return -1
			}
			return 1
		})
		for _, p := range s.pods {
			if diff < 0 && !p.terminating {
				p.terminating = true
				diff++
			}
		}
		_, left := s.active()
		if _, all := c.count(); left < available && c.settled && all < c.least-c.lost {
			t.Fatalf("%d available pods left, at least %d are wanted and %d were lost", all, c.least, c.lost)
		}
		return
	}
	s.Status.Replicas, s.Status.AvailableReplicas, s.Status.ReadyReplicas = active, available, available
	s.Status.TerminatingReplicas = ptr.To(int32(len(s.pods)) - active)
	s.Status.ObservedGeneration = s.gen
}

// settle lets everything go well, and says whether the rollout ends.
func (c *simulated) settle(t *rapid.T) {
	for range 400 {
		for _, name := range c.names() {
			s := c.sets[name]
			c.read(s)
			c.act(t, s)
			s.pods = slices.DeleteFunc(s.pods, func(p *pod) bool { return p.terminating })
			for _, p := range s.pods {
				p.available = true
			}
		}
		c.deploy(t, func() bool { return false })
		if c.synced() && complete(c.d, &c.d.Status) {
			return
		}
	}
	for name, s := range c.sets {
		t.Logf("%s: %d, generation %d, %d pods, status %+v", name, replicas(s.ReplicaSet), s.Generation, len(s.pods), s.Status)
	}
	t.Fatalf("does not settle: %+v, status %+v", c.d.Spec, c.d.Status)
}

// Whatever users do and however the two loops and the pods follow: there are never more
// pods than maxSurge allows, the loops take no available ones beyond maxUnavailable, no set
// of a live revision goes, and it all ends with the pods that were asked for.
func TestRollouts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := func(least, most int32, what string) intstr.IntOrString {
			if rapid.Bool().Draw(t, what+" in percent") {
				return intstr.FromString(fmt.Sprintf("%d%%", rapid.IntRange(int(least)*10, 100).Draw(t, what)))
			}
			return intstr.FromInt32(rapid.Int32Range(least, most).Draw(t, what))
		}
		d := deployment(rapid.Int32Range(1, 12).Draw(t, "replicas"), "image0", number(0, 4, "surge"), number(0, 4, "unavailable"))
		if rapid.IntRange(0, 4).Draw(t, "strategy") == 0 {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}
		c := &simulated{d: d, sets: map[string]*set{}, now: now}
		c.most, _ = c.allowed()
		c.settle(t)
		recreating := func() bool { return d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType }
		anySet := func(t *rapid.T) *set {
			if len(c.sets) == 0 {
				t.Skip()
			}
			return c.sets[rapid.SampledFrom(c.names()).Draw(t, "set")]
		}
		anyPod := func(t *rapid.T) *pod {
			s := anySet(t)
			if len(s.pods) == 0 {
				t.Skip()
			}
			return rapid.SampledFrom(s.pods).Draw(t, "pod")
		}
		spec := func(change func()) {
			change()
			d.Generation++
			most, least := c.allowed()
			c.most, c.least = max(c.most, most), min(c.least, least)
		}
		t.Repeat(map[string]func(*rapid.T){
			"deployment looks": func(t *rapid.T) { c.deploy(t, func() bool { return rapid.IntRange(0, 5).Draw(t, "refused") == 0 }) },
			"set is read":      func(t *rapid.T) { c.read(anySet(t)) },
			"set acts":         func(t *rapid.T) { c.act(t, anySet(t)) },
			"all sets act": func(t *rapid.T) {
				for _, name := range c.names() {
					c.read(c.sets[name])
					c.act(t, c.sets[name])
					c.act(t, c.sets[name])
				}
			},
			"pod becomes available": func(t *rapid.T) { anyPod(t).available = true },
			"all pods become available": func(*rapid.T) {
				for _, s := range c.sets {
					for _, p := range s.pods {
						p.available = true
					}
				}
			},
			"pod is lost": func(t *rapid.T) {
				p := anyPod(t)
				if p.available && !p.terminating {
					c.lost++
				}
				p.available = false
			},
			"pods end": func(t *rapid.T) {
				s := anySet(t)
				s.pods = slices.DeleteFunc(s.pods, func(p *pod) bool { return p.terminating })
			},
			"new image": func(t *rapid.T) {
				spec(func() {
					d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("image", rapid.IntRange(0, 4).Draw(t, "image"))
				})
			},
			"new size": func(t *rapid.T) {
				spec(func() { d.Spec.Replicas = ptr.To(rapid.Int32Range(0, 14).Draw(t, "size")) })
			},
			"pause or resume": func(*rapid.T) { spec(func() { d.Spec.Paused = !d.Spec.Paused }) },
			"": func(t *rapid.T) {
				images := map[string]bool{}
				for _, s := range c.sets {
					for range s.pods {
						images[s.Spec.Template.Spec.Containers[0].Image] = true
					}
				}
				if recreating() && len(images) > 1 {
					t.Fatalf("pods of %v at once", images)
				}
			},
		})
		d.Spec.Paused = false
		c.settle(t)
		active, available := c.count()
		if active != deploymentReplicas(d) || available != active {
			t.Fatalf("%d pods, %d available, of %d", active, available, deploymentReplicas(d))
		}
		for _, s := range c.sets {
			if n, _ := s.active(); n > 0 && !sameTemplate(&s.Spec.Template, &d.Spec.Template) {
				t.Fatalf("%d pods of %s", n, s.Name)
			}
		}
		for range 3 { // until no set counts terminating pods any more
			c.settle(t)
		}
		if old := len(c.sets) - 1; old > int(*d.Spec.RevisionHistoryLimit) {
			t.Fatalf("%d old sets", old)
		}
	})
}

// A set that was shrunk before its loop has made the pods of its former size may still be
// making them: nothing grows in their place until the loop has seen the new size.
func TestNothingGrowsIntoTheUnknown(t *testing.T) {
	w := newWorld(deployment(4, "one", intstr.FromInt32(2), intstr.FromInt32(0)))
	w.settle(t)
	find := func(image string) *appsv1.ReplicaSet {
		for _, set := range w.sets {
			if set.Spec.Template.Spec.Containers[0].Image == image {
				return set
			}
		}
		return nil
	}
	w.d.Spec.Template.Spec.Containers[0].Image = "two"
	w.step() // the second set asks for two pods; its loop reads that and is slow
	w.d.Spec.Template.Spec.Containers[0].Image = "three"
	for range 4 {
		w.step()
	}
	if two, three := find("two"), find("three"); replicas(two) != 0 || replicas(three) != 0 {
		t.Fatalf("the second set asks for %d, the third for %d", replicas(two), replicas(three))
	}
	two := find("two")
	two.Status.ObservedGeneration = two.Generation
	find("three").Status.ObservedGeneration = 1
	w.step()
	if three := find("three"); replicas(three) != 2 {
		t.Errorf("the third set asks for %d when there is room for 2", replicas(three))
	}

	// Nor does a change of size spread into room that pods on their way out still take.
	w.run(1 << 20)
	find("one").Status.Replicas += 3
	w.d.Spec.Replicas = ptr.To[int32](6)
	w.step()
	if asked := sum(w.list(), present); asked > 9 {
		t.Errorf("there may be %d pods", asked)
	}
	if asked := sum(w.list(), replicas); asked != 6 {
		t.Errorf("%d pods asked for", asked)
	}
}
