package replicas

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// set is an owner of the test's pods.
func set(replicas int32) Owner {
	app := map[string]string{"app": "web"}
	return Owner{
		Object:   &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "set", ResourceVersion: "10", Generation: 2}},
		Replicas: replicas, Selector: labels.Set(app).AsSelector(),
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}},
	}
}

// free says that no pod of a name is known.
func free(string) bool { return false }

type change func(*corev1.Pod)

func pod(name string, changes ...change) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: name, UID: types.UID(name), ResourceVersion: "11", Labels: map[string]string{"app": "web"},
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		},
		Spec:   corev1.PodSpec{NodeName: "node"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

func ready(since time.Duration) change {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-since))}}
	}
}

func failed(p *corev1.Pod)   { p.Status.Phase = corev1.PodFailed }
func deleting(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func unbound(p *corev1.Pod)  { p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending }
func foreign(p *corev1.Pod)  { p.Labels = map[string]string{"app": "other"} }

func cost(n int) change {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: fmt.Sprint(n)} }
}

func names2(pods []*corev1.Pod) string {
	out := ""
	for _, p := range pods {
		out += p.Name + " "
	}
	return out
}

func TestDecide(t *testing.T) {
	tests := map[string]struct {
		set            Owner
		owned, orphans []*corev1.Pod
		create         int
		remove         string
		adopt, release string
		ready          int32
		available      int32
	}{
		"creates what is missing":                {set: set(3), owned: []*corev1.Pod{pod("p1", ready(time.Minute))}, create: 2, ready: 1, available: 1},
		"finished and leaving pods do not count": {set: set(1), owned: []*corev1.Pod{pod("p1", failed), pod("p2", deleting)}, create: 1},
		"removes unbound before running":         {set: set(1), owned: []*corev1.Pod{pod("p1", ready(time.Hour)), pod("p2", unbound)}, remove: "p2 ", ready: 1, available: 1},
		"removes the latest ready first":         {set: set(1), owned: []*corev1.Pod{pod("old", ready(time.Hour)), pod("young", ready(time.Minute))}, remove: "young ", ready: 2, available: 2},
		"removes the cheaper first":              {set: set(1), owned: []*corev1.Pod{pod("cheap", ready(time.Hour), cost(-5)), pod("dear", ready(time.Minute), cost(5))}, remove: "cheap ", ready: 2, available: 2},
		"removes all":                            {set: set(0), owned: []*corev1.Pod{pod("p1")}, remove: "p1 "},
		"adopts before it creates":               {set: set(2), orphans: []*corev1.Pod{pod("o1")}, adopt: "o1 ", create: 1},
		"adopts nobody of other labels":          {set: set(1), orphans: []*corev1.Pod{pod("o1", foreign)}, create: 1},
		"releases relabelled pods":               {set: set(1), owned: []*corev1.Pod{pod("p1", foreign)}, release: "p1 ", create: 1},
		"does nothing while it is deleted": {set: func() Owner {
			s := set(3)
			s.Object.SetDeletionTimestamp(ptr.To(metav1.NewTime(now)))
			return s
		}(), owned: []*corev1.Pod{pod("p1")}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := decide(test.set, test.owned, test.orphans, free, now)
			if len(p.create) != test.create || names2(p.remove) != test.remove || names2(p.claim.Adopt) != test.adopt || names2(p.claim.Release) != test.release {
				t.Errorf("create %v remove %q adopt %q release %q", p.create, names2(p.remove), names2(p.claim.Adopt), names2(p.claim.Release))
			}
			if p.status.Ready != test.ready || p.status.Available != test.available || p.status.ObservedGeneration != 2 {
				t.Errorf("status %+v", p.status)
			}
		})
	}
}

// A create whose answer was lost is repeated under the same name while nothing new
// has been seen; once something has, names are new.
func TestNamesFollowWhatWasSeen(t *testing.T) {
	first := decide(set(3), nil, nil, free, now)
	again := decide(set(3), nil, nil, free, now)
	if fmt.Sprint(first.create) != fmt.Sprint(again.create) {
		t.Errorf("%v, then %v", first.create, again.create)
	}
	seen := pod(first.create[0])
	later := decide(set(3), []*corev1.Pod{seen}, nil, func(name string) bool { return name == seen.Name }, now)
	for _, name := range later.create {
		if name == seen.Name {
			t.Errorf("name %s given twice", name)
		}
	}
	if len(later.create) != 2 {
		t.Errorf("create %v", later.create)
	}
}

func TestAvailableAfterMinReadySeconds(t *testing.T) {
	s := set(1)
	s.MinReadySeconds = 10
	p := decide(s, []*corev1.Pod{pod("p1", ready(4*time.Second))}, nil, free, now)
	if p.status.Available != 0 || p.requeueAfter != 6*time.Second {
		t.Errorf("available %d, again in %s", p.status.Available, p.requeueAfter)
	}
}

func TestWhatIsFailing(t *testing.T) {
	at := metav1.NewTime(now)
	quota, other := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", errors.New("quota")), apierrors.NewInternalError(errors.New("x"))
	first := failing(nil, quota, false, at)
	if first == nil || first.Reason != "FailedCreate" || first.Message != quota.Error() {
		t.Errorf("a quota: %+v", first)
	}
	if next := failing(first, other, true, metav1.NewTime(now.Add(time.Hour))); next.Reason != "FailedDelete" || !next.Since.Equal(&at) {
		t.Errorf("still failing: %+v", next)
	}
	for _, err := range []error{nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, "p", nil)} {
		if failing(first, err, false, at) != nil {
			t.Errorf("%v is a failure", err)
		}
	}
}
