package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// cache stands in for an informer of ConfigMaps.
type cache struct {
	mu       sync.Mutex
	version  uint64
	advanced chan struct{}
}

func newCache() *cache { return &cache{advanced: make(chan struct{})} }

func (*cache) Kind() object.Kind { return object.KindOf[*corev1.ConfigMap]() }

func (c *cache) Version() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

func (c *cache) reach(version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = version
	close(c.advanced)
	c.advanced = make(chan struct{})
}

func (c *cache) WaitVersion(ctx context.Context, text string) error {
	version, err := object.ParseVersion(text)
	for err == nil {
		c.mu.Lock()
		have, advanced := c.version, c.advanced
		c.mu.Unlock()
		if have >= version {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return err
}

// store stands in for the apiserver: each write has the next version.
type store struct {
	client.Writer

	mu      sync.Mutex
	version uint64
	kind    object.Kind // of what is stored
	lost    error       // answers a write that was performed
	down    error       // answers Version
}

func (s *store) Create(_ context.Context, obj object.Object) (object.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	stored := obj.DeepCopyObject().(object.Object)
	stored.GetObjectKind().SetGroupVersionKind(s.kind.GVK)
	stored.SetResourceVersion(object.FormatVersion(s.version))
	if s.lost != nil {
		return nil, s.lost
	}
	return stored, nil
}

func (s *store) Version(context.Context, object.Kind) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return object.FormatVersion(s.version), s.down
}

func (s *store) DeleteObject(ctx context.Context, obj object.Object, _ client.DeleteOptions) (object.Object, error) {
	return s.Create(ctx, obj)
}

func configMap(key object.Key) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
}

// scripted is a controller that does as a test says.
type scripted struct {
	name   string
	cache  *cache
	first  []object.Key // due at start
	do     func(ctx context.Context, key object.Key, w client.Writer) (time.Duration, error)
	mu     sync.Mutex
	calls  map[object.Key][]time.Time
	notify func(object.Key)
}

func (s *scripted) Name() string { return s.name }

func (s *scripted) Inputs() []Input {
	return []Input{
		{source: s.cache, subscribe: func(enqueue func(object.Key)) { s.notify = enqueue }, keys: func() []object.Key { return s.first }},
		Triggered(func(func(object.Key)) {}),
	}
}

func (s *scripted) Outputs() []Output { return []Output{Owns[*corev1.ConfigMap](s.name)} }

func (s *scripted) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	s.mu.Lock()
	s.calls[key] = append(s.calls[key], time.Now())
	s.mu.Unlock()
	return s.do(ctx, key, w)
}

func (s *scripted) times(key object.Key) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls[key])
}

// fixture is a runtime of one scripted controller with one worker.
type fixture struct {
	*scripted

	runtime *Runtime
	store   *store
	loop    *loop
}

type reconcile = func(f *fixture, ctx context.Context, key object.Key, w client.Writer) (time.Duration, error)

