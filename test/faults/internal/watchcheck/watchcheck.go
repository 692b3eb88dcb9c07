// Package watchcheck watches a namespace's objects through one master each and checks that what
// it was shown is ordered, without repetition or gap, can be resumed at every event, and never
// older than what it was shown before, whatever happens to that master (I3).
package watchcheck

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"kijabi.dev/platform/kube/client"
)

// Event is what a watch has shown.
type Event struct {
	Type    watch.EventType
	Name    string
	Version uint64
}

// Watcher watches through one master and begins anew whenever its stream ends.
type Watcher struct {
	Master    string
	API       *client.Client
	Namespace string
	Seed      uint64

	mu         sync.Mutex
	events     []Event
	since      uint64 // everything after it must be in events
	reached    uint64 // everything up to it is in events
	gaps       []span // that lists had to bridge
	streams    int
	relists    int
	violations []string
	objects    map[string]uint64
}

// span is what was missed: everything in (after, to].
type span struct{ after, to uint64 }

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	pick := rand.New(rand.NewPCG(w.Seed, 0)) //nolint:gosec // a seed must give the same again
	for w.relist(ctx) != nil {
		if !pause(ctx) {
			return
		}
	}
	w.mu.Lock()
	w.since, w.relists, w.gaps = w.reached, 0, nil
	w.mu.Unlock()
	for ctx.Err() == nil {
		err := w.follow(ctx, pick)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			_ = w.relist(ctx) // tried again when the watch is refused again
		}
		if !pause(ctx) {
			return
		}
	}
}

func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(30 * time.Millisecond):
		return true
	}
}

// relist bridges what can no longer be watched.
func (w *Watcher) relist(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	page, err := client.List[*corev1.ConfigMap](call, w.API, client.ListOptions{Namespace: w.Namespace})
	if err != nil {
		return err
	}
	version, err := strconv.ParseUint(page.ResourceVersion, 10, 64)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if version < w.reached {
		w.violate("a list is of version %d, older than %d, which the watch had reached", version, w.reached)
	}
	w.relists++
	w.gaps = append(w.gaps, span{w.reached, version})
	w.reached, w.objects = version, map[string]uint64{}
	for _, cm := range page.Items {
		w.objects[cm.Name], _ = strconv.ParseUint(cm.ResourceVersion, 10, 64)
	}
	return nil
}

// follow watches from where the last stream ended: at its last progress, or its last event.
func (w *Watcher) follow(ctx context.Context, pick *rand.Rand) error {
	w.mu.Lock()
	from := w.reached
	if n := len(w.events); n > 0 && pick.IntN(2) == 0 && w.events[n-1].Version > w.gapEnd() {
		from = w.events[n-1].Version
	}
	w.streams++
	w.mu.Unlock()
	for message, err := range client.Watch[*corev1.ConfigMap](ctx, w.API, client.WatchOptions{
		Namespace: w.Namespace, ResourceVersion: strconv.FormatUint(from, 10),
	}) {
		if err != nil {
			return err
		}
		if err := w.take(message); err != nil {
			return err
		}
	}
	return nil
}

// gapEnd is where the last gap ended; mu is held.
func (w *Watcher) gapEnd() uint64 {
	if len(w.gaps) == 0 {
		return 0
	}
	return w.gaps[len(w.gaps)-1].to
}

func (w *Watcher) take(message client.WatchMessage[*corev1.ConfigMap]) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range message.Events {
		version, err := strconv.ParseUint(e.Object.ResourceVersion, 10, 64)
		if err != nil {
			return err
		}
		w.event(Event{Type: e.Type, Name: e.Object.Name, Version: version})
	}
	if message.Progress == "" {
		return nil
	}
	progress, err := strconv.ParseUint(message.Progress, 10, 64)
	if err != nil {
		return err
	}
	w.reached = max(w.reached, progress)
	return nil
}

// event checks one event against what was shown before; mu is held.
func (w *Watcher) event(e Event) {
	last := w.reached
	if n := len(w.events); n > 0 {
		last = max(last, w.events[n-1].Version)
	}
	if e.Version <= last {
		w.violate("event %s %s at version %d after version %d", e.Type, e.Name, e.Version, last)
	}
	was, exists := w.objects[e.Name]
	if exists == (e.Type == watch.Added) {
		w.violate("event %s %s at version %d, but it existed: %t (version %d)", e.Type, e.Name, e.Version, exists, was)
	}
	if w.objects[e.Name] = e.Version; e.Type == watch.Deleted {
		delete(w.objects, e.Name)
	}
	w.events = append(w.events, e)
}

func (w *Watcher) violate(format string, args ...any) {
	w.violations = append(w.violations, "watch through "+w.Master+": "+fmt.Sprintf(format, args...))
}

// Reached is the version up to which the watcher has seen everything.
func (w *Watcher) Reached() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reached
}

// Result of a watcher.
type Result struct {
	Events, Streams, Relists int
	Violations               []string
}

// Change is what really happened, at a version.
type Change struct {
	Name    string
	Version uint64
	Delete  bool
}

// Check compares what was shown with all that happened in the namespace, in order. Call it
// once Run has returned.
func (w *Watcher) Check(truth []Change) Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	shown := make(map[uint64]Event, len(w.events))
	for _, e := range w.events {
		shown[e.Version] = e
	}
	var missing []string
	for _, c := range truth {
		e, found := shown[c.Version]
		delete(shown, c.Version)
		switch {
		case found && (e.Name != c.Name || (e.Type == watch.Deleted) != c.Delete):
			w.violate("event %+v, though what happened was %+v", e, c)
		case !found && c.Version > w.since && c.Version <= w.reached && !w.bridged(c.Version):
			missing = append(missing, fmt.Sprintf("%s at %d", c.Name, c.Version))
		}
	}
	if len(missing) > 0 {
		w.violate("%d events were never shown, though version %d was reached: %s …", len(missing), w.reached, strings.Join(missing[:min(5, len(missing))], ", "))
	}
	for version, e := range shown {
		w.violate("event %s %s at version %d, which never happened", e.Type, e.Name, version)
	}
	return Result{Events: len(w.events), Streams: w.streams, Relists: w.relists, Violations: w.violations}
}

func (w *Watcher) bridged(version uint64) bool {
	for _, gap := range w.gaps {
		if version > gap.after && version <= gap.to {
			return true
		}
	}
	return false
}
