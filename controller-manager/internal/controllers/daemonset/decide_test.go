package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podset"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

const fresh, stale = "new", "old" // hashes

func set(changes ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	s := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: "agent", UID: "set", ResourceVersion: "10", Generation: 3,
			Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "2"},
		},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "agent"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "image:1"}}},
			},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(1)), MaxSurge: ptr.To(intstr.FromInt32(0))},
			},
		},
	}
	for _, c := range changes {
		c(s)
	}
	return s
}

func unavailable(n int32) func(*appsv1.DaemonSet) {
	return func(s *appsv1.DaemonSet) {
		s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(n))
	}
}

func surge(n int32) func(*appsv1.DaemonSet) {
	return func(s *appsv1.DaemonSet) {
		s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(0))
		s.Spec.UpdateStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(n))
	}
}

func onDelete(s *appsv1.DaemonSet) {
	s.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
}

func minReady(seconds int32) func(*appsv1.DaemonSet) {
	return func(s *appsv1.DaemonSet) { s.Spec.MinReadySeconds = seconds }
}

func leaving(s *appsv1.DaemonSet) { s.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }

// pod is one that has been ready for an hour. Its node is what stands before the first dash.
func pod(name, hash string, changes ...func(*corev1.Pod)) *corev1.Pod {
	node, _, _ := strings.Cut(name, "-")
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
			Labels: map[string]string{"app": "agent", appsv1.DefaultDaemonSetUniqueLabelKey: hash},
		},
		Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
		}},
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

func unready(p *corev1.Pod)  { p.Status.Conditions = nil }
func failed(p *corev1.Pod)   { p.Status.Phase = corev1.PodFailed }
func deleting(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }

func young(p *corev1.Pod) {
	p.CreationTimestamp = metav1.NewTime(now.Add(-4 * time.Second))
	for i := range p.Status.Conditions {
		p.Status.Conditions[i].LastTransitionTime = p.CreationTimestamp
	}
}

// unbound waits for the scheduler to bind it to its node.
func unbound(p *corev1.Pod) {
	made, err := newPod(set(), p.Name, p.Spec.NodeName, fresh)
	if err != nil {
		panic(err)
	}
	p.Spec, p.Status = made.Spec, corev1.PodStatus{Phase: corev1.PodPending}
}

var (
	runs    = verdict{run: true, stay: true}
	stays   = verdict{stay: true}
	refuses = verdict{}
)

func seats(verdicts ...verdict) []seat {
	out := make([]seat, len(verdicts))
	for i, v := range verdicts {
		out[i] = seat{fmt.Sprintf("n%d", i), v}
	}
	return out
}

func worldOf(s *appsv1.DaemonSet, seats []seat, pods ...*corev1.Pod) world {
	return world{
		set: s, seats: seats, hash: fresh, now: now,
		pods:  podset.Claimed(s, labels.SelectorFromSet(s.Spec.Selector.MatchLabels), pods, nil),
		pause: func(string) time.Duration { return 0 },
		taken: func(name string) bool {
			return slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Name == name })
		},
	}
}