func newFixture(t *testing.T, do reconcile, first ...string) *fixture {
	t.Helper()
	f := &fixture{
		scripted: &scripted{name: "scripted", cache: newCache(), calls: map[object.Key][]time.Time{}},
		store:    &store{kind: object.KindOf[*corev1.ConfigMap]()},
	}
	f.do = func(ctx context.Context, key object.Key, w client.Writer) (time.Duration, error) {
		return do(f, ctx, key, w)
	}
	for _, name := range first {
		f.first = append(f.first, named(name))
	}
	runtime, err := NewRuntime(RuntimeConfig{Client: f.store, Clock: clock.RealClock{}, Log: zap.NewNop(), Controllers: []Controller{f.scripted}, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	f.runtime, f.loop = runtime, runtime.loops[0]
	return f
}

// inLoop runs a test in a bubble of time, which shows also whether Run leaves a goroutine behind.
func inLoop(t *testing.T, do reconcile, test func(t *testing.T, f *fixture), first ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { newFixture(t, do, first...).during(t, test) })
}

// during runs the loops while test does.
func (f *fixture) during(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.runtime.Run(ctx) }()
	synctest.Wait()
	test(t, f)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func (f *fixture) status() LoopStatus { return f.runtime.Loops()[0] }

func TestOwnWriteIsAwaitedWithoutAWorker(t *testing.T) {
	write := func(f *fixture, ctx context.Context, key object.Key, w client.Writer) (time.Duration, error) {
		if key.Name == "writes" {
			_, err := w.Create(ctx, configMap(key))
			return 0, err
		}
		return 0, nil
	}
	inLoop(t, write, func(t *testing.T, f *fixture) {
		f.notify(named("writes"))
		time.Sleep(time.Second)
		f.notify(named("writes"))
		f.notify(named("other"))
		time.Sleep(2 * ownWriteWait)
		if f.times(named("other")) != 1 {
			t.Error("a key whose write the cache does not show holds up another")
		}
		time.Sleep(3 * time.Second)
		if n := f.times(named("writes")); n != 1 {
			t.Errorf("%d reconciles of a key whose write the cache does not show", n)
		}
		if s := f.status(); s.Failures != 0 || s.Reconciles != 2 {
			t.Errorf("%+v", s)
		}
		time.Sleep(10 * time.Second)
		s := f.status()
		if s.Failures != 1 || s.Failed.Key != named("writes") || !strings.Contains(s.Failed.Error, "that of ConfigMap is at version 0, not yet at 1") {
			t.Errorf("a cache that stays behind is not reported once: %+v", s)
		}
		f.cache.reach(1)
		time.Sleep(lagMost + time.Millisecond)
		if n := f.times(named("writes")); n != 2 {
			t.Errorf("%d reconciles once the cache shows the write", n)
		}
		// Mostly the cache is there in a moment, and the key needs no second turn.
		f.notify(named("writes"))
		synctest.Wait()
		f.cache.reach(2)
		synctest.Wait()
		if n := f.times(named("writes")); n != 3 {
			t.Errorf("%d reconciles at once", n)
		}
	})
}

func TestWritesOfKeysThatAreGoneAreForgotten(t *testing.T) {
	write := func(f *fixture, ctx context.Context, key object.Key, w client.Writer) (time.Duration, error) {
		stored, err := w.Create(ctx, configMap(key))
		if err == nil {
			version, _ := object.ParseVersion(stored.GetResourceVersion())
			f.cache.reach(version)
		}
		return 0, err
	}
	inLoop(t, write, func(t *testing.T, f *fixture) {
		const n = 50 * sweepLeast
		for i := range n {
			f.notify(named(fmt.Sprint(i)))
		}
		synctest.Wait()
		if s := f.status(); s.Reconciles != n {
			t.Fatalf("%+v", s)
		}
		if kept := len(f.loop.written); kept > sweepLeast {
			t.Errorf("%d writes are remembered of %d that the cache shows", kept, n)
		}
		if len(f.loop.queue.attempts)+len(f.loop.queue.due)+len(f.loop.queue.working)+len(f.loop.queue.delayed) > 0 {
			t.Error("the queue remembers keys that are done")
		}
	})
}

func TestWritesOfKindsThatAreNotReadAreNotAwaited(t *testing.T) {
	inLoop(t, func(f *fixture, ctx context.Context, key object.Key, w client.Writer) (time.Duration, error) {
		f.store.kind = object.KindOf[*corev1.Secret]()
		_, err := w.Create(ctx, configMap(key))
		return 0, err
	}, func(t *testing.T, f *fixture) {
		for range 3 {
			f.notify(named("a"))
			synctest.Wait()
		}
		if n := f.times(named("a")); n != 3 || len(f.loop.written) != 0 {
			t.Errorf("%d reconciles, %d remembered", n, len(f.loop.written))
		}
	})
}

func TestOutcomes(t *testing.T) {
	boom := errors.New("boom")
	do := func(f *fixture, _ context.Context, key object.Key, _ client.Writer) (time.Duration, error) {
		first := f.times(key) == 1
		switch {
		case key.Name == "later" && first:
			return time.Minute, nil
		case key.Name == "fails" && f.times(key) <= 3:
			return time.Hour, boom
		case key.Name == "conflicts" && first:
			return 0, fmt.Errorf("wrapped: %w", apierrors.NewConflict(loopResource(), key.Name, boom))
		case key.Name == "panics" && first:
			panic("unheard of")
		}
		return 0, nil
	}
	inLoop(t, do, func(t *testing.T, f *fixture) {
		time.Sleep(59 * time.Second)
		for name, n := range map[string]int{"later": 1, "fails": 4, "conflicts": 2, "panics": 2, "fine": 1} {
			if have := f.times(named(name)); have != n {
				t.Errorf("%s: %d reconciles, want %d", name, have, n)
			}
		}
		if s := f.status(); s.Failures != 4 || s.Retries != 5 || s.Reconciles != 10 || s.Delayed != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second + time.Millisecond)
		if n := f.times(named("later")); n != 2 {
			t.Errorf("%d reconciles of the key that was to come again", n)
		}
	}, "later", "fails", "conflicts", "fine", "panics")
}

