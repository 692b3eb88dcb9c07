package podworker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
)

// worker looks after one pod. Its loop owns every field except those below mu;
// operations run beside the loop and hand their results over below mu, too.
type worker struct {
	m        *Manager
	ref      runtime.PodRef
	log      *zap.Logger
	triggers chan struct{}
	finished chan struct{}     // closed when the pod has left the machine
	after    []<-chan struct{} // must be closed before anything is started

	mu        sync.Mutex
	pod       *corev1.Pod // newest; nil while only the runtime knows the pod
	gone      bool        // a master said that the API object does not exist
	stale     bool        // volumes' contents are to be written again
	restarts  []string    // ids of containers that somebody asked to be restarted
	retryNow  bool        // forget back-offs of operations that wait for the outside
	running   map[string]*operation
	completed []completion

	// Owned by the loop.
	seen   observation
	memory memory
}

// operation is something in progress.
type operation struct{ cancel context.CancelFunc }

// completion is the outcome of one; apply runs in the loop.
type completion struct {
	err   error
	apply func(error)
}

func newWorker(m *Manager, ref runtime.PodRef) *worker {
	return &worker{
		m: m, ref: ref, log: m.cfg.Log.With(logging.Pod(ref.Namespace, ref.Name), zap.String("uid", ref.UID)),
		triggers: make(chan struct{}, 1), finished: make(chan struct{}),
		running: map[string]*operation{}, seen: newObservation(), memory: newMemory(),
	}
}

func (w *worker) wake() {
	select {
	case w.triggers <- struct{}{}:
	default:
	}
}

func (w *worker) set(pod *corev1.Pod) {
	w.mu.Lock()
	first := w.pod == nil
	if !first && older(pod, w.pod) {
		w.mu.Unlock()
		return // the answer to our own write overtook the watch
	}
	changed := first || w.pod.Generation != pod.Generation || !sameMeta(w.pod, pod)
	w.pod = pod
	w.stale = w.stale || changed // labels and annotations may be projected
	w.mu.Unlock()
	if changed {
		w.m.cfg.Objects.Use(pod)
	}
	w.wake()
}

// older compares resource versions, which grow. Unreadable ones never hold up news.
func older(a, b *corev1.Pod) bool {
	left, err := object.ParseVersion(a.ResourceVersion)
	right, other := object.ParseVersion(b.ResourceVersion)
	return err == nil && other == nil && left < right
}

func sameMeta(a, b *corev1.Pod) bool {
	return mapsEqual(a.Labels, b.Labels) && mapsEqual(a.Annotations, b.Annotations)
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			return false
		}
	}
	return true
}

func (w *worker) abandon() {
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	w.wake()
}

func (w *worker) abandonIfUnknown() {
	w.mu.Lock()
	if w.pod == nil {
		w.gone = true
	}
	w.mu.Unlock()
	w.wake()
}

func (w *worker) refresh() {
	w.mu.Lock()
	w.stale, w.retryNow = true, true
	w.mu.Unlock()
	w.wake()
}

func (w *worker) restart(instances map[string]string) {
	w.mu.Lock()
	for _, id := range instances {
		w.restarts = append(w.restarts, id)
	}
	w.mu.Unlock()
	w.wake()
}

func (w *worker) retry() {
	w.mu.Lock()
	w.retryNow = true
	w.mu.Unlock()
	w.wake()
}

func (w *worker) current() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// run is the loop. It ends when the pod has left the machine, or with ctx, leaving
// everything running.
func (w *worker) run(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	defer func() { _ = group.Wait() }()
	timer := w.m.cfg.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	w.wake()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.triggers:
		case <-timer.C():
		}
		done, wait := w.reconcile(ctx, group)
		if done {
			w.m.cfg.Objects.Release(types.UID(w.ref.UID))
			w.m.remove(w)
			close(w.finished)
			return nil
		}
		timer.Reset(wait)
	}
}

// reconcile looks, decides and starts what is missing. wait bounds the time until
// it must look again without being told.
func (w *worker) reconcile(ctx context.Context, group *lifecycle.Group) (done bool, wait time.Duration) {
	busy := w.collect()
	if err := w.observe(ctx); err != nil {
		if ctx.Err() == nil {
			w.log.Warn("look at runtime", zap.Error(err))
		}
		return false, time.Second
	}
	v := w.view(busy)
	plan := decide(v)
	w.m.probe(w, v)
	w.tellBackOff(v.pod, plan.waiting)
	for _, action := range plan.actions {
		// In progress when this round began: it may have ended since, but what it did
		// was not seen by this round.
		if v.busy[action.key] {
			continue
		}
		if try := w.memory.tries[action.key]; try != nil && v.now.Before(try.next) {
			plan.wakeAt(v, try.next)
			continue
		}
		w.start(ctx, group, action)
	}
	if plan.finished {
		return true, 0
	}
	if v.pod != nil {
		if later := w.publish(ctx, group, v, plan); later > 0 {
			plan.wakeIn(later)
		}
	}
	return false, plan.wait
}

