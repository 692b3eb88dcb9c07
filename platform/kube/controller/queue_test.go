package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func named(name string) object.Key { return object.Key{Namespace: "ns", Name: name} }

// inQueue runs a test in a bubble of time with an open queue that is tended.
func inQueue(t *testing.T, test func(t *testing.T, q *queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(clock.RealClock{})
		q.open()
		group := lifecycle.NewGroup(t.Context())
		group.Go(q.tend)
		test(t, q)
		q.close()
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// take returns the keys that can be had now, without their being done.
func take(q *queue) []string {
	var names []string
	for {
		synctest.Wait()
		q.mu.Lock()
		n := len(q.order)
		paused := !q.paused.IsZero()
		q.mu.Unlock()
		if n == 0 || paused {
			return names
		}
		key, _ := q.get()
		names = append(names, key.Name)
	}
}

func want(t *testing.T, have []string, names ...string) {
	t.Helper()
	if !slices.Equal(have, names) {
		t.Fatalf("got %v, want %v", have, names)
	}
}

func TestKeyIsInTheQueueOnce(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		for _, name := range []string{"a", "b", "a", "c", "a"} {
			q.add(named(name))
		}
		want(t, take(q), "a", "b", "c")
		q.add(named("a"))
		q.add(named("b"))
		want(t, take(q)) // they are in work
		if s := q.status("x"); s.Depth != 2 || s.Active != 3 || s.Adds != 5 {
			t.Errorf("%+v", s)
		}
		q.done(named("b"))
		want(t, take(q), "b")
		q.done(named("a"))
		q.done(named("c"))
		want(t, take(q), "a")
	})
}

func TestDelays(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		q.addAfter(named("late"), time.Hour)
		q.addAfter(named("a"), 10*time.Second)
		q.addAfter(named("b"), 20*time.Second)
		q.addAfter(named("a"), 30*time.Second) // no later than it was
		q.addAfter(named("b"), 5*time.Second)  // sooner
		q.addAfter(named("now"), 0)
		want(t, take(q), "now")
		time.Sleep(5*time.Second - 1)
		want(t, take(q))
		time.Sleep(1 * time.Nanosecond)
		want(t, take(q), "b")
		time.Sleep(5 * time.Second)
		want(t, take(q), "a")
		if s := q.status("x"); s.Delayed != 1 || s.Depth != 0 {
			t.Errorf("%+v", s)
		}
		// Work on a key is what a delay of it was for.
		q.add(named("late"))
		want(t, take(q), "late")
		for _, name := range []string{"late", "a", "b", "now"} {
			q.done(named(name))
		}
		time.Sleep(2 * time.Hour)
		want(t, take(q))
		if len(q.later) != 0 || len(q.delayed) != 0 {
			t.Errorf("%d, %d delays are left", len(q.later), len(q.delayed))
		}
	})
}

func TestDelaysThatAreReplacedLeaveNothing(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		for range 1000 {
			q.add(named("a"))
			want(t, take(q), "a")
			q.addAfter(named("a"), time.Hour)
			q.done(named("a"))
		}
		if len(q.later) != 1 {
			t.Errorf("%d delays of one key", len(q.later))
		}
	})
}

func TestRetriesGrow(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		pause := func() time.Duration {
			began := time.Now()
			q.retry(named("a"))
			key, _ := q.get()
			q.done(key)
			return time.Since(began)
		}
		expected := retryFirst
		for range 20 {
			if have := pause(); have != expected {
				t.Fatalf("paused for %s, want %s", have, expected)
			}
			expected = min(2*expected, retryMost)
		}
		q.forget(named("a"))
		if have := pause(); have != retryFirst {
			t.Errorf("after a success it pauses for %s", have)
		}
		if s := q.status("x"); s.Retries != 21 || s.Adds != 21 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAgesAndHistograms(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		q.add(named("a"))
		time.Sleep(2 * time.Second)
		q.add(named("b"))
		time.Sleep(time.Second)
		s := q.status("x")
		if s.OldestKey != named("a") || s.Oldest != 3*time.Second || s.Depth != 2 {
			t.Errorf("%+v", s)
		}
		q.get()
		time.Sleep(4 * time.Second)
		q.get()
		time.Sleep(time.Second)
		q.add(named("a"))
		time.Sleep(time.Second)
		s = q.status("x")
		if s.OldestKey != named("a") || s.Oldest != time.Second || s.LongestKey != named("a") || s.Longest != 6*time.Second || s.Unfinished != 8*time.Second {
			t.Errorf("%+v", s)
		}
		q.done(named("a"))
		s = q.status("x")
		if s.Waited.Count != 2 || s.Waited.Sum != 8 || s.Worked.Count != 1 || s.Worked.Sum != 6 {
			t.Errorf("%+v", s)
		}
		if s.Worked.Counts != [bucketCount]uint64{0, 0, 0, 0, 0, 0, 0, 1, 1, 1} || s.Waited.Counts != [bucketCount]uint64{0, 0, 0, 0, 0, 0, 0, 2, 2, 2} {
			t.Errorf("buckets %v, %v", s.Worked.Counts, s.Waited.Counts)
		}
	})
}