func TestPanicIsToldWithoutItsStack(t *testing.T) {
	inLoop(t, func(_ *fixture, _ context.Context, _ object.Key, _ client.Writer) (time.Duration, error) {
		panic("unheard of")
	}, func(t *testing.T, f *fixture) {
		if s := f.status(); s.Failed.Error != "panic: unheard of" || s.Failed.Key != named("a") || s.Failed.Time.IsZero() {
			t.Errorf("%+v", s.Failed)
		}
	}, "a")
}

// A term that ends cuts off work in progress, and the next begins with all keys and without a pause.
func TestTermsOfLeadership(t *testing.T) {
	do := func(_ *fixture, ctx context.Context, key object.Key, _ client.Writer) (time.Duration, error) {
		if key.Name == "hangs" {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return time.Hour, nil
	}
	inLoop(t, do, func(t *testing.T, f *fixture) {
		if _, err := f.runtime.Pause(t.Context(), "scripted"); err != nil {
			t.Fatal(err)
		}
		f.notify(named("gathered"))
		time.Sleep(time.Minute)
		if s := f.status(); s.Depth != 1 || s.Paused.IsZero() || !s.Running || s.Reconciles != 2 {
			t.Errorf("%+v", s)
		}
		if _, err := f.runtime.Resume("scripted"); err != nil {
			t.Fatal(err)
		}
		f.notify(named("hangs"))
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := f.runtime.Pause(ctx, "scripted")
		if !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), "loop scripted is paused, but 1 keys are in work still, ns/hangs for 2s") {
			t.Errorf("%v", err)
		}
	}, "a", "b")
}

func TestNextTermIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(_ *fixture, _ context.Context, _ object.Key, _ client.Writer) (time.Duration, error) {
			return time.Hour, nil
		}, "a")
		for term := range 3 {
			f.during(t, func(t *testing.T, f *fixture) {
				if s := f.status(); !s.Running || !s.Paused.IsZero() || f.times(named("a")) != term+1 {
					t.Errorf("term %d: %d reconciles, %+v", term, f.times(named("a")), s)
				}
				if _, err := f.runtime.Pause(t.Context(), "scripted"); err != nil {
					t.Error(err)
				}
			})
			s := f.status()
			if s.Running || s.Depth+s.Active+s.Delayed > 0 || !s.Paused.IsZero() {
				t.Errorf("between terms: %+v", s)
			}
			_, pause := f.runtime.Pause(t.Context(), "scripted")
			_, resume := f.runtime.Resume("scripted")
			for _, err := range []error{pause, resume} {
				if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "loop scripted: the loops do not run here") {
					t.Errorf("between terms: %v", err)
				}
			}
		}
	})
}

