package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
)

// forgetful is a backend whose manifest can often not be read, so that outcomes stay unknown.
type forgetful struct {
	store.Backend
	dice func(int) int
}

func (f *forgetful) Read(ctx context.Context, key string) (store.Pair, int64, error) {
	if key == "/manifest" && f.dice(2) == 0 {
		<-ctx.Done()
		return store.Pair{}, 0, ctx.Err()
	}
	return f.Backend.Read(ctx, key)
}

// TestIncrementsSurviveChangesOfLeader lets writers count up through whichever store leads
// while leadership moves about and commits lose their answers. Every increment is repeated
// under one request id until it is acknowledged; each must have happened exactly once.
func TestIncrementsSurviveChangesOfLeader(t *testing.T) {
	const writers, each = 6, 60
	b := memory.New()
	var mu sync.Mutex
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dice := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	b.Fault = func(ops []store.Op) (bool, error) {
		switch {
		case ops[0].Key == "/fence":
			return true, nil
		case dice(20) == 0:
			return true, errors.New("answer lost")
		case dice(20) == 0:
			return false, errors.New("request lost")
		}
		return true, nil
	}
	var stores []*instance
	for i := range 3 {
		stores = append(stores, run(t, fmt.Sprintf("s%d", i), &forgetful{Backend: b, dice: dice}, func(c *store.Config) { c.CommitTimeout = 20 * time.Millisecond }))
	}
	done := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			// A new leader claims while the old one still believes in itself.
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+dice(20))*time.Millisecond)
			s := stores[dice(len(stores))]
			chaos.Go(func() {
				defer cancel()
				_ = s.Lead(ctx) // lost in all the ways there are
			})
			<-time.After(time.Duration(dice(10)) * time.Millisecond)
			if dice(2) == 0 {
				<-ctx.Done()
			}
		}
	})
	var wg sync.WaitGroup
	repeated := make([]int, writers)
	for w := range writers {
		wg.Go(func() {
			k := pod(fmt.Sprintf("counter%d", w))
			for i := range each {
				g := store.Group{User: "u", RequestID: fmt.Sprintf("w%d-%d", w, i), Writes: []store.Write{{
					Key: k, Decide: func(r *store.Record) (store.Change, error) {
						n := 0
						if r != nil {
							_, _ = fmt.Sscanf(value(r), "n=%d", &n)
						}
						return store.Change{Value: fmt.Appendf(nil, "n=%d\n", n+1)}, nil
					},
				}}}
				for deadline := time.Now().Add(20 * time.Second); ; {
					s := stores[dice(len(stores))]
					results, err := s.Commit(context.Background(), g)
					if err == nil {
						if results[0].Repeated {
							repeated[w]++
						}
						break
					}
					if !errors.Is(err, store.ErrNotLeading) && !errors.Is(err, store.ErrUnknownOutcome) {
						t.Errorf("increment: %v", err)
						return
					}
					if time.Now().After(deadline) {
						t.Error("no increment in time")
						return
					}
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	chaos.Wait()
	t.Logf("answered again per writer: %v", repeated)
	for _, s := range stores {
		if err := s.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		same(t, stores[0], s)
		for w := range writers {
			r, found := s.Get(pod(fmt.Sprintf("counter%d", w)))
			if want := fmt.Sprintf("n=%d", each); !found || value(r) != want {
				t.Errorf("counter %d is %v, want %s", w, r, want)
			}
		}
	}
}
