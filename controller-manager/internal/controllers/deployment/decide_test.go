package deployment

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
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

// plan decides on the world of now.
func (w *world) plan(t time.Time) plan {
	p, err := decide(w.d, w.list(), nil, t)
	if err != nil {
		panic(err) // the selector is a constant
	}
	return p
}

// step applies one decision and says whether it changed anything.
func (w *world) step() bool {
	p := w.plan(now)
	if p.create != nil {
		w.age++
		p.create.UID, p.create.Generation = types.UID(fmt.Sprint("set", w.age)), 1
		p.create.CreationTimestamp = metav1.NewTime(now.Add(time.Duration(w.age) * time.Second))
		w.sets[p.create.Name] = p.create
	}
	for _, set := range p.update {
		if replicas(set) != replicas(w.sets[set.Name]) {
			set.Generation++
		}
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
		set.Status.AvailableReplicas, set.Status.TerminatingReplicas = set.Status.ReadyReplicas, nil
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

func TestRecreateWaitsForOldPods(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	w.settle(t)
	w.d.Spec.Template.Spec.Containers[0].Image = "two"
	old := w.list()[0].Name
	w.step()
	wait := func(why string) {
		t.Helper()
		if w.step(); len(w.sets) != 1 || replicas(w.sets[old]) != 0 {
			t.Errorf("%s: %d sets, the old one asks for %d", why, len(w.sets), replicas(w.sets[old]))
		}
	}
	wait("the old set has not seen its size")
	w.sets[old].Status.ObservedGeneration = w.sets[old].Generation
	wait("the old set still counts pods")
	w.sets[old].Status = appsv1.ReplicaSetStatus{ObservedGeneration: w.sets[old].Generation, TerminatingReplicas: ptr.To[int32](1)}
	wait("an old pod is on its way out")
	w.settle(t)
	if len(w.sets) != 2 {
		t.Errorf("%d sets", len(w.sets))
	}
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
	// While a rollout is under way nothing goes: it may be taken back.
	w.d.Spec.Template.Spec.Containers[0].Image = "next"
	w.step()
	w.run(0)
	for range 5 {
		w.step()
	}
	if len(w.sets) != 4 {
		t.Errorf("%d sets during a rollout, want 4", len(w.sets))
	}
}

func TestProgressDeadline(t *testing.T) {
	w := newWorld(deployment(1, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.step()
	w.run(0)
	w.step()
	p := w.plan(now.Add(599 * time.Second))
	if c := condition(p.status.Conditions, appsv1.DeploymentProgressing); c.Status != corev1.ConditionTrue || p.requeueAfter <= 0 {
		t.Errorf("before the deadline: %+v, again in %s", c, p.requeueAfter)
	}
	p = w.plan(now.Add(601 * time.Second))
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

// Rolling back keeps which revisions a set was, and the reason of the change follows the set.
func TestRevisionsAndTheirHistory(t *testing.T) {
	w := newWorld(deployment(1, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	change := func(image, cause string) {
		w.d.Spec.Template.Spec.Containers[0].Image = image
		if w.d.Annotations == nil {
			w.d.Annotations = map[string]string{}
		}
		w.d.Annotations["kubernetes.io/change-cause"] = cause
		w.settle(t)
		w.step()
	}
	change("one", "first")
	change("two", "second")
	change("one", "back")
	change("two", "forth")
	change("one", "back again")
	have := map[string]string{}
	for _, set := range w.sets {
		a := set.Annotations
		have[set.Spec.Template.Spec.Containers[0].Image] = a[annotationRevision] + " " + a[annotationHistory] + " " + a["kubernetes.io/change-cause"]
	}
	if have["one"] != "5 1,3 back again" || have["two"] != "4 2 forth" {
		t.Errorf("revisions %v", have)
	}
	if long := history(strings.Repeat("1234567,", 249)+"1234567", "9"); len(long) > historyBytes || !strings.HasSuffix(long, ",9") {
		t.Errorf("history of %d bytes ends in %s", len(long), long[len(long)-9:])
	}
}

func sizesOf(w *world) string {
	out := []string{}
	for _, set := range w.sets {
		out = append(out, fmt.Sprintf("%s:%d", set.Spec.Template.Spec.Containers[0].Image, replicas(set)))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// A change of size in the middle of a rollout goes to all sets in proportion.
func TestScalingDuringARollout(t *testing.T) {
	for name, test := range map[string]struct {
		paused, scale int32
		want          string
	}{
		"up":         {scale: 15, want: "one:11 two:7"},
		"down":       {scale: 5, want: "one:5 two:3"},
		"to nothing": {scale: 0, want: "one:0 two:0"},
		"paused":     {paused: 1, scale: 20, want: "one:14 two:9"},
	} {
		t.Run(name, func(t *testing.T) {
			// The example of Kubernetes' documentation: 10 pods, 3 more, 2 fewer.
			w := newWorld(deployment(10, "one", intstr.FromInt32(3), intstr.FromInt32(2)))
			w.settle(t)
			w.d.Spec.Template.Spec.Containers[0].Image = "two"
			for range 6 { // the new pods never become available
				w.step()
				for _, set := range w.sets {
					n := replicas(set)
					set.Status = appsv1.ReplicaSetStatus{Replicas: n, ObservedGeneration: set.Generation}
					if set.Spec.Template.Spec.Containers[0].Image == "one" {
						set.Status.AvailableReplicas = n
					}
				}
			}
			if have := sizesOf(w); have != "one:8 two:5" {
				t.Fatalf("stuck at %s", have)
			}
			w.d.Spec.Paused = test.paused != 0
			w.d.Spec.Replicas = &test.scale
			w.step()
			if have := sizesOf(w); have != test.want {
				t.Errorf("scaled to %s, want %s", have, test.want)
			}
		})
	}
}

func TestLeftoversGoToTheLargest(t *testing.T) {
	set := func(name string, size int32, age time.Duration) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Annotations: map[string]string{annotationMax: "12", annotationDesired: "12"},
				CreationTimestamp: metav1.NewTime(now.Add(-age)), Labels: map[string]string{"app": "web"},
			},
			Spec:   appsv1.ReplicaSetSpec{Replicas: &size, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: name}}}}},
			Status: appsv1.ReplicaSetStatus{Replicas: size},
		}
	}
	for name, test := range map[string]struct {
		sizes [3]int32 // oldest first
		to    int32
		want  [3]int32
	}{
		"the largest":               {[3]int32{5, 4, 3}, 13, [3]int32{6, 4, 3}},
		"the newest of equal ones":  {[3]int32{4, 4, 4}, 13, [3]int32{4, 4, 5}},
		"from the oldest of those":  {[3]int32{4, 4, 4}, 11, [3]int32{3, 4, 4}},
		"nothing for those without": {[3]int32{6, 0, 6}, 24, [3]int32{12, 0, 12}},
	} {
		t.Run(name, func(t *testing.T) {
			d := deployment(test.to, "new", intstr.FromInt32(0), intstr.FromInt32(1))
			sets := []*appsv1.ReplicaSet{set("a", test.sizes[0], 3*time.Hour), set("b", test.sizes[1], 2*time.Hour), set("c", test.sizes[2], time.Hour)}
			p, err := decide(d, sets, nil, now)
			if err != nil {
				t.Fatal(err)
			}
			have := test.sizes
			for _, updated := range p.update {
				have[updated.Name[0]-'a'] = replicas(updated)
			}
			if have != test.want {
				t.Errorf("%v became %v, want %v", test.sizes, have, test.want)
			}
			if p.create != nil {
				t.Error("a set was made while the size changed")
			}
		})
	}
}

func TestSetsChangeHands(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.settle(t)
	mine := w.list()[0]
	mine.Labels = map[string]string{"app": "other"}
	free := mine.DeepCopy()
	free.Name, free.Labels = "free", map[string]string{"app": "web", "more": "labels"}
	leaving := free.DeepCopy()
	leaving.Name, leaving.DeletionTimestamp = "leaving", &metav1.Time{Time: now}
	p, err := decide(w.d, []*appsv1.ReplicaSet{mine}, []*appsv1.ReplicaSet{free, leaving}, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.adopt) != 1 || p.adopt[0] != free || len(p.release) != 1 || p.release[0] != mine || p.create != nil || len(p.update) > 0 {
		t.Errorf("plan %+v", p)
	}
	w.d.DeletionTimestamp = &metav1.Time{Time: now}
	if p, err = decide(w.d, []*appsv1.ReplicaSet{mine}, []*appsv1.ReplicaSet{free}, now); err != nil || len(p.adopt)+len(p.release) > 0 {
		t.Errorf("while it is deleted: %+v, %v", p, err)
	}
}

func TestProgressCondition(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	progressing := func() string {
		c := condition(w.d.Status.Conditions, appsv1.DeploymentProgressing)
		if c == nil {
			return "none"
		}
		return string(c.Status) + " " + c.Reason
	}
	is := func(want string) {
		t.Helper()
		if have := progressing(); have != want {
			t.Errorf("Progressing is %s, want %s", have, want)
		}
	}
	w.step()
	is("True NewReplicaSetCreated")
	w.run(1)
	w.step()
	is("True ReplicaSetUpdated")
	w.settle(t)
	is("True NewReplicaSetAvailable")
	// A pod that is lost later is no failure of the rollout.
	w.run(1)
	w.d.Status = w.plan(now.Add(time.Hour)).status
	is("True NewReplicaSetAvailable")
	w.d.Spec.Paused = true
	w.step()
	is("Unknown DeploymentPaused")
	if p := w.plan(now.Add(time.Hour)); p.requeueAfter != 0 {
		t.Error("a paused deployment has a deadline")
	}
	w.d.Spec.Paused = false
	w.step()
	is("Unknown DeploymentResumed")
	w.settle(t)
	w.step()
	is("True NewReplicaSetAvailable")
	w.d.Spec.ProgressDeadlineSeconds = ptr.To[int32](math.MaxInt32)
	w.step()
	is("none")
	w.d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
	w.run(0)
	w.step()
	is("True FoundNewReplicaSet")
	w.d.Status = w.plan(now.Add(601 * time.Second)).status
	is("False ProgressDeadlineExceeded")
	w.d.Spec.Paused = true
	w.step()
	is("False ProgressDeadlineExceeded")
}

func TestFailuresOfSetsAreShown(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.settle(t)
	set := w.list()[0]
	set.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	set.Status.TerminatingReplicas = ptr.To[int32](3)
	w.step()
	c := condition(w.d.Status.Conditions, appsv1.DeploymentReplicaFailure)
	if c == nil || c.Reason != "FailedCreate" || c.Message != "quota" || ptr.Deref(w.d.Status.TerminatingReplicas, 0) != 3 {
		t.Errorf("status %+v", w.d.Status)
	}
	w.list()[0].Status.Conditions = nil
	if w.step(); condition(w.d.Status.Conditions, appsv1.DeploymentReplicaFailure) != nil {
		t.Error("the failure stays")
	}
}