// What was written in a term is awaited in the next: the caches may have been cut off between.
func TestWritesOfEarlierTermsAreAwaited(t *testing.T) {
	write := func(_ *fixture, ctx context.Context, key object.Key, w client.Writer) (time.Duration, error) {
		_, err := w.Create(ctx, configMap(key))
		return 0, err
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, write, "a")
		f.during(t, func(t *testing.T, f *fixture) {
			if n := f.times(named("a")); n != 1 {
				t.Errorf("%d reconciles", n)
			}
		})
		f.during(t, func(t *testing.T, f *fixture) {
			time.Sleep(3 * time.Second)
			if n := f.times(named("a")); n != 1 {
				t.Errorf("%d reconciles before the cache shows the write", n)
			}
			f.cache.reach(1)
			time.Sleep(lagMost + time.Millisecond)
			if n := f.times(named("a")); n != 2 {
				t.Errorf("%d reconciles when it does", n)
			}
		})
	})
}

func TestWriteOfUnknownOutcomeIsAwaited(t *testing.T) {
	for name, test := range map[string]struct {
		lost  error
		waits bool
	}{
		"Unavailable": {apierrors.NewServiceUnavailable("the connection broke"), true},
		"Timeout":     {apierrors.NewTimeoutError("no answer", 0), true},
		"Cancelled":   {context.Canceled, true},
		"Unheard of":  {errors.New("boom"), true},
		// The object is there, of an earlier attempt, and was not in the cache.
		"Exists":   {apierrors.NewAlreadyExists(loopResource(), "a"), true},
		"Conflict": {apierrors.NewConflict(loopResource(), "a", errors.New("changed")), false},
		"Refused":  {apierrors.NewForbidden(loopResource(), "a", errors.New("no")), false},
	} {
		t.Run(name, func(t *testing.T) {
			write := func(f *fixture, ctx context.Context, key object.Key, w client.Writer) (time.Duration, error) {
				if f.times(key) > 1 {
					return 0, nil
				}
				f.store.lost, f.store.down = test.lost, errors.New("still down")
				_, err := w.Create(ctx, configMap(key))
				return 0, err
			}
			inLoop(t, write, func(t *testing.T, f *fixture) {
				time.Sleep(3 * time.Second)
				if !test.waits {
					if n := f.times(named("a")); n != 2 {
						t.Errorf("%d reconciles after a write that was refused", n)
					}
					return
				}
				if n := f.times(named("a")); n != 1 {
					t.Errorf("%d reconciles before anybody knows of the write", n)
				}
				f.store.mu.Lock()
				f.store.down, f.store.version = nil, 7 // others write, too
				f.store.mu.Unlock()
				time.Sleep(3 * time.Second)
				f.cache.reach(6)
				time.Sleep(3 * time.Second)
				if n := f.times(named("a")); n != 1 {
					t.Errorf("%d reconciles before the cache may show the write", n)
				}
				if s := f.status(); s.Failures != 2 || !strings.Contains(s.Failed.Error, "at version 6, not yet at 7") && !strings.Contains(s.Failed.Error, "is not known: still down") &&
					!strings.Contains(s.Failed.Error, "at version 0, not yet at 7") {
					t.Errorf("%+v", s)
				}
				f.cache.reach(7)
				time.Sleep(lagMost + time.Millisecond)
				if n := f.times(named("a")); n != 2 {
					t.Errorf("%d reconciles when it does", n)
				}
			}, "a")
		})
	}
}

func TestUnknownLoop(t *testing.T) {
	inLoop(t, nil, func(t *testing.T, f *fixture) {
		_, pause := f.runtime.Pause(t.Context(), "other")
		_, resume := f.runtime.Resume("other")
		for _, err := range []error{pause, resume} {
			if !apierrors.IsNotFound(err) || err.Error() != `there is no loop "other": the loops are scripted` {
				t.Errorf("%v", err)
			}
		}
	})
}

func TestDeclarations(t *testing.T) {
	build := func(names ...string) error {
		cfg := RuntimeConfig{Client: &store{}, Clock: clock.RealClock{}, Log: zap.NewNop()}
		for _, name := range names {
			cfg.Controllers = append(cfg.Controllers, &scripted{name: name, cache: newCache()})
		}
		_, err := NewRuntime(cfg)
		return err
	}
	if err := build("a", "b"); err != nil {
		t.Error(err)
	}
	if err := build("a", "a"); err == nil || err.Error() != "two controllers are named a" {
		t.Errorf("%v", err)
	}
}
