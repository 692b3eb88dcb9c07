package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
)

// Times of waiting for the caches to show a loop's own last write for a key. Mostly that takes
// no longer than ownWriteWait, and a worker waits for it; then the key goes back to the queue, so
// that caches which are far behind hold up no other key, and comes again after a pause that grows
// from lagFirst to lagMost. After ownWriteLong it is reported as a failure.
const (
	ownWriteWait = 20 * time.Millisecond
	lagFirst     = 10 * time.Millisecond
	lagMost      = 500 * time.Millisecond
	ownWriteLong = 5 * time.Second
)

// loop is one controller with its queue.
type loop struct {
	name       string
	controller Controller
	cfg        RuntimeConfig
	inputs     []Input
	outputs    outputs
	partial    map[schema.GroupVersionKind]bool // kinds whose caches hold a part of each object, of all loops
	log        *zap.Logger
	queue      *queue

	mu      sync.Mutex
	written map[object.Key]*ownWrite
	// sweepAt is how many of written there have to be for those to be looked for that the
	// caches have reached, although nobody asked for their keys again.
	sweepAt int
}

// ownWrite is what a loop wrote for a key and does not know to be in its caches yet. All of it but
// versions, which are replaced as a whole under the loop's lock, belongs to the worker that has the key.
//
// A write whose outcome is not known, since the answer was lost, say, may have been performed: the
// caches have to show then what there was after it. Without that a loop would, after a broken connection,
// go by caches of which one knows of the time after the write and another does not.
type ownWrite struct {
	versions map[schema.GroupVersionKind]uint64 // of kinds that are read
	unknown  bool                               // there may be another write, of a version that is to be found out
	since    time.Time                          // a worker found the caches behind; zero if none did
	turns    int                                // so often
	reported bool
}

// sweepLeast is the fewest that are worth a sweep.
const sweepLeast = 1024

func newLoop(c Controller, cfg RuntimeConfig) *loop {
	l := &loop{
		name:       c.Name(),
		controller: c,
		cfg:        cfg,
		inputs:     c.Inputs(),
		outputs:    c.Outputs(),
		log:        cfg.Log.Named(c.Name()),
		queue:      newQueue(cfg.Clock),
		written:    map[object.Key]*ownWrite{},
		sweepAt:    sweepLeast,
	}
	for _, in := range l.inputs {
		in.subscribe(l.queue.add)
	}
	return l
}

// run works until ctx ends. What was written in an earlier term is awaited in this one, too.
func (l *loop) run(ctx context.Context) error {
	l.queue.open()
	for _, in := range l.inputs {
		if in.keys == nil {
			continue
		}
		for _, key := range in.keys() {
			l.queue.add(key)
		}
	}
	tasks := []lifecycle.Task{l.queue.tend, func(ctx context.Context) error {
		<-ctx.Done()
		l.queue.close()
		return nil
	}}
	for range l.cfg.Workers {
		tasks = append(tasks, func(ctx context.Context) error {
			for {
				key, ok := l.queue.get()
				if !ok {
					return nil
				}
				l.work(ctx, key)
				l.queue.done(key)
			}
		})
	}
	return lifecycle.RunAll(ctx, tasks...)
}

func (l *loop) work(ctx context.Context, key object.Key) {
	log := l.log.With(logging.Key(key))
	if pause := l.behind(ctx, key, log); pause > 0 {
		l.queue.addAfter(key, pause)
		return
	}
	again, err := l.reconcile(ctx, key, log)
	switch {
	case ctx.Err() != nil:
		l.queue.count(Failure{}) // what it says of its end is no failure
	case apierrors.IsConflict(err):
		// Somebody else wrote first; the cache will show it in a moment.
		log.Debug("conflict, trying again", zap.Error(err))
		l.queue.count(Failure{})
		l.queue.retry(key)
	case err != nil:
		log.Warn("reconcile failed", zap.Error(err))
		l.queue.count(l.failure(key, err))
		l.queue.retry(key)
	default:
		l.queue.count(Failure{})
		l.queue.forget(key)
		if again > 0 {
			l.queue.addAfter(key, again)
		}
	}
}

// failureText bounds what is kept of an error, which may quote an object.
const failureText = 1000

func (l *loop) failure(key object.Key, err error) Failure {
	text := err.Error()
	if panicked := (*lifecycle.PanicError)(nil); errors.As(err, &panicked) {
		text = fmt.Sprintf("panic: %v", panicked.Value) // the stack is in the log
	}
	if len(text) > failureText {
		text = text[:failureText] + "…"
	}
	return Failure{Key: key, Error: text, Time: l.cfg.Clock.Now()}
}

