package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
)

// RuntimeConfig describes a Runtime. All fields are required but Workers.
type RuntimeConfig struct {
	Client      *client.Client
	Clock       clock.WithTicker
	Log         *zap.Logger
	Controllers []Controller
	// Workers per controller, default 4.
	Workers int
}

// Runtime runs controllers. Run may be called again after it returned, as when
// leadership comes back.
type Runtime struct {
	cfg   RuntimeConfig
	loops []*loop
}

// Back-off of a failing key.
const (
	retryFirst = 10 * time.Millisecond
	retryMost  = 30 * time.Second
)

// ownWriteWait bounds the wait for the cache to reflect a controller's own write;
// after it the key goes back to the queue.
const ownWriteWait = 5 * time.Second

// NewRuntime checks the declarations and subscribes to the inputs.
func NewRuntime(cfg RuntimeConfig) (*Runtime, error) {
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	names, writers := map[string]bool{}, map[string]string{}
	r := &Runtime{cfg: cfg}
	for _, c := range cfg.Controllers {
		name := c.Name()
		if names[name] {
			return nil, fmt.Errorf("two controllers are named %s", name)
		}
		names[name] = true
		for _, out := range c.Outputs() {
			if other, taken := writers[out.String()]; taken {
				return nil, fmt.Errorf("%s and %s both write %s", other, name, out)
			}
			writers[out.String()] = name
		}
		r.loops = append(r.loops, newLoop(c, cfg))
	}
	return r, nil
}

// Run works on every controller's queue until ctx ends. It starts with every
// existing key due, since nobody may have worked on it before.
func (r *Runtime) Run(ctx context.Context) error {
	tasks := make([]lifecycle.Task, 0, len(r.loops))
	for _, l := range r.loops {
		tasks = append(tasks, l.run)
	}
	return lifecycle.RunAll(ctx, tasks...)
}

// LoopStatus describes one controller and its queue.
type LoopStatus struct {
	Name       string
	Depth      int
	Active     int
	Reconciles int64
	Failures   int64
	LastError  string
	// Oldest is the age of the item in the queue that has waited longest.
	Oldest time.Duration
}

// Loops describes every controller.
func (r *Runtime) Loops() []LoopStatus {
	out := make([]LoopStatus, 0, len(r.loops))
	for _, l := range r.loops {
		out = append(out, l.status())
	}
	return out
}

type queue = workqueue.TypedRateLimitingInterface[object.Key]

// loop is one controller with its queue.
type loop struct {
	controller Controller
	cfg        RuntimeConfig
	inputs     []Input
	outputs    outputs
	log        *zap.Logger

	mu         sync.Mutex
	queue      queue                                                  // nil while not running
	written    map[object.Key]map[schema.GroupVersionKind]uint64      // own writes not yet known to be in the caches
	unsure     map[object.Key]map[schema.GroupVersionKind]object.Kind // kinds of own writes whose outcome is unknown
	queued     map[object.Key]time.Time
	active     int
	reconciles int64
	failures   int64
	lastError  string
}

func newLoop(c Controller, cfg RuntimeConfig) *loop {
	l := &loop{
		controller: c,
		cfg:        cfg,
		inputs:     c.Inputs(),
		outputs:    c.Outputs(),
		log:        cfg.Log.Named(c.Name()),
		written:    map[object.Key]map[schema.GroupVersionKind]uint64{},
		unsure:     map[object.Key]map[schema.GroupVersionKind]object.Kind{},
		queued:     map[object.Key]time.Time{},
	}
	for _, in := range l.inputs {
		in.subscribe(l.enqueue)
	}
	return l
}

func (l *loop) enqueue(key object.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue == nil {
		return // not leading: everything is due at start anyway
	}
	l.note(key)
	l.queue.Add(key)
}

// note remembers since when a key waits. The caller holds mu.
func (l *loop) note(key object.Key) {
	if _, waiting := l.queued[key]; !waiting {
		l.queued[key] = l.cfg.Clock.Now()
	}
}

func (l *loop) run(ctx context.Context) error {
	q := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[object.Key](retryFirst, retryMost))
	l.mu.Lock()
	l.queue = q
	clear(l.queued)
	clear(l.written)
	clear(l.unsure)
	l.mu.Unlock()
	for _, in := range l.inputs {
		if in.keys == nil {
			continue
		}
		for _, key := range in.keys() {
			l.enqueue(key)
		}
	}

	tasks := []lifecycle.Task{func(ctx context.Context) error {
		<-ctx.Done()
		l.mu.Lock()
		l.queue = nil
		l.mu.Unlock()
		q.ShutDown()
		return nil
	}}
	for range l.cfg.Workers {
		tasks = append(tasks, func(ctx context.Context) error {
			for {
				key, stop := q.Get()
				if stop {
					return nil
				}
				l.work(ctx, q, key)
				q.Done(key)
			}
		})
	}
	return lifecycle.RunAll(ctx, tasks...)
}