// tellBackOff records an event each time a container begins to wait for its next try.
func (w *worker) tellBackOff(pod *corev1.Pod, waiting map[string]status.Waiting) {
	backingOff := map[string]bool{}
	for name, why := range waiting {
		if pod == nil || why.Reason != status.CrashLoopBackOff && why.Reason != status.ImagePullBackOff {
			continue
		}
		if backingOff[name] = true; !w.memory.backingOff[name] {
			w.m.cfg.Event(pod, name, warning, "BackOff", backOffEvent(pod, name, why))
		}
	}
	w.memory.backingOff = backingOff
}

// backOffEvent leaves out what differs from one wait to the next, so that they are counted together.
func backOffEvent(pod *corev1.Pod, container string, why status.Waiting) string {
	if why.Reason == status.CrashLoopBackOff {
		return fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", container, pod.Name, pod.Namespace, pod.UID)
	}
	message, _, _ := strings.Cut(why.Message, ": ")
	return message
}

// collect takes over results of operations and returns the keys of those still in
// progress. It comes before looking at the runtime: whatever ends between the two
// counts as in progress for this round, so nothing is done twice.
func (w *worker) collect() map[string]bool {
	w.mu.Lock()
	busy := make(map[string]bool, len(w.running))
	for key := range w.running {
		busy[key] = true
	}
	completed := w.completed
	w.completed = nil
	if w.retryNow {
		w.retryNow = false
		w.memory.forgetFailures()
	}
	for _, id := range w.restarts {
		w.memory.asked[id] = true
	}
	w.restarts = nil
	if w.stale {
		w.stale = false
		w.memory.volumes.ready = w.memory.volumes.ready && w.pod == nil
		w.memory.volumes.next = time.Time{}
	}
	w.mu.Unlock()
	for _, c := range completed {
		if c.apply != nil {
			c.apply(c.err)
		}
	}
	return busy
}

// start runs an action beside the loop unless one of its key is in progress.
func (w *worker) start(ctx context.Context, group *lifecycle.Group, a action) {
	if a.key == keyDelete {
		return // publish does it, since it writes the status first
	}
	run, apply := w.operation(a)
	w.launch(ctx, group, a.key, run, func(err error) {
		if apply != nil {
			apply(err)
		}
		if err == nil || errors.Is(err, context.Canceled) {
			delete(w.memory.tries, a.key)
			return
		}
		try := w.memory.tries[a.key]
		if try == nil {
			try = &attempt{}
			w.memory.tries[a.key] = try
		}
		try.fail(err, w.m.cfg.Clock.Now(), writeRetry, writeRetryMax)
	})
}

// launch runs an operation beside the loop unless one of its key is in progress.
func (w *worker) launch(ctx context.Context, group *lifecycle.Group, key string, run func(context.Context) error, apply func(error)) {
	w.mu.Lock()
	if _, busy := w.running[key]; busy {
		w.mu.Unlock()
		return
	}
	inner, cancel := context.WithCancel(ctx)
	w.running[key] = &operation{cancel: cancel}
	w.mu.Unlock()
	group.Go(func(context.Context) error {
		err := lifecycle.Call(inner, run)
		cancel()
		w.mu.Lock()
		delete(w.running, key)
		w.completed = append(w.completed, completion{err: err, apply: apply})
		w.mu.Unlock()
		if err != nil && !errors.Is(err, context.Canceled) {
			w.log.Warn("operation failed", zap.String("operation", key), zap.Error(err))
		}
		w.wake()
		return nil
	})
}

// cancelStarts ends operations that would bring more up.
func (w *worker) cancelStarts() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, op := range w.running {
		for _, prefix := range []string{keyImage, keyStart, keySandbox, keyVolumes} {
			if strings.HasPrefix(key, prefix) {
				op.cancel()
			}
		}
	}
}

// cancelKills lets kills begin anew with less grace.
func (w *worker) cancelKills() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, op := range w.running {
		if strings.HasPrefix(key, keyKill) {
			op.cancel()
		}
	}
}
