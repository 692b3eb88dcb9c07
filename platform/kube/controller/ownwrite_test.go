package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

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
		"Conflict":    {apierrors.NewConflict(loopResource(), "a", errors.New("changed")), false},
		"Refused":     {apierrors.NewForbidden(loopResource(), "a", errors.New("no")), false},
		"Exists":      {apierrors.NewAlreadyExists(loopResource(), "a"), true}, // by a write of ours, surely
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
				if s := f.status(); s.Failures != 2 || !strings.Contains(s.Failed.Error, "at version 6, not yet at 7") && !strings.Contains(s.Failed.Error, "of ConfigMap is not known: still down") &&
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
