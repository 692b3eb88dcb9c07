// Package queue holds pods that wait for a node: those due now, by priority and
// age, and those that fitted nowhere, until something changes.
package queue

import (
	"cmp"
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Back-off of a pod that was tried in vain.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 10 * time.Second
)

// flushAfter is how long a pod may sit among the unschedulable without having been
// tried anew, in case an event that would have helped it was not recognized.
const flushAfter = 30 * time.Second

// Item is a waiting pod.
type Item struct {
	Pod      *corev1.Pod
	Attempts int

	since     time.Time // when it began to wait
	notBefore time.Time // end of its back-off
	parked    time.Time // when it was found unschedulable
	index     int       // in the heap, -1 if not there
}

// Queue is not safe for concurrent use.
type Queue struct {
	items  map[types.UID]*Item
	active activeHeap
	parked map[types.UID]*Item
}

// New returns an empty queue.
func New() *Queue {
	return &Queue{items: map[types.UID]*Item{}, parked: map[types.UID]*Item{}}
}

// Add puts a new or changed pod into the queue. A changed pod is due at once.
func (q *Queue) Add(pod *corev1.Pod, now time.Time) {
	item, ok := q.items[pod.UID]
	if !ok {
		item = &Item{since: now, index: -1}
		q.items[pod.UID] = item
	}
	item.Pod = pod
	q.activate(item)
}

// Update replaces a waiting pod's object without making it due; for changes that
// cannot help it, such as of its status.
func (q *Queue) Update(pod *corev1.Pod) {
	if item, ok := q.items[pod.UID]; ok {
		item.Pod = pod
	}
}

// Remove takes a pod out.
func (q *Queue) Remove(uid types.UID) {
	item, ok := q.items[uid]
	if !ok {
		return
	}
	delete(q.items, uid)
	delete(q.parked, uid)
	if item.index >= 0 {
		heap.Remove(&q.active, item.index)
	}
}

// Has says whether a pod waits.
func (q *Queue) Has(uid types.UID) bool {
	_, ok := q.items[uid]
	return ok
}

func (q *Queue) activate(item *Item) {
	delete(q.parked, item.Pod.UID)
	if item.index >= 0 {
		heap.Fix(&q.active, item.index)
		return
	}
	heap.Push(&q.active, item)
}

// Pop returns up to n due pods, most urgent first. They stay known until Remove,
// Park or Retry.
func (q *Queue) Pop(n int, now time.Time) []*Item {
	var out, early []*Item
	for len(out) < n && q.active.Len() > 0 {
		item := heap.Pop(&q.active).(*Item)
		if item.notBefore.After(now) {
			early = append(early, item)
			continue
		}
		item.Attempts++
		out = append(out, item)
	}
	for _, item := range early {
		heap.Push(&q.active, item)
	}
	return out
}

func backoff(attempts int) time.Duration {
	d := backoffFirst
	for i := 1; i < attempts && d < backoffMost; i++ {
		d *= 2
	}
	return min(d, backoffMost)
}

// Park keeps a pod that fits nowhere until Wake.
func (q *Queue) Park(item *Item, now time.Time) {
	if q.items[item.Pod.UID] != item || item.index >= 0 {
		return // gone, or changed and due again
	}
	item.parked, item.notBefore = now, now.Add(backoff(item.Attempts))
	q.parked[item.Pod.UID] = item
}

// Retry makes a pod whose binding failed due again after its back-off.
func (q *Queue) Retry(item *Item, now time.Time) {
	if q.items[item.Pod.UID] != item {
		return
	}
	item.notBefore = now.Add(backoff(item.Attempts))
	q.activate(item)
}

// Wake makes every parked pod due after its back-off: something changed that may help.
func (q *Queue) Wake() {
	for _, item := range q.parked {
		q.activate(item)
	}
}

// WakeIf is Wake for the pods that a change may help. It says whether there are any.
func (q *Queue) WakeIf(helps func(*corev1.Pod) bool) bool {
	woken := false
	for _, item := range q.parked {
		if helps(item.Pod) {
			q.activate(item)
			woken = true
		}
	}
	return woken
}

// Restart makes every known pod due, also those taken out by Pop whose outcome
// nobody came back with.
func (q *Queue) Restart() {
	for _, item := range q.items {
		item.notBefore = time.Time{}
		q.activate(item)
	}
}

// Flush wakes pods that were parked too long and returns when something will be
// due next; false when nothing waits.
func (q *Queue) Flush(now time.Time) (time.Time, bool) {
	var next time.Time
	found := false
	note := func(at time.Time) {
		if !found || at.Before(next) {
			next, found = at, true
		}
	}
	for _, item := range q.parked {
		if at := item.parked.Add(flushAfter); !at.After(now) {
			q.activate(item)
		} else {
			note(at)
		}
	}
	for _, item := range q.active {
		note(item.notBefore)
	}
	return next, found
}

// Len returns how many pods wait, due ones and all.
func (q *Queue) Len() (due, all int) { return q.active.Len(), len(q.items) }

// activeHeap orders by priority, then age, then name.
type activeHeap []*Item

func (h activeHeap) Len() int { return len(h) }

func (h activeHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	return cmp.Or(
		cmp.Compare(priority(b.Pod), priority(a.Pod)),
		a.since.Compare(b.since),
		cmp.Compare(a.Pod.UID, b.Pod.UID),
	) < 0
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

func (h activeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push adds an item; for package heap.
func (h *activeHeap) Push(x any) {
	item := x.(*Item)
	item.index = len(*h)
	*h = append(*h, item)
}

// Pop removes the last item; for package heap.
func (h *activeHeap) Pop() any {
	old := *h
	item := old[len(old)-1]
	*h = old[:len(old)-1]
	item.index = -1
	return item
}
