package store

import (
	"fmt"
	"slices"
	"sync"
)

// hub keeps the recent history and hands each change to the watchers it concerns.
//
// The applier publishes; watchers are found by resource and then by namespace or field
// value, so an event costs nothing to others. Lock order: hub.mu before memory.mu
// and before Watcher.mu.
type hub struct {
	restamp func(r *Record, version uint64) *Record
	keep    int // events of history per resource

	mu       sync.Mutex
	topics   map[string]*topic
	base     uint64 // nothing at or before it is in the history
	revision int64  // published so far
	marked   int64  // revision of the last progress mark
	closed   error  // why no watch can begin now

	published *versionWaiters // of callers that wait for the history to reach a revision
}

// topic is the history and the watchers of one resource.
type topic struct {
	history []delivery
	events  int // in history
	bytes   int // of their values
	// since: the history holds everything after it.
	since uint64

	all         watchers
	byNamespace map[string]watchers
	byField     map[field]watchers
	fields      map[string]int // field name to number of watchers that use it
}

// historyBytes bounds the values that one resource's history keeps alive.
const historyBytes = 16 << 20

type (
	watchers map[*Watcher]struct{}
	field    struct{ name, value string }
)

func newHub(keep int, restamp func(*Record, uint64) *Record) *hub {
	return &hub{keep: keep, restamp: restamp, topics: map[string]*topic{}, closed: ErrStale, published: newVersionWaiters()}
}

// topic returns the topic of a resource; mu is held.
func (h *hub) topic(resource string) *topic {
	t := h.topics[resource]
	if t == nil {
		t = &topic{
			since: h.base, all: watchers{}, byNamespace: map[string]watchers{},
			byField: map[field]watchers{}, fields: map[string]int{},
		}
		h.topics[resource] = t
	}
	return t
}

// publish hands out what one revision changed. events are kept.
func (h *hub) publish(revision int64, events []Event) {
	h.distribute(revision, events)
	h.published.reached(revision)
}

func (h *hub) distribute(revision int64, events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision = revision
	progress := ProgressOf(revision)
	for len(events) > 0 {
		resource := events[0].Record.Key.Resource
		own, rest := split(events, func(e *Event) bool { return e.Record.Key.Resource == resource })
		h.topic(resource).publish(newDelivery(own, progress), h.keep)
		events = rest
	}
}

// split parts events in order; when all are chosen, which is the usual case, it copies nothing.
func split(events []Event, choose func(*Event) bool) (chosen, rest []Event) {
	for i := range events {
		if choose(&events[i]) {
			continue
		}
		chosen = append(chosen, events[:i]...)
		for j := i; j < len(events); j++ {
			if choose(&events[j]) {
				chosen = append(chosen, events[j])
			} else {
				rest = append(rest, events[j])
			}
		}
		return chosen, rest
	}
	return events, nil
}

func (t *topic) publish(d delivery, keep int) {
	t.history = append(t.history, d)
	t.events += len(d.events)
	t.bytes += d.bytes
	drop := 0
	for (t.events > keep || t.bytes > historyBytes) && drop < len(t.history)-1 {
		t.events -= len(t.history[drop].events)
		t.bytes -= t.history[drop].bytes
		t.since = t.history[drop].progress
		t.history[drop] = delivery{}
		drop++
	}
	t.history = t.history[drop:]

	for w := range t.all {
		w.push(d)
	}
	if len(t.byNamespace) > 0 {
		for rest := d.events; len(rest) > 0; {
			var own []Event
			namespace := rest[0].Record.Key.Namespace
			own, rest = split(rest, func(e *Event) bool { return e.Record.Key.Namespace == namespace })
			if group := t.byNamespace[namespace]; len(group) > 0 {
				part := newDelivery(own, d.progress)
				for w := range group {
					w.push(part)
				}
			}
		}
	}
	for name := range t.fields {
		t.publishField(name, d)
	}
}

// publishField hands each event to the watchers of the field's value before and after it.
func (t *topic) publishField(name string, d delivery) {
	byValue := map[string][]Event{}
	for _, e := range d.events {
		value := e.Record.Index.Fields.Get(name)
		byValue[value] = append(byValue[value], e)
		if e.Previous != nil {
			if before := e.Previous.Index.Fields.Get(name); before != value {
				byValue[before] = append(byValue[before], e)
			}
		}
	}
	for value, events := range byValue {
		if group := t.byField[field{name, value}]; len(group) > 0 {
			part := newDelivery(events, d.progress)
			for w := range group {
				w.push(part)
			}
		}
	}
}