// reconcile calls the controller and remembers what it wrote. A panic is a failure of this key
// alone: one object that nobody thought of must not stop all the loops.
func (l *loop) reconcile(ctx context.Context, key object.Key, log *zap.Logger) (again time.Duration, err error) {
	w := &fencedWriter{client: l.cfg.Client, outputs: l.outputs, partial: l.partial, newest: map[schema.GroupVersionKind]uint64{}}
	err = lifecycle.Call(ctx, func(ctx context.Context) error {
		var err error
		again, err = l.controller.Reconcile(ctx, key, w, log)
		return err
	})
	w.mu.Lock() // a controller may have left a write alone when ctx ended
	newest, unknown := maps.Clone(w.newest), w.unknown
	w.mu.Unlock()
	l.remember(key, newest, unknown)
	return again, err
}

// remember keeps those of a Reconcile's own writes which the caches will show.
func (l *loop) remember(key object.Key, newest map[schema.GroupVersionKind]uint64, unknown bool) {
	versions := map[schema.GroupVersionKind]uint64{}
	for _, in := range l.inputs {
		if in.source == nil {
			continue
		}
		gvk := in.source.Kind().GVK
		if version, wrote := newest[gvk]; wrote {
			versions[gvk] = version
		}
	}
	if len(versions) == 0 && !unknown {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[key] = &ownWrite{versions: versions, unknown: unknown}
	if len(l.written) < l.sweepAt {
		return
	}
	for key, w := range l.written {
		if !w.unknown && l.lag(w.versions) == nil {
			delete(l.written, key)
		}
	}
	l.sweepAt = max(sweepLeast, 2*len(l.written))
}

// behind is 0 when the caches show the loop's own last write for the key, else the pause after
// which the key should come again.
func (l *loop) behind(ctx context.Context, key object.Key, log *zap.Logger) time.Duration {
	l.mu.Lock()
	w := l.written[key]
	l.mu.Unlock()
	if w == nil {
		return 0
	}
	lag := l.find(ctx, w)
	if lag == nil {
		lag = l.lag(w.versions)
	}
	if lag != nil && w.turns == 0 {
		w.since = l.cfg.Clock.Now()
		if !w.unknown {
			lag = l.await(ctx, w.versions)
		}
	}
	if lag == nil {
		l.mu.Lock()
		delete(l.written, key)
		l.mu.Unlock()
		return 0
	}
	w.turns++
	if took := l.cfg.Clock.Since(w.since); took > ownWriteLong && !w.reported {
		w.reported = true
		err := fmt.Errorf("the caches have not shown the loop's own last write for %s: %w", took.Round(time.Second), lag)
		log.Warn("waiting for the caches", zap.Error(err))
		l.queue.fail(l.failure(key, err))
	}
	return min(lagFirst<<min(w.turns-1, 10), lagMost)
}

// find makes known, if it is not, up to which version the caches have to be to show the key's last
// writes: all of them, since nobody knows of what kind a write was that may have been performed.
func (l *loop) find(ctx context.Context, w *ownWrite) error {
	if !w.unknown {
		return nil
	}
	versions := map[schema.GroupVersionKind]uint64{}
	var now uint64
	for _, in := range l.inputs {
		if in.source == nil {
			continue
		}
		if now == 0 {
			text, err := l.cfg.Client.Version(ctx, in.source.Kind())
			if err == nil {
				now, err = object.ParseVersion(text)
			}
			if err != nil {
				return fmt.Errorf("whether a write was performed is not known: %w", err)
			}
		}
		versions[in.source.Kind().GVK] = now
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w.versions, w.unknown = versions, false
	return nil
}

// lag says which cache does not show these versions yet; nil if all do.
func (l *loop) lag(versions map[schema.GroupVersionKind]uint64) error {
	for _, in := range l.inputs {
		if in.source == nil {
			continue
		}
		version, wrote := versions[in.source.Kind().GVK]
		if have := in.source.Version(); wrote && have < version {
			return fmt.Errorf("that of %s is at version %d, not yet at %d", in.source.Kind().GVK.Kind, have, version)
		}
	}
	return nil
}

// await gives the caches a moment to show these versions, and returns what lag does then.
func (l *loop) await(ctx context.Context, versions map[schema.GroupVersionKind]uint64) error {
	ctx, cancel := context.WithTimeout(ctx, ownWriteWait)
	defer cancel()
	for _, in := range l.inputs {
		if in.source == nil {
			continue
		}
		version, wrote := versions[in.source.Kind().GVK]
		if wrote && in.source.WaitVersion(ctx, object.FormatVersion(version)) != nil {
			break
		}
	}
	return l.lag(versions)
}
