package store

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// pending is a group waiting for its outcome.
type pending struct {
	group Group
	// state says who disposes of it: a caller that gives up may withdraw a queued one.
	state   atomic.Int32
	results []Result
	err     error
	done    chan struct{} // holds one token when the outcome is there
}

// maxGather is enough for one batch to be worth its sync.
const maxGather = 512

const (
	stateQueued int32 = iota
	stateTaken
	stateWithdrawn
)

// finish hands the outcome to the caller.
func (p *pending) finish(err error) {
	p.err = err
	p.done <- struct{}{}
}

// queue holds the groups that gather while a batch is being committed.
type queue struct {
	mu    sync.Mutex
	open  bool
	items []*pending
	wake  chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// add reports whether the queue took p.
func (q *queue) add(p *pending) bool {
	q.mu.Lock()
	if !q.open {
		q.mu.Unlock()
		return false
	}
	q.items = append(q.items, p)
	first := len(q.items) == 1
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// gather lets the writers that were just answered run before the next batch is formed, as
// long as that brings more than one new group at a time. Without it, those of the last batch
// miss the next one and the batches stay half as large. It never waits for time to pass.
func (q *queue) gather(last int) {
	if last < 2 {
		return
	}
	for before := -1; ; {
		q.mu.Lock()
		n := len(q.items)
		q.mu.Unlock()
		if n >= maxGather || n <= before {
			return
		}
		before = n
		runtime.Gosched()
	}
}

// take appends all items to batch.
func (q *queue) take(batch []*pending) []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch = append(batch, q.items...)
	clear(q.items)
	q.items = q.items[:0]
	return batch
}

func (q *queue) start() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open = true
}

// stop refuses further items and returns those left.
func (q *queue) stop() []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open = false
	left := q.items
	q.items = nil
	return left
}