// add registers a watcher. With history, it first receives what happened after
// opts.After. during, if not nil, runs while nothing can be published.
func (h *hub) add(opts WatchOptions, history bool, during func() uint64) (*Watcher, error) {
	if opts.Buffer <= 0 {
		opts.Buffer = defaultWatchBuffer
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed != nil {
		return nil, h.closed
	}
	t := h.topic(opts.Resource)
	if during != nil {
		opts.After = during()
	}
	w := &Watcher{hub: h, opts: opts, ready: make(chan struct{}, 1), told: opts.After}
	if history {
		if opts.After < t.since {
			return nil, fmt.Errorf("%w: %s after %d, kept since %d", ErrExpired, opts.Resource, opts.After, t.since)
		}
		for _, d := range t.history {
			if d.progress <= opts.After {
				continue
			}
			if own := t.concern(w, d.events); len(own) > 0 {
				w.enqueue(newDelivery(own, d.progress))
			}
		}
	}
	// The next mark comes only when there is something new.
	w.marked = max(ProgressOf(h.revision), opts.After)
	w.wake()
	t.join(w)
	return w, nil
}

// concern picks the events that publish would push to w.
func (t *topic) concern(w *Watcher, events []Event) []Event {
	switch o := &w.opts; {
	case o.Field != "":
		own, _ := split(events, func(e *Event) bool {
			return e.Record.Index.Fields.Get(o.Field) == o.Value ||
				e.Previous != nil && e.Previous.Index.Fields.Get(o.Field) == o.Value
		})
		return own
	case o.Namespace != "":
		own, _ := split(events, func(e *Event) bool { return e.Record.Key.Namespace == o.Namespace })
		return own
	}
	return events
}

func (t *topic) join(w *Watcher) {
	switch o := &w.opts; {
	case o.Field != "":
		f := field{o.Field, o.Value}
		if t.byField[f] == nil {
			t.byField[f] = watchers{}
		}
		t.byField[f][w] = struct{}{}
		t.fields[o.Field]++
	case o.Namespace != "":
		if t.byNamespace[o.Namespace] == nil {
			t.byNamespace[o.Namespace] = watchers{}
		}
		t.byNamespace[o.Namespace][w] = struct{}{}
	default:
		t.all[w] = struct{}{}
	}
}

func (h *hub) remove(w *Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[w.opts.Resource]
	if t == nil {
		return
	}
	switch o := &w.opts; {
	case o.Field != "":
		f := field{o.Field, o.Value}
		if _, found := t.byField[f][w]; !found {
			return
		}
		delete(t.byField[f], w)
		if len(t.byField[f]) == 0 {
			delete(t.byField, f)
		}
		if t.fields[o.Field]--; t.fields[o.Field] == 0 {
			delete(t.fields, o.Field)
		}
	case o.Namespace != "":
		delete(t.byNamespace[o.Namespace], w)
		if len(t.byNamespace[o.Namespace]) == 0 {
			delete(t.byNamespace, o.Namespace)
		}
	default:
		delete(t.all, w)
	}
}

// each calls f with every watcher; mu is held.
func (h *hub) each(f func(*Watcher)) {
	for _, t := range h.topics {
		for w := range t.all {
			f(w)
		}
		for _, group := range t.byNamespace {
			for w := range group {
				f(w)
			}
		}
		for _, group := range t.byField {
			for w := range group {
				f(w)
			}
		}
	}
}

// mark lets idle watchers advance, if there is anything to advance to.
func (h *hub) mark() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.marked == h.revision {
		return
	}
	h.marked = h.revision
	version := ProgressOf(h.revision)
	h.each(func(w *Watcher) { w.mark(version) })
}

// stop ends all watches and lets none begin until open.
func (h *hub) stop(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = err
	h.each(func(w *Watcher) { w.end(err) })
}

// open lets watches begin.
func (h *hub) open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = nil
}

// reset ends all watches and forgets the history: it begins after revision.
func (h *hub) reset(revision int64) {
	defer h.published.reached(revision)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.each(func(w *Watcher) { w.end(ErrExpired) })
	h.topics = map[string]*topic{}
	h.base, h.revision = ProgressOf(revision), revision
}

// now is the revision that the history has reached.
func (h *hub) now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

// after returns what happened to a resource after a version, which the history must reach
// back to, else ErrExpired.
func (h *hub) after(resource string, version uint64) ([]delivery, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topic(resource)
	if version < t.since {
		return nil, fmt.Errorf("%w: %s at %d, kept since %d", ErrExpired, resource, version, t.since)
	}
	first, _ := slices.BinarySearchFunc(t.history, version, func(d delivery, v uint64) int {
		if d.progress <= v {
			return -1
		}
		return 1
	})
	return slices.Clone(t.history[first:]), nil
}

// find returns the newest event of a key in the history, for requests that are repeated.
func (h *hub) find(k Key, version uint64) *Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[k.Resource]
	if t == nil {
		return nil
	}
	for i := len(t.history) - 1; i >= 0; i-- {
		d := &t.history[i]
		if d.progress < version {
			return nil
		}
		for j := range d.events {
			if d.events[j].Record.Version == version && d.events[j].Record.Key == k {
				return &d.events[j]
			}
		}
	}
	return nil
}
