package store

import (
	"context"
	"fmt"
	"iter"
	"sync"
)

// What waits for a watcher is bounded by the number of events and by the bytes of their values,
// four times what the history keeps: a reader that is further behind had better list anew.
const (
	defaultWatchBuffer = 10_000
	watchBytes         = 4 * historyBytes
)

// Watcher receives the changes of a collection. One goroutine reads it; Close it when done.
type Watcher struct {
	hub  *hub
	opts WatchOptions

	mu      sync.Mutex
	queue   []delivery
	waiting int // events in queue
	bytes   int // of their values
	marked  uint64
	err     error
	ready   chan struct{} // holds one token when there may be something to read

	// The reader's own.
	spare []delivery
	told  uint64 // last progress returned
}

// delivery is what one revision changed, as far as a group of watchers is concerned.
// It is shared by them.
type delivery struct {
	events   []Event
	progress uint64
	bytes    int // of the events' values
}

func newDelivery(events []Event, progress uint64) delivery {
	d := delivery{events: events, progress: progress}
	for i := range events {
		d.bytes += len(events[i].Record.Value)
	}
	return d
}

// push never blocks: a reader that is too far behind loses its watch instead.
func (w *Watcher) push(d delivery) {
	if isDropped(d) {
		return
	}
	w.mu.Lock()
	switch {
	case w.err != nil:
	case w.waiting > 0 && (w.waiting+len(d.events) > w.opts.Buffer || w.bytes+d.bytes > watchBytes):
		w.err = fmt.Errorf("%w: the watch of %s fell %d events of %d bytes behind", ErrExpired, w.opts.Resource, w.waiting, w.bytes)
		w.queue, w.waiting, w.bytes = nil, 0, 0
	default:
		w.enqueue(d)
	}
	w.mu.Unlock()
	w.wake()
}

// enqueue adds to the queue; mu is held, or nobody knows the watcher yet.
func (w *Watcher) enqueue(d delivery) {
	w.queue = append(w.queue, d)
	w.waiting += len(d.events)
	w.bytes += d.bytes
}

// mark says that everything up to version has been pushed.
func (w *Watcher) mark(version uint64) {
	w.mu.Lock()
	w.marked = version
	w.mu.Unlock()
	w.wake()
}

// end makes Next fail once the queue is read.
func (w *Watcher) end(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.wake()
}

func (w *Watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Next waits for changes. A batch without events is a progress mark. Errors are final:
// ctx's, ErrExpired, ErrStale or ErrStopped.
func (w *Watcher) Next(ctx context.Context) (Batch, error) {
	for {
		w.mu.Lock()
		queue, marked, err := w.queue, w.marked, w.err
		w.queue, w.waiting, w.bytes = w.spare[:0], 0, 0
		w.mu.Unlock()

		b := w.batch(queue)
		clear(queue)
		w.spare = queue[:0]
		if len(b.Events) > 0 || err == nil && marked > w.told {
			b.Progress = max(b.Progress, marked)
			w.told = b.Progress
			return b, nil
		}
		if err != nil {
			return Batch{}, err
		}
		select {
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-w.ready:
		}
	}
}

// Batches is Next as an iterator; it closes the watcher at its end.
func (w *Watcher) Batches(ctx context.Context) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		defer w.Close()
		for {
			b, err := w.Next(ctx)
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// Close releases the watcher. It may be called twice.
func (w *Watcher) Close() { w.hub.remove(w) }

// batch filters deliveries into one batch.
func (w *Watcher) batch(queue []delivery) Batch {
	if len(queue) == 0 {
		return Batch{}
	}
	last := queue[len(queue)-1].progress
	if len(queue) == 1 && w.plain() && queue[0].events[0].Record.Version > w.opts.After {
		return Batch{Events: queue[0].events, Progress: last}
	}
	var events []Event
	for _, d := range queue {
		for _, e := range d.events {
			if e.Record.Version <= w.opts.After {
				continue
			}
			if e, ok := w.view(e); ok {
				events = append(events, e)
			}
		}
	}
	return Batch{Events: events, Progress: last}
}

// plain says that the deliveries need no filtering.
func (w *Watcher) plain() bool { return w.opts.Filter == nil && w.opts.Field == "" }

// view is the event as the watch's selectors see it.
func (w *Watcher) view(e Event) (Event, bool) {
	before := e.Previous != nil && w.matches(e.Previous)
	if e.Type == Deleted {
		return e, before
	}
	after := w.matches(e.Record)
	switch {
	case before && after:
		return e, true
	case after:
		return Event{Type: Added, Record: e.Record}, true
	case before:
		return Event{Type: Deleted, Record: w.hub.restamp(e.Previous, e.Record.Version), Previous: e.Previous}, true
	}
	return Event{}, false
}

func (w *Watcher) matches(r *Record) bool {
	if w.opts.Namespace != "" && r.Key.Namespace != w.opts.Namespace {
		return false
	}
	if w.opts.Field != "" && r.Index.Fields.Get(w.opts.Field) != w.opts.Value {
		return false
	}
	return w.opts.Filter == nil || w.opts.Filter(r)
}