func (l *loop) work(ctx context.Context, q queue, key object.Key) {
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	delete(l.queued, key)
	l.active++
	l.mu.Unlock()

	again, err := l.reconcile(ctx, key)

	l.mu.Lock()
	l.active--
	l.reconciles++
	if err != nil && ctx.Err() == nil {
		l.failures++
		l.lastError = fmt.Sprintf("%s: %v", key, err)
	}
	l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case apierrors.IsConflict(err):
		// Somebody else wrote first; the cache will show it in a moment.
		l.log.Debug("conflict, trying again", logging.Key(key), zap.Error(err))
		q.AddRateLimited(key)
	case err != nil:
		l.log.Warn("reconcile failed", logging.Key(key), zap.Error(err))
		q.AddRateLimited(key)
	case again > 0:
		q.Forget(key)
		q.AddAfter(key, again)
	default:
		q.Forget(key)
	}
}

// reconcile runs the controller once its inputs have seen its own last write for the key.
func (l *loop) reconcile(ctx context.Context, key object.Key) (time.Duration, error) {
	l.mu.Lock()
	wrote, unsure := l.written[key], l.unsure[key]
	l.mu.Unlock()
	if len(unsure) > 0 {
		var err error
		if wrote, err = l.settle(ctx, wrote, unsure); err != nil {
			return 0, err
		}
		l.mu.Lock()
		l.written[key] = wrote
		delete(l.unsure, key)
		l.mu.Unlock()
	}
	if len(wrote) > 0 {
		if err := l.waitVersion(ctx, wrote); err != nil {
			return 0, err
		}
		l.mu.Lock()
		delete(l.written, key)
		l.mu.Unlock()
	}
	w := &fencedWriter{client: l.cfg.Client, outputs: l.outputs, newest: map[schema.GroupVersionKind]uint64{}}
	again, err := l.controller.Reconcile(ctx, key, w, l.log.With(logging.Key(key)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(w.newest) > 0 {
		l.written[key] = w.newest
	}
	if len(w.unsure) > 0 {
		l.unsure[key] = w.unsure
	}
	return again, err
}

// settle adds to the own writes, for kinds with a write whose answer was lost, the version of
// now: a write that was performed is in what the caches hold by then.
func (l *loop) settle(ctx context.Context, wrote map[schema.GroupVersionKind]uint64, unsure map[schema.GroupVersionKind]object.Kind) (map[schema.GroupVersionKind]uint64, error) {
	out := maps.Clone(wrote)
	if out == nil {
		out = map[schema.GroupVersionKind]uint64{}
	}
	ctx, cancel := context.WithTimeout(ctx, ownWriteWait)
	defer cancel()
	for gvk, kind := range unsure {
		if !slices.ContainsFunc(l.inputs, func(in Input) bool { return in.source != nil && in.source.Kind().GVK == gvk }) {
			continue
		}
		text, err := l.cfg.Client.Version(ctx, kind)
		if err != nil {
			return nil, fmt.Errorf("what became of a write of %s: %w", gvk.Kind, err)
		}
		version, err := object.ParseVersion(text)
		if err != nil {
			return nil, err
		}
		out[gvk] = max(out[gvk], version)
	}
	return out, nil
}

func (l *loop) waitVersion(ctx context.Context, wrote map[schema.GroupVersionKind]uint64) error {
	ctx, cancel := context.WithTimeout(ctx, ownWriteWait)
	defer cancel()
	var errs []error
	for _, in := range l.inputs {
		if in.source == nil {
			continue
		}
		version, ok := wrote[in.source.Kind().GVK]
		if !ok {
			continue
		}
		if err := in.source.WaitVersion(ctx, object.FormatVersion(version)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (l *loop) status() LoopStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := LoopStatus{
		Name:       l.controller.Name(),
		Active:     l.active,
		Reconciles: l.reconciles,
		Failures:   l.failures,
		LastError:  l.lastError,
	}
	if l.queue != nil {
		out.Depth = l.queue.Len()
	}
	now := l.cfg.Clock.Now()
	for _, since := range l.queued {
		out.Oldest = max(out.Oldest, now.Sub(since))
	}
	return out
}
