package deployment

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func deployment(replicas int32, image string, surge, unavailable intstr.IntOrString) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "deployment", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
			},
			Template:                corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}},
			ProgressDeadlineSeconds: ptr.To[int32](600), RevisionHistoryLimit: ptr.To[int32](2),
		},
	}
}

// world is a Deployment with its sets, moved on step by step as the loops would.
type world struct {
	d    *appsv1.Deployment
	sets map[string]*appsv1.ReplicaSet
	age  int
}

func newWorld(d *appsv1.Deployment) *world {
	return &world{d: d, sets: map[string]*appsv1.ReplicaSet{}}
}

func (w *world) list() []*appsv1.ReplicaSet {
	return slices.Collect(maps.Values(w.sets))
}

// step applies one decision and says whether it changed anything.
func (w *world) step() bool {
	p := decide(w.d, w.list(), now)
	if p.create != nil {
		w.age++
		p.create.UID = types.UID(fmt.Sprint("set", w.age))
		p.create.CreationTimestamp = metav1.NewTime(now.Add(time.Duration(w.age) * time.Second))
		w.sets[p.create.Name] = p.create
	}
	for _, set := range p.update {
		w.sets[set.Name] = set
	}
	for _, set := range p.remove {
		delete(w.sets, set.Name)
	}
	if p.revision != "" {
		if w.d.Annotations == nil {
			w.d.Annotations = map[string]string{}
		}
		w.d.Annotations[annotationRevision] = p.revision
	}
	w.d.Status = p.status
	return p.create != nil || len(p.update) > 0 || len(p.remove) > 0
}

// run makes pods exist and, up to limit, available, as the ReplicaSet loop and nodes would.
func (w *world) run(limit int32) {
	for _, set := range w.sets {
		set.Status.Replicas = replicas(set)
		set.Status.ReadyReplicas = min(set.Status.Replicas, limit)
		set.Status.AvailableReplicas = set.Status.ReadyReplicas
		set.Status.ObservedGeneration = set.Generation
	}
}

func (w *world) settle(t interface{ Fatal(...any) }) {
	for range 200 {
		changed := w.step()
		w.run(1 << 20)
		if !changed && complete(w.d, &w.d.Status) {
			return
		}
	}
	t.Fatal("does not settle")
}

func TestRolloutEndsWithNewPodsOnly(t *testing.T) {
	w := newWorld(deployment(4, "one", intstr.FromString("25%"), intstr.FromString("25%")))
	w.settle(t)
	if len(w.sets) != 1 || w.d.Annotations[annotationRevision] != "1" {
		t.Fatalf("sets %v, annotations %v", w.sets, w.d.Annotations)
	}
	w.d.Spec.Template.Spec.Containers[0].Image = "two"
	w.settle(t)
	for _, set := range w.sets {
		want := int32(0)
		if set.Spec.Template.Spec.Containers[0].Image == "two" {
			want = 4
		}
		if replicas(set) != want {
			t.Errorf("set of image %s has %d replicas, want %d", set.Spec.Template.Spec.Containers[0].Image, replicas(set), want)
		}
	}
	if w.d.Annotations[annotationRevision] != "2" {
		t.Errorf("revision %s", w.d.Annotations[annotationRevision])
	}

	// Rolling back brings the first set to life again, under a new revision.
	w.d.Spec.Template.Spec.Containers[0].Image = "one"
	w.settle(t)
	if len(w.sets) != 2 || w.d.Annotations[annotationRevision] != "3" {
		t.Errorf("%d sets, revision %s", len(w.sets), w.d.Annotations[annotationRevision])
	}
}

// Whatever the numbers and however far pods have got, a rollout never has more pods
// than maxSurge allows nor takes away available ones beyond maxUnavailable.
func TestRolloutKeepsItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int32Range(1, 12).Draw(t, "replicas")
		surge := rapid.Int32Range(0, 4).Draw(t, "surge")
		unavailable := rapid.Int32Range(0, 4).Draw(t, "unavailable")
		w := newWorld(deployment(total, "one", intstr.FromInt32(surge), intstr.FromInt32(unavailable)))
		w.settle(t)
		maxSurge, maxUnavailable := limits(w.d)
		for round := range rapid.IntRange(1, 3).Draw(t, "rollouts") {
			w.d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("image", round)
			for range rapid.IntRange(1, 20).Draw(t, "steps") {
				availableBefore := sum(w.list(), func(s *appsv1.ReplicaSet) int32 { return min(s.Status.AvailableReplicas, replicas(s)) })
				w.step()
				asked := sum(w.list(), replicas)
				if asked > total+maxSurge {
					t.Fatalf("%d pods asked for, at most %d+%d allowed", asked, total, maxSurge)
				}
				kept := sum(w.list(), func(s *appsv1.ReplicaSet) int32 { return min(s.Status.AvailableReplicas, replicas(s)) })
				if kept < min(availableBefore, total-maxUnavailable) {
					t.Fatalf("%d available pods kept of %d, at least %d-%d wanted", kept, availableBefore, total, maxUnavailable)
				}
				w.run(rapid.Int32Range(0, 12).Draw(t, "available"))
			}
			w.settle(t)
		}
	})
}

func TestRecreateWaitsForOldPods(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	w.settle(t)
	w.d.Spec.Template.Spec.Containers[0].Image = "two"
	w.step() // old set to zero, new set with none; the old pods still stop
	for _, set := range w.sets {
		if replicas(set) != 0 {
			t.Errorf("set of image %s asks for %d", set.Spec.Template.Spec.Containers[0].Image, replicas(set))
		}
	}
	w.step()
	if got := sum(w.list(), replicas); got != 0 {
		t.Errorf("%d pods asked for while old ones stop", got)
	}
	w.settle(t)
}

func TestHistoryIsLimited(t *testing.T) {
	w := newWorld(deployment(1, "zero", intstr.FromInt32(1), intstr.FromInt32(0)))
	for i := range 5 {
		w.d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("image", i)
		w.settle(t)
	}
	w.step()
	if len(w.sets) != 3 {
		t.Errorf("%d sets, want the current one and 2 old ones", len(w.sets))
	}
}

func TestProgressDeadline(t *testing.T) {
	w := newWorld(deployment(1, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.step()
	w.run(0)
	w.step()
	p := decide(w.d, w.list(), now.Add(599*time.Second))
	if c := condition(p.status.Conditions, appsv1.DeploymentProgressing); c.Status != corev1.ConditionTrue || p.requeueAfter <= 0 {
		t.Errorf("before the deadline: %+v, again in %s", c, p.requeueAfter)
	}
	p = decide(w.d, w.list(), now.Add(601*time.Second))
	if c := condition(p.status.Conditions, appsv1.DeploymentProgressing); c.Status != corev1.ConditionFalse || c.Reason != reasonTimedOut {
		t.Errorf("after the deadline: %+v", c)
	}
}

func TestPausedScalesWithoutRolling(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.settle(t)
	w.d.Spec.Paused = true
	w.d.Spec.Template.Spec.Containers[0].Image = "two"
	w.d.Spec.Replicas = ptr.To[int32](5)
	w.step()
	if len(w.sets) != 1 || sum(w.list(), replicas) != 5 {
		t.Errorf("%d sets, %d replicas", len(w.sets), sum(w.list(), replicas))
	}
}