func names(pods []*corev1.Pod, of func(*corev1.Pod) string) string {
	var out []string
	for _, p := range pods {
		out = append(out, of(p))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func nameOf(p *corev1.Pod) string { return p.Name }

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		set    *appsv1.DaemonSet
		seats  []seat
		pods   []*corev1.Pod
		create string // nodes
		remove string // pods
	}{
		"a pod on each node":                   {seats: seats(runs, runs), create: "n0 n1"},
		"not where it may not come":            {seats: seats(runs, stays, refuses), create: "n0"},
		"one that is there may stay":           {seats: seats(stays), pods: []*corev1.Pod{pod("n0-a", fresh)}},
		"or not":                               {seats: seats(refuses), pods: []*corev1.Pod{pod("n0-a", fresh)}, remove: "n0-a"},
		"no second one":                        {seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", fresh, unready)}},
		"nor beside one that ends":             {seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", fresh, deleting)}},
		"nor beside one that waits":            {seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", fresh, unbound)}},
		"the oldest of several":                {seats: seats(runs), pods: []*corev1.Pod{pod("n0-b", fresh, young), pod("n0-c", fresh), pod("n0-a", fresh, unbound)}, remove: "n0-a n0-b"},
		"a failed one is replaced":             {seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", fresh, failed)}, remove: "n0-a"},
		"none waits for a node that is gone":   {seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", fresh), pod("n7-a", fresh, unbound), pod("n8-a", fresh)}, remove: "n7-a"},
		"a set on its way out":                 {set: set(leaving), seats: seats(runs, refuses), pods: []*corev1.Pod{pod("n1-a", stale)}},
		"update: one after the other":          {seats: seats(runs, runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", stale), pod("n2-a", fresh)}, remove: "n0-a"},
		"update: not while one is down":        {seats: seats(runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", fresh, unready)}},
		"update: nor while one ends":           {seats: seats(runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", stale, deleting)}},
		"update: nor until a node has its pod": {seats: seats(runs, runs), pods: []*corev1.Pod{pod("n0-a", stale)}, create: "n1"},
		"update: broken ones at once":          {seats: seats(runs, runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", stale, unready), pod("n2-a", stale, unready)}, remove: "n1-a n2-a"},
		"update: as many as allowed":           {set: set(unavailable(2)), seats: seats(runs, runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", stale), pod("n2-a", stale)}, remove: "n0-a n1-a"},
		"update: a node where it only stays":   {seats: seats(stays), pods: []*corev1.Pod{pod("n0-a", stale)}, remove: "n0-a"},
		"update: by hand":                      {set: set(onDelete), seats: seats(runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", stale, unready)}},
		"surge: one beside":                    {set: set(surge(1)), seats: seats(runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", stale)}, create: "n0"},
		"surge: not two nodes at once":         {set: set(surge(1)), seats: seats(runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n0-b", fresh, unready), pod("n1-a", stale)}},
		"surge: the old goes when it can":      {set: set(surge(1)), seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n0-b", fresh)}, remove: "n0-a"},
		"surge: or serves no longer":           {set: set(surge(1)), seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", stale, unready), pod("n0-b", fresh, unready)}, remove: "n0-a"},
		"surge: where no new one may come":     {set: set(surge(1)), seats: seats(stays, stays), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", stale, unready)}, remove: "n1-a"},
		"surge: of two old ones what serves":   {set: set(surge(1)), seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", stale, unready), pod("n0-b", stale, young)}, create: "", remove: "n0-a"},
		"surge: not a third":                   {set: set(surge(1)), seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n0-b", fresh, deleting)}},
		"surge: broken ones at once":           {set: set(surge(1)), seats: seats(runs, runs, runs), pods: []*corev1.Pod{pod("n0-a", stale, unready), pod("n1-a", stale, unready), pod("n2-a", stale)}, create: "n0 n1 n2"},
		"surge: one of each revision":          {set: set(surge(1)), seats: seats(runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n0-b", fresh, unready), pod("n0-c", fresh, unready, young)}, remove: "n0-c"},
		"minReadySeconds hold the update":      {set: set(minReady(10)), seats: seats(runs, runs), pods: []*corev1.Pod{pod("n0-a", stale), pod("n1-a", fresh, young)}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.set == nil {
				test.set = set()
			}
			p, err := decide(worldOf(test.set, test.seats, test.pods...))
			if err != nil {
				t.Fatal(err)
			}
			if create, remove := names(p.create, nodeOf), names(p.remove, nameOf); create != test.create || remove != test.remove {
				t.Errorf("create on %q, want %q; remove %q, want %q", create, test.create, remove, test.remove)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	w := worldOf(set(minReady(10)), seats(runs, runs, runs, runs, refuses, stays),
		pod("n0-a", fresh), pod("n1-a", fresh, young), pod("n2-a", stale, unready), pod("n4-a", stale), pod("n5-a", stale))
	p, err := decide(w)
	if err != nil {
		t.Fatal(err)
	}
	want := appsv1.DaemonSetStatus{
		ObservedGeneration: 3, DesiredNumberScheduled: 4, CurrentNumberScheduled: 3, NumberMisscheduled: 2,
		NumberReady: 2, NumberAvailable: 1, NumberUnavailable: 3, UpdatedNumberScheduled: 2,
	}
	if fmt.Sprint(p.status) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", p.status, want)
	}
	if p.requeueAfter != 6*time.Second {
		t.Errorf("due again in %s", p.requeueAfter)
	}
}

// A pod that fails is replaced at once, then after ever longer pauses.
func TestFailedPodsWait(t *testing.T) {
	w := worldOf(set(), seats(runs), pod("n0-a", fresh, failed))
	w.pause = func(string) time.Duration { return 3 * time.Second }
	p, err := decide(w)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.remove)+len(p.create) > 0 || p.requeueAfter != 3*time.Second {
		t.Errorf("remove %d, again in %s", len(p.remove), p.requeueAfter)
	}
	// The update does not go round the pause.
	w = worldOf(set(), seats(runs), pod("n0-a", stale, failed))
	w.pause = func(string) time.Duration { return 3 * time.Second }
	if p, err := decide(w); err != nil || len(p.remove) > 0 {
		t.Errorf("update: remove %d, %v", len(p.remove), err)
	}
	// Nor may a surge put another beside it meanwhile.
	w = worldOf(set(surge(1)), seats(runs), pod("n0-a", stale), pod("n0-b", fresh, failed))
	w.pause = func(string) time.Duration { return 3 * time.Second }
	if p, err := decide(w); err != nil || len(p.remove)+len(p.create) > 0 {
		t.Errorf("beside: remove %d, create %d, %v", len(p.remove), len(p.create), err)
	}

	var b backoff
	at, clock := place{"set", "n0", fresh}, now
	for _, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second} {
		if left := b.left(at, clock); left != want {
			t.Fatalf("pause of %s, want %s", left, want)
		}
		clock = clock.Add(want)
		b.replaced(at, clock)
	}
	if left := b.left(place{"set", "n1", fresh}, clock); left != 0 {
		t.Errorf("another node waits %s", left)
	}
	for range 20 {
		b.replaced(at, clock)
	}
	if left := b.left(at, clock); left != mostPause {
		t.Errorf("pause of %s", left)
	}
	if left := b.left(at, clock.Add(2*mostPause+1)); left != 0 {
		t.Errorf("after long quiet %s", left)
	}
}

func TestNewPod(t *testing.T) {
	s := set()
	s.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpExists}}}}},
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1}},
	}}
	s.Spec.Template.Spec.Tolerations = []corev1.Toleration{
		{Key: "own", Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](5)},
	}
	p, err := newPod(s, "agent-x", "n1", fresh)
	if err != nil {
		t.Fatal(err)
	}
	affinity := p.Spec.Affinity.NodeAffinity
	if nodeOf(p) != "n1" || p.Spec.NodeName != "" || len(affinity.PreferredDuringSchedulingIgnoredDuringExecution) != 1 ||
		len(affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) != 1 {
		t.Errorf("affinity %+v", affinity)
	}
	if p.Labels["app"] != "agent" || p.Labels["controller-revision-hash"] != fresh || p.Labels["pod-template-generation"] != "2" {
		t.Errorf("labels %v", p.Labels)
	}
	var have []string
	for _, toleration := range p.Spec.Tolerations {
		have = append(have, fmt.Sprintf("%s:%s", toleration.Key, toleration.Effect))
		if toleration.TolerationSeconds != nil || toleration.Operator != corev1.TolerationOpExists {
			t.Errorf("%+v ends", toleration)
		}
	}
	want := "own: node.kubernetes.io/not-ready:NoExecute node.kubernetes.io/unreachable:NoExecute node.kubernetes.io/disk-pressure:NoSchedule " +
		"node.kubernetes.io/memory-pressure:NoSchedule node.kubernetes.io/pid-pressure:NoSchedule node.kubernetes.io/unschedulable:NoSchedule"
	if strings.Join(have, " ") != want {
		t.Errorf("tolerates %v", have)
	}
	s.Spec.Template.Spec.HostNetwork = true
	if p, _ := newPod(s, "agent-x", "n1", fresh); p.Spec.Tolerations[len(p.Spec.Tolerations)-1].Key != "node.kubernetes.io/network-unavailable" {
		t.Errorf("a pod of the host's network tolerates %+v", p.Spec.Tolerations)
	}
	if s.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields != nil {
		t.Error("the set was changed")
	}
}

// Names stay while nothing is seen, and are new once a pod came and went.
func TestNamesFollowFromTheNode(t *testing.T) {
	nodes := make([]verdict, 300)
	for i := range nodes {
		nodes[i] = runs
	}
	w := worldOf(set(), seats(nodes...))
	first, err := decide(w)
	if err != nil {
		t.Fatal(err)
	}
	distinct := map[string]bool{}
	for _, p := range first.create {
		distinct[p.Name] = true
	}
	if len(distinct) != 300 {
		t.Errorf("%d names for 300 nodes", len(distinct))
	}
	w.set.ResourceVersion, w.pods.Newest = "99", "99" // others' pods, the set's status
	if again, _ := decide(w); names(again.create, nameOf) != names(first.create, nameOf) {
		t.Error("names change without news of their nodes")
	}
	var d departed
	gone := first.create[0].DeepCopy()
	gone.UID = "first"
	d.note(gone, nil)
	d.note(gone, gone)
	w.gone = d.of(objectKey("a", "agent"))
	later, _ := decide(w)
	if later.create[0].Name == gone.Name || later.create[1].Name != first.create[1].Name {
		t.Errorf("after a pod went: %s, %s", later.create[0].Name, later.create[1].Name)
	}
}