func TestRateIsThatOfTheLastMinute(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		check := func(expected float64) {
			t.Helper()
			if have := q.status("x").Rate; have != expected {
				t.Errorf("rate %v, want %v", have, expected)
			}
		}
		for range 30 {
			q.count(Failure{})
		}
		check(0.5)
		time.Sleep(30 * time.Second)
		for range 30 {
			q.count(Failure{})
		}
		check(1)
		time.Sleep(30 * time.Second)
		check(0.5)
		time.Sleep(10 * time.Minute)
		check(0)
	})
}

func TestPauseWaitsForWhatIsInWork(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		q.add(named("a"))
		want(t, take(q), "a")
		paused := make(chan error, 1)
		go func() { paused <- q.pause(t.Context()) }()
		synctest.Wait()
		q.add(named("b"))
		q.addAfter(named("c"), time.Second)
		time.Sleep(time.Minute)
		want(t, take(q))
		select {
		case err := <-paused:
			t.Fatalf("paused while a key is in work: %v", err)
		default:
		}
		q.done(named("a"))
		if err := <-paused; err != nil {
			t.Fatal(err)
		}
		if s := q.status("x"); s.Depth != 2 || s.Paused.IsZero() || s.Active != 0 {
			t.Errorf("what became due is not gathered: %+v", s)
		}
		if err := q.pause(t.Context()); err != nil {
			t.Errorf("pausing again: %v", err)
		}
		if err := q.resume(); err != nil {
			t.Fatal(err)
		}
		want(t, take(q), "b", "c")
		if err := q.resume(); err != nil {
			t.Errorf("resuming again: %v", err)
		}
	})
}

func TestPauseThatCannotWait(t *testing.T) {
	inQueue(t, func(t *testing.T, q *queue) {
		q.add(named("a"))
		want(t, take(q), "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if q.status("x").Paused.IsZero() {
			t.Error("it is not paused all the same")
		}
		outcome := make(chan error, 1)
		again := func() { outcome <- q.pause(t.Context()) }
		go again()
		synctest.Wait()
		if err := q.resume(); err != nil {
			t.Error(err)
		}
		if err := <-outcome; !errors.Is(err, errResumed) {
			t.Errorf("pause that somebody ends: %v", err)
		}
		go again()
		synctest.Wait()
		q.close()
		if err := <-outcome; !errors.Is(err, errNotRunning) {
			t.Errorf("pause when the term ends: %v", err)
		}
		if err := q.pause(t.Context()); !errors.Is(err, errNotRunning) {
			t.Errorf("pause after the term: %v", err)
		}
		if err := q.resume(); !errors.Is(err, errNotRunning) {
			t.Errorf("resume after the term: %v", err)
		}
		q.add(named("b"))
		q.addAfter(named("b"), time.Second)
		q.open()
		if s := q.status("x"); !s.Paused.IsZero() || s.Depth != 0 || s.Delayed != 0 || s.Active != 0 {
			t.Errorf("something outlives the term: %+v", s)
		}
	})
}

// Whatever workers do, a key is with one of them at a time, and what became due is worked on afterwards.
func TestNothingIsLostOrDoneTwiceAtOnce(t *testing.T) {
	for seed := range uint64(20) {
		inQueue(t, func(t *testing.T, q *queue) {
			random := rand.New(rand.NewPCG(seed, 7))
			var mu sync.Mutex
			dirty, busy := map[object.Key]bool{}, map[object.Key]bool{}
			var workers sync.WaitGroup
			for range 4 {
				workers.Go(func() {
					for {
						key, ok := q.get()
						if !ok {
							return
						}
						mu.Lock()
						if busy[key] {
							t.Errorf("%s is with two workers", key)
						}
						busy[key] = true
						delete(dirty, key)
						pause := time.Duration(random.IntN(20)) * time.Millisecond
						again := random.IntN(4)
						mu.Unlock()
						time.Sleep(pause)
						mu.Lock()
						delete(busy, key)
						mu.Unlock()
						switch again {
						case 0:
							q.retry(key)
						case 1:
							q.addAfter(key, pause)
						default:
							q.forget(key)
						}
						q.done(key)
					}
				})
			}
			for i := range 500 {
				key := named(fmt.Sprint(random.IntN(10)))
				mu.Lock()
				dirty[key] = true
				mu.Unlock()
				q.add(key)
				mu.Lock()
				pause := time.Duration(random.IntN(5)) * time.Millisecond
				mu.Unlock()
				time.Sleep(pause)
				if i%100 == 50 {
					if err := q.pause(t.Context()); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Second)
					mu.Lock()
					n := len(busy)
					mu.Unlock()
					if n != 0 {
						t.Errorf("%d keys in work while paused", n)
					}
					if err := q.resume(); err != nil {
						t.Error(err)
					}
				}
			}
			time.Sleep(time.Minute)
			mu.Lock()
			if len(dirty) > 0 {
				t.Errorf("never worked on after they became due: %v", dirty)
			}
			mu.Unlock()
			q.close()
			workers.Wait()
		})
	}
}
