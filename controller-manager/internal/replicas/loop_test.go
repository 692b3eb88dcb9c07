package replicas

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// committed is what the store holds at a version.
type committed struct {
	replicas   int32
	ownVersion int
	pods       map[string]*corev1.Pod
}

// sequel is a store, a cache that follows it, and the loop of one owner.
type sequel struct {
	states []committed // by version
	seen   int         // version of the cache
	need   int         // version that the cache must have before the loop looks again

	made    int // pods ever created
	reasons int // pods that were asked for, and those that had to be replaced
}

func (s *sequel) version() int   { return len(s.states) - 1 }
func (s *sequel) now() committed { return s.states[s.version()] }

// commit makes the next version.
func (s *sequel) commit(change func(next *committed, version string)) {
	next := s.now()
	next.pods = maps.Clone(next.pods)
	s.states = append(s.states, next)
	last := &s.states[s.version()]
	change(last, strconv.Itoa(s.version()))
}

// look decides on what the cache holds.
func (s *sequel) look() plan {
	state := s.states[s.seen]
	owner := set(state.replicas)
	owner.Object.(*appsv1.ReplicaSet).ResourceVersion = strconv.Itoa(state.ownVersion)
	pods := []*corev1.Pod{}
	for _, name := range slices.Sorted(maps.Keys(state.pods)) {
		pods = append(pods, state.pods[name])
	}
	return decide(owner, pods, nil, func(name string) bool { return state.pods[name] != nil }, now)
}

// create makes a pod as the apiserver does, unless its name is taken.
func (s *sequel) create(name string) {
	if s.now().pods[name] != nil {
		return
	}
	s.made++
	s.commit(func(next *committed, version string) {
		created := pod(name)
		created.ResourceVersion, created.UID = version, types.UID(version)
		next.pods[name] = created
	})
}

func (s *sequel) remove(old *corev1.Pod) {
	if have := s.now().pods[old.Name]; have == nil || have.UID != old.UID {
		return
	}
	s.change(old.Name, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} })
}

func (s *sequel) change(name string, change func(*corev1.Pod)) {
	s.commit(func(next *committed, version string) {
		changed := next.pods[name].DeepCopy()
		change(changed)
		changed.ResourceVersion = version
		next.pods[name] = changed
	})
}

// However late the cache is, whichever answers are lost and wherever the loop dies: no pod
// is ever made that was neither asked for nor replaces one, and in the end there are as
// many as asked for.
func TestNoPodTooMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Int32Range(0, 6).Draw(t, "replicas")
		s := &sequel{states: []committed{{replicas: first, pods: map[string]*corev1.Pod{}}}, reasons: int(first)}
		anyPod := func(t *rapid.T) *corev1.Pod {
			pods := s.now().pods
			if len(pods) == 0 {
				t.Skip()
			}
			return pods[rapid.SampledFrom(slices.Sorted(maps.Keys(pods))).Draw(t, "pod")]
		}
		active := func() (n int) {
			for _, p := range s.now().pods {
				if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed {
					n++
				}
			}
			return n
		}
		end := func(p *corev1.Pod, change func(*corev1.Pod)) {
			if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed {
				s.reasons++
			}
			s.change(p.Name, change)
		}
		reconcile := func(t *rapid.T, stopAfter int) {
			if s.seen < s.need {
				t.Skip() // the runtime waits for the loop's own writes
			}
			p := s.look()
			for i, name := range p.create {
				if i == stopAfter {
					break
				}
				s.create(name)
			}
			for i, old := range p.remove {
				if i == stopAfter {
					break
				}
				s.remove(old)
			}
			// Of a write whose answer was lost the runtime asks for the version of then, and
			// who begins anew lists.
			s.need = s.version()
		}
		t.Repeat(map[string]func(*rapid.T){
			"loop looks":         func(t *rapid.T) { reconcile(t, -1) },
			"loop dies half-way": func(t *rapid.T) { reconcile(t, rapid.IntRange(0, 4).Draw(t, "after")) },
			"cache follows": func(t *rapid.T) {
				if s.seen == s.version() {
					t.Skip()
				}
				s.seen = rapid.IntRange(s.seen+1, s.version()).Draw(t, "up to")
			},
			"pod changes": func(t *rapid.T) { s.change(anyPod(t).Name, func(*corev1.Pod) {}) },
			"pod fails":   func(t *rapid.T) { end(anyPod(t), failed) },
			"user deletes": func(t *rapid.T) {
				end(anyPod(t), deleting)
			},
			"pod is gone": func(t *rapid.T) {
				p := anyPod(t)
				if p.DeletionTimestamp == nil {
					t.Skip()
				}
				s.commit(func(next *committed, _ string) { delete(next.pods, p.Name) })
			},
			"user scales": func(t *rapid.T) {
				n := rapid.Int32Range(0, 8).Draw(t, "replicas")
				// Asked for more: they may be made. Asked for fewer, they may have to be made
				// again when more are asked for before they are gone.
				s.reasons += max(0, int(n-s.now().replicas))
				s.commit(func(next *committed, _ string) { next.replicas, next.ownVersion = n, s.version() })
			},
			"": func(t *rapid.T) {
				if s.made > s.reasons {
					t.Fatalf("%d pods were made for %d reasons", s.made, s.reasons)
				}
			},
		})
		for range 10 {
			s.seen = s.version()
			s.need = 0
			reconcile(t, -1)
		}
		if active() != int(s.now().replicas) {
			t.Fatalf("%d pods of %d", active(), s.now().replicas)
		}
	})
}

// The runtime's wait matters: names alone do not save a loop whose cache shows some of
// what came before its own write but not that.
func TestNamesFollowEveryChange(t *testing.T) {
	s := &sequel{states: []committed{{replicas: 2, pods: map[string]*corev1.Pod{}}}}
	s.create("web-old")
	s.seen = s.version()
	before := s.look().create
	s.change("web-old", func(*corev1.Pod) {})
	s.seen = s.version()
	if after := s.look().create; fmt.Sprint(before) == fmt.Sprint(after) {
		t.Errorf("%v after a change, too", after)
	}
}
