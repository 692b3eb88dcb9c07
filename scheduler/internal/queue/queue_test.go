package queue_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/scheduler/internal/queue"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func pod(name string, priority int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}}
}

func popped(items []*queue.Item) string {
	out := ""
	for _, item := range items {
		out += item.Pod.Name + " "
	}
	return out
}

func TestUrgentThenOldFirst(t *testing.T) {
	q := queue.New()
	q.Add(pod("second", 0), start)
	q.Add(pod("third", 0), start.Add(time.Second))
	q.Add(pod("first", 10), start.Add(2*time.Second))
	if got := popped(q.Pop(10, start.Add(time.Minute))); got != "first second third " {
		t.Errorf("order %q", got)
	}
}

func TestParkedUntilWoken(t *testing.T) {
	q := queue.New()
	q.Add(pod("p", 0), start)
	items := q.Pop(1, start)
	q.Park(items[0], start)
	if got := q.Pop(1, start.Add(time.Second)); len(got) > 0 {
		t.Error("a parked pod was due")
	}
	q.Wake()
	if got := q.Pop(1, start.Add(10*time.Millisecond)); len(got) > 0 {
		t.Error("due before its back-off ended")
	}
	if got := q.Pop(1, start.Add(time.Second)); len(got) != 1 || got[0].Attempts != 2 {
		t.Errorf("not due after being woken: %v", got)
	}
}

func TestParkedTooLongIsTriedAnyway(t *testing.T) {
	q := queue.New()
	q.Add(pod("p", 0), start)
	q.Park(q.Pop(1, start)[0], start)
	next, waiting := q.Flush(start.Add(time.Second))
	if !waiting || next.Sub(start) != 30*time.Second {
		t.Errorf("next flush %s, %v", next.Sub(start), waiting)
	}
	q.Flush(start.Add(31 * time.Second))
	if len(q.Pop(1, start.Add(31*time.Second))) != 1 {
		t.Error("never flushed")
	}
}

func TestChangedWhileInWork(t *testing.T) {
	q := queue.New()
	q.Add(pod("p", 0), start)
	item := q.Pop(1, start)[0]
	q.Add(pod("p", 5), start) // its spec changed while it was decided on
	q.Park(item, start)       // the old decision must not park the new pod
	if got := q.Pop(1, start); len(got) != 1 || *got[0].Pod.Spec.Priority != 5 {
		t.Errorf("the change was lost: %v", got)
	}
}

func TestRemovedForGood(t *testing.T) {
	q := queue.New()
	q.Add(pod("p", 0), start)
	item := q.Pop(1, start)[0]
	q.Remove("p")
	q.Retry(item, start)
	q.Park(item, start)
	q.Wake()
	q.Restart()
	if due, all := q.Len(); due+all != 0 {
		t.Errorf("%d due, %d known", due, all)
	}
}

func TestRestartMakesLostOnesDue(t *testing.T) {
	q := queue.New()
	q.Add(pod("p", 0), start)
	q.Pop(1, start) // and leadership was lost before an outcome
	q.Restart()
	if len(q.Pop(1, start)) != 1 {
		t.Error("lost")
	}
}

func TestWakeIf(t *testing.T) {
	q := queue.New()
	q.Add(pod("a", 0), start)
	q.Add(pod("b", 0), start)
	for _, item := range q.Pop(2, start) {
		q.Park(item, start)
	}
	if q.WakeIf(func(*corev1.Pod) bool { return false }) {
		t.Error("nobody is helped, and somebody woke")
	}
	if !q.WakeIf(func(pod *corev1.Pod) bool { return pod.Name == "b" }) {
		t.Error("b does not wake")
	}
	if woken := popped(q.Pop(2, start.Add(time.Second))); woken != "b " { // after the back-off
		t.Errorf("woken %q", woken)
	}
}
