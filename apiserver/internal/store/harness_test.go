package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/lifecycle"
)

// index reads test values of the form "node=a color=red rest": fields and labels alike.
func index(_ store.Key, value []byte) (store.Index, error) {
	text, _, _ := strings.Cut(string(value), "\n") // what the version stamp begins with
	if strings.HasPrefix(text, "damaged") {
		return store.Index{}, errors.New("damaged")
	}
	m := map[string]string{}
	for _, word := range strings.Fields(text) {
		if k, v, ok := strings.Cut(word, "="); ok {
			m[k] = v
		}
	}
	return store.Index{Labels: store.AttributesOf(m), Fields: store.AttributesOf(m)}, nil
}

// value is a record's value without its version.
func value(r *store.Record) string {
	text, _, _ := strings.Cut(string(r.Value), "\n")
	return text
}

// instance is a store that runs, and leads when told to.
type instance struct {
	*store.Store
	stop func()
	lead func() (resign func() error)
}

// run starts a store on a backend.
func run(t testing.TB, name string, b store.Backend, change ...func(*store.Config)) *instance {
	t.Helper()
	cfg := store.Config{Name: name, Backend: b, Indexer: index, Log: zaptest.NewLogger(t), Progress: 20 * time.Millisecond}
	for _, c := range change {
		c(&cfg)
	}
	s, err := store.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.Background())
	group.Go(s.Run)
	i := &instance{Store: s}
	i.stop = func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("store %s: %v", name, err)
		}
	}
	i.lead = func() func() error {
		ctx, cancel := context.WithCancel(group.Context())
		result := make(chan error, 1)
		group.Go(func(context.Context) error { result <- s.Lead(ctx); return nil })
		eventually(t, "store "+name+" leads", func() bool {
			select {
			case err := <-result:
				result <- err
				return true
			default:
				return s.Term().Leading
			}
		})
		return func() error { cancel(); return <-result }
	}
	t.Cleanup(i.stop)
	select {
	case <-s.Ready():
	case <-time.After(10 * time.Second):
		t.Fatalf("store %s was not loaded in time", name)
	}
	return i
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func pod(name string) store.Key { return store.Key{Resource: "pods", Namespace: "default", Name: name} }

// set is a write whatever the present state. The value carries a line break, for value.
func set(k store.Key, v string) store.Write {
	return store.Write{Key: k, Decide: func(*store.Record) (store.Change, error) {
		ix, err := index(k, []byte(v))
		return store.Change{Value: []byte(v + "\n"), Index: ix}, err
	}}
}

func remove(k store.Key) store.Write {
	return store.Write{Key: k, Decide: func(*store.Record) (store.Change, error) {
		return store.Change{Delete: true}, nil
	}}
}

func commit(t testing.TB, s *instance, writes ...store.Write) []store.Result {
	t.Helper()
	results, err := s.Commit(context.Background(), store.Group{Writes: writes, User: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return results
}
