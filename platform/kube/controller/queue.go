package controller

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/object"
)

// Back-off of a failing key.
const (
	retryFirst = 10 * time.Millisecond
	retryMost  = 30 * time.Second
)

// queue holds the keys of one loop that are due, in the order in which they became so, and
// those that will be. A key is in it once, however often it became due, and is with one worker
// at a time: one that becomes due while it is in work is due again afterwards. What is
// counted lasts as long as the queue, everything else from open to close. Safe for concurrent use.
type queue struct {
	clock clock.WithTicker

	mu       sync.Mutex
	ready    sync.Cond // broadcast when get may go on
	running  bool
	paused   time.Time // since when; zero while not
	order    []object.Key
	due      map[object.Key]time.Time // since when; the keys in order, and those due again while in work
	working  map[object.Key]time.Time // since when
	later    delays
	delayed  map[object.Key]*delay // what is in later
	attempts map[object.Key]int    // failures in a row
	sooner   chan struct{}         // has a token when the first of later has changed
	rested   chan struct{}         // closed when pause has to look again; nil while nobody waits
	figures  figures
}

func newQueue(clk clock.WithTicker) *queue {
	q := &queue{clock: clk, sooner: make(chan struct{}, 1)}
	q.ready.L = &q.mu
	q.clear()
	return q
}

// clear forgets all keys. The caller holds mu, or nobody else knows the queue.
func (q *queue) clear() {
	q.order, q.later, q.paused = nil, nil, time.Time{}
	q.due, q.working = map[object.Key]time.Time{}, map[object.Key]time.Time{}
	q.delayed, q.attempts = map[object.Key]*delay{}, map[object.Key]int{}
}

// open starts a term with an empty queue that is not paused.
func (q *queue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.clear()
	q.running = true
}

// close ends the term: nothing is handed out, taken or remembered any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running = false
	q.clear()
	q.ready.Broadcast()
	q.lookAgain()
}

// add makes a key due now. A queue that is not open drops it: everything is due at start anyway.
func (q *queue) add(key object.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(key, q.clock.Now())
}

func (q *queue) addLocked(key object.Key, now time.Time) {
	if !q.running {
		return
	}
	if _, waits := q.due[key]; waits {
		return
	}
	q.due[key] = now
	q.figures.adds++
	if _, busy := q.working[key]; !busy {
		q.order = append(q.order, key)
		q.ready.Signal()
	}
}

// addAfter makes a key due in a while, or when it was to be due anyway if that is sooner.
func (q *queue) addAfter(key object.Key, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addAfterLocked(key, after)
}

func (q *queue) addAfterLocked(key object.Key, after time.Duration) {
	now := q.clock.Now()
	if after <= 0 {
		q.addLocked(key, now)
		return
	}
	if !q.running {
		return
	}
	at := now.Add(after)
	d, waits := q.delayed[key]
	switch {
	case !waits:
		d = &delay{key: key, at: at}
		q.delayed[key] = d
		heap.Push(&q.later, d)
	case at.Before(d.at):
		d.at = at
		heap.Fix(&q.later, d.index)
	}
	if q.later[0] == d {
		select {
		case q.sooner <- struct{}{}:
		default:
		}
	}
}

// retry makes a key due after a pause that doubles with every failure in a row.
func (q *queue) retry(key object.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pause := retryMost
	if n := q.attempts[key]; n < 12 { // 10 ms << 12 is past the most
		pause = min(retryFirst<<n, retryMost)
	}
	q.attempts[key]++
	q.figures.retries++
	q.addAfterLocked(key, pause)
}

// forget ends a key's failures in a row.
func (q *queue) forget(key object.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.attempts, key)
}

// get hands out the key that has been due for longest, and waits for one. It returns false
// once the queue is closed. The caller calls done. A delay of the key is over by that: what
// asked for it, asks again if it still has to be.
func (q *queue) get() (object.Key, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.running && (len(q.order) == 0 || !q.paused.IsZero()) {
		q.ready.Wait()
	}
	if !q.running {
		return object.Key{}, false
	}
	key := q.order[0]
	q.order = q.order[1:]
	now := q.clock.Now()
	q.figures.waited.observe(now.Sub(q.due[key]))
	delete(q.due, key)
	q.working[key] = now
	if d, waits := q.delayed[key]; waits {
		heap.Remove(&q.later, d.index)
		delete(q.delayed, key)
	}
	return key, true
}

// done ends the work on a key.
func (q *queue) done(key object.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	since, busy := q.working[key]
	if !busy {
		return // the queue was closed meanwhile
	}
	q.figures.worked.observe(q.clock.Since(since))
	delete(q.working, key)
	if _, again := q.due[key]; again {
		q.order = append(q.order, key)
		q.ready.Signal()
	}
	if len(q.working) == 0 {
		q.lookAgain()
	}
}

// tend makes delayed keys due when their time comes, until ctx ends.
func (q *queue) tend(ctx context.Context) error {
	for {
		var wait <-chan time.Time
		stop := func() bool { return false }
		if next := q.ripen(); next > 0 {
			timer := q.clock.NewTimer(next)
			wait, stop = timer.C(), timer.Stop
		}
		select {
		case <-wait:
		case <-q.sooner:
		case <-ctx.Done():
			stop()
			return nil
		}
		stop()
	}
}

// ripen makes keys due whose time has come, and tells how long it is until the next; 0 if none waits.
func (q *queue) ripen() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Now()
	for len(q.later) > 0 {
		d := q.later[0]
		if d.at.After(now) {
			return d.at.Sub(now)
		}
		heap.Pop(&q.later)
		delete(q.delayed, d.key)
		q.addLocked(d.key, now)
	}
	return 0
}

// pause hands out nothing from now on, and returns when nothing is in work any more. It fails
// with errNotRunning, with errResumed when somebody resumed the queue meanwhile, and with
// ctx's error when that ends first: the queue is paused then all the same.
func (q *queue) pause(ctx context.Context) error {
	for first := true; ; first = false {
		q.mu.Lock()
		switch {
		case !q.running:
			q.mu.Unlock()
			return errNotRunning
		case first && q.paused.IsZero():
			q.paused = q.clock.Now()
		case q.paused.IsZero():
			q.mu.Unlock()
			return errResumed
		}
		if len(q.working) == 0 {
			q.mu.Unlock()
			return nil
		}
		if q.rested == nil {
			q.rested = make(chan struct{})
		}
		rested := q.rested
		q.mu.Unlock()
		select {
		case <-rested:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// resume ends a pause, if there is one. It fails with errNotRunning.
func (q *queue) resume() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		return errNotRunning
	}
	q.paused = time.Time{}
	q.ready.Broadcast()
	q.lookAgain()
	return nil
}

// lookAgain wakes who waits in pause. The caller holds mu.
func (q *queue) lookAgain() {
	if q.rested != nil {
		close(q.rested)
		q.rested = nil
	}
}

// delay is a key that becomes due later.
type delay struct {
	key   object.Key
	at    time.Time
	index int
}

// delays is a heap, the first to become due on top.
type delays []*delay

func (d delays) Len() int           { return len(d) }
func (d delays) Less(i, j int) bool { return d[i].at.Before(d[j].at) }

func (d delays) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push is for container/heap.
func (d *delays) Push(x any) {
	item := x.(*delay)
	item.index = len(*d)
	*d = append(*d, item)
}

// Pop is for container/heap.
func (d *delays) Pop() any {
	last := len(*d) - 1
	item := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return item
}
