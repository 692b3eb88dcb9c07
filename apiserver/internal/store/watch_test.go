package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
)

// line describes an event.
func line(e store.Event) string {
	return fmt.Sprintf("%s%s %s@%d", map[store.EventType]string{store.Added: "+", store.Modified: "*", store.Deleted: "-"}[e.Type],
		e.Record.Key.Name, value(e.Record), e.Record.Version)
}

// watching is a watcher and the version it began at.
type watching struct {
	*store.Watcher
	after uint64
}

func watch(t testing.TB, s *instance, opts store.WatchOptions) watching {
	t.Helper()
	w, err := s.Watch(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return watching{w, opts.After}
}

// until reads events until the watch has progressed to version.
func until(t testing.TB, w watching, version uint64) (events []store.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	progress := w.after
	for progress < version {
		b, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("watch at %d of %d: %v", progress, version, err)
		}
		if b.Progress < progress {
			t.Fatalf("progress went back from %d to %d", progress, b.Progress)
		}
		for _, e := range b.Events {
			if e.Record.Version > b.Progress {
				t.Fatalf("event %s beyond the progress %d", line(e), b.Progress)
			}
		}
		progress = b.Progress
		events = append(events, b.Events...)
	}
	return events
}

func lines(events []store.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, line(e))
	}
	return out
}

// contents lists the pods of a namespace as they were at a version.
func contents(t testing.TB, s *instance, version uint64) []string {
	t.Helper()
	snapshot, err := s.SnapshotAt(t.Context(), "pods", "default", version)
	if err != nil {
		t.Fatal(err)
	}
	if snapshot.Version != version {
		t.Fatalf("snapshot of %d, want %d", snapshot.Version, version)
	}
	var out []string
	for _, r := range snapshot.Records {
		out = append(out, fmt.Sprintf("%s %s@%d", r.Key.Name, value(r), r.Version))
	}
	return out
}

// TestResumeAtEveryEvent writes random batches, and at every single event resumes a watch and
// lists what was then, on the leader, on a follower and on a store loaded later: nothing may be
// lost, doubled or reordered, and all must agree.
func TestResumeAtEveryEvent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := memory.New()
		a, f := run(t, "a", b), run(t, "f", b)
		a.lead()
		start := a.Version()
		names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		for range rapid.IntRange(1, 8).Draw(rt, "groups") {
			var writes []store.Write
			for _, n := range rapid.SliceOfNDistinct(names, 1, 4, rapid.ID[string]).Draw(rt, "names") {
				if rapid.Bool().Draw(rt, "remove") {
					writes = append(writes, remove(pod(n)))
				} else {
					writes = append(writes, set(pod(n), fmt.Sprintf("v=%d", rapid.IntRange(0, 9).Draw(rt, "v"))))
				}
			}
			commit(t, a, writes...)
		}
		end := a.Version()
		all := lines(until(t, watch(t, a, store.WatchOptions{Resource: "pods", After: start}), end))
		late := run(t, "late", b)
		for _, s := range []*instance{a, f, late} {
			events := until(t, watch(t, s, store.WatchOptions{Resource: "pods", After: start}), end)
			if !slices.Equal(lines(events), all) {
				rt.Fatalf("histories differ:\n%v\n%v", lines(events), all)
			}
			was := map[string]string{}
			for i, e := range events {
				if e.Type == store.Deleted {
					delete(was, e.Record.Key.Name)
				} else {
					was[e.Record.Key.Name] = fmt.Sprintf("%s %s@%d", e.Record.Key.Name, value(e.Record), e.Record.Version)
				}
				if got, want := contents(t, s, e.Record.Version), slices.Sorted(maps.Values(was)); !slices.Equal(got, want) {
					rt.Fatalf("at %d:\n%v, want\n%v", e.Record.Version, got, want)
				}
				rest := lines(until(t, watch(t, s, store.WatchOptions{Resource: "pods", After: e.Record.Version}), end))
				if !slices.Equal(rest, all[i+1:]) {
					rt.Fatalf("resumed after %s:\n%v, want\n%v", line(e), rest, all[i+1:])
				}
			}
		}
		a.stop()
		f.stop()
		late.stop()
	})
}

func TestWatchSelectors(t *testing.T) {
	a := run(t, "a", memory.New())
	a.lead()
	other := store.Key{Resource: "pods", Namespace: "other", Name: "z"}
	start := a.Version()
	red := func(r *store.Record) bool { return r.Index.Labels.Get("color") == "red" }
	all := watch(t, a, store.WatchOptions{Resource: "pods", After: start})
	reds := watch(t, a, store.WatchOptions{Resource: "pods", After: start, Filter: red})
	onA := watch(t, a, store.WatchOptions{Resource: "pods", After: start, Field: "node", Value: "a"})
	onB := watch(t, a, store.WatchOptions{Resource: "pods", After: start, Field: "node", Value: "b"})
	inOther := watch(t, a, store.WatchOptions{Resource: "pods", After: start, Namespace: "other"})
	onAInOther := watch(t, a, store.WatchOptions{Resource: "pods", After: start, Namespace: "other", Field: "node", Value: "a"})
	nodes := watch(t, a, store.WatchOptions{Resource: "nodes", After: start})

	commit(t, a, set(pod("x"), "color=red node=a"), set(other, "color=blue node=a"))
	commit(t, a, set(pod("x"), "color=blue node=b"))
	commit(t, a, set(pod("x"), "color=red node=b"), remove(other))
	commit(t, a, remove(pod("x")))
	end := a.Version()

	strip := func(events []store.Event) string {
		var out []string
		for _, l := range lines(events) {
			l, _, _ = strings.Cut(l, "@")
			out = append(out, l)
		}
		return strings.Join(out, ", ")
	}
	for _, c := range []struct {
		name string
		w    watching
		want string
	}{
		{"all", all, "+x color=red node=a, +z color=blue node=a, *x color=blue node=b, *x color=red node=b, -z color=blue node=a, -x color=red node=b"},
		{"red", reds, "+x color=red node=a, -x color=red node=a, +x color=red node=b, -x color=red node=b"},
		{"node a", onA, "+x color=red node=a, +z color=blue node=a, -x color=red node=a, -z color=blue node=a"},
		{"node b", onB, "+x color=blue node=b, *x color=red node=b, -x color=red node=b"},
		{"other", inOther, "+z color=blue node=a, -z color=blue node=a"},
		{"node a in other", onAInOther, "+z color=blue node=a, -z color=blue node=a"},
		{"nodes", nodes, ""},
	} {
		if got := strip(until(t, c.w, end)); got != c.want {
			t.Errorf("%s:\n%s, want\n%s", c.name, got, c.want)
		}
	}
	// The history gives the same to one that comes late.
	late := watch(t, a, store.WatchOptions{Resource: "pods", After: start, Field: "node", Value: "a", Filter: red})
	if got, want := strip(until(t, late, end)), "+x color=red node=a, -x color=red node=a"; got != want {
		t.Errorf("late: %s, want %s", got, want)
	}
}

func TestSlowWatcherIsEnded(t *testing.T) {
	a := run(t, "a", memory.New())
	a.lead()
	slow := watch(t, a, store.WatchOptions{Resource: "pods", After: a.Version(), Buffer: 5})
	for i := range 20 {
		commit(t, a, set(pod("x"), fmt.Sprintf("v=%d", i))) // must not block
	}
	var err error
	for err == nil {
		_, err = slow.Next(t.Context())
	}
	if !errors.Is(err, store.ErrExpired) {
		t.Errorf("slow watch ended with %v, want ErrExpired", err)
	}
}

// A watcher that leaves much unread is ended, too, however few events that is.
func TestWatcherThatIsManyBytesBehindIsEnded(t *testing.T) {
	a := run(t, "a", memory.New())
	a.lead()
	slow := watch(t, a, store.WatchOptions{Resource: "pods", After: a.Version()})
	quick := watch(t, a, store.WatchOptions{Resource: "pods", After: a.Version()})
	big := strings.Repeat("v", 1<<20)
	for i := range 80 {
		commit(t, a, set(pod("x"), fmt.Sprintf("v=%d%s", i, big)))
		if _, err := quick.Next(t.Context()); err != nil {
			t.Fatalf("a watcher that reads: %v", err)
		}
	}
	patience, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var err error
	for err == nil {
		_, err = slow.Next(patience)
	}
	if !errors.Is(err, store.ErrExpired) {
		t.Errorf("slow watch ended with %v, want ErrExpired", err)
	}
}

func TestOldWatchIsRefused(t *testing.T) {
	a := run(t, "a", memory.New(), func(c *store.Config) { c.History = 3 })
	a.lead()
	start := a.Version()
	for i := range 10 {
		commit(t, a, set(pod("x"), fmt.Sprintf("v=%d", i)))
	}
	if _, err := a.Watch(t.Context(), store.WatchOptions{Resource: "pods", After: start}); !errors.Is(err, store.ErrExpired) {
		t.Errorf("watch before the history: %v, want ErrExpired", err)
	}
	if _, err := a.SnapshotAt(t.Context(), "pods", "", start); !errors.Is(err, store.ErrExpired) {
		t.Errorf("snapshot before the history: %v, want ErrExpired", err)
	}
	watch(t, a, store.WatchOptions{Resource: "nodes", After: start}) // nothing happened there
	ahead, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := a.Watch(ahead, store.WatchOptions{Resource: "pods", After: a.Version() + 1<<20}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("watch ahead of memory: %v", err)
	}
}

func TestSnapshotAndWatchMeet(t *testing.T) {
	a := run(t, "a", memory.New())
	a.lead()
	stop := make(chan struct{})
	written := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				written <- n
				return
			default:
				commit(t, a, set(pod(fmt.Sprintf("p%04d", n)), "v=1"))
				n++
			}
		}
	}()
	type view struct {
		snapshot store.Snapshot
		w        *store.Watcher
	}
	var views []view
	for range 50 {
		s, w, err := a.SnapshotAndWatch(t.Context(), store.WatchOptions{Resource: "pods"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		views = append(views, view{s, w})
	}
	close(stop)
	n := <-written
	for i, v := range views {
		seen := map[store.Key]bool{}
		for _, r := range v.snapshot.Records {
			seen[r.Key] = true
		}
		if !slices.IsSortedFunc(v.snapshot.Records, func(a, b *store.Record) int { return strings.Compare(a.Key.Name, b.Key.Name) }) {
			t.Errorf("snapshot %d is not in order", i)
		}
		for _, e := range until(t, watching{v.w, v.snapshot.Version}, a.Version()) {
			if e.Type != store.Added || seen[e.Record.Key] {
				t.Errorf("view %d: %s came twice", i, line(e))
			}
			seen[e.Record.Key] = true
		}
		if len(seen) != n {
			t.Errorf("view %d saw %d objects, want %d", i, len(seen), n)
		}
	}
}

func TestIdleWatchAdvances(t *testing.T) {
	a := run(t, "a", memory.New())
	a.lead()
	w := watch(t, a, store.WatchOptions{Resource: "nodes", After: a.Version()})
	commit(t, a, set(pod("x"), "v=1"))
	if events := until(t, w, a.Version()); len(events) != 0 {
		t.Errorf("got %v", lines(events))
	}
}

func TestCompactedFollowerLoadsAnew(t *testing.T) {
	b := memory.New()
	a := run(t, "a", b)
	resign := a.lead()
	commit(t, a, set(pod("x"), "v=1"))
	if err := resign(); err != nil {
		t.Fatal(err)
	}
	// A store that begins where history is gone loads the newest state.
	b.Compact(store.RevisionOf(a.Version()))
	late := run(t, "late", b)
	same(t, a, late)
	late.lead()
	commit(t, late, set(pod("y"), "v=1"))
	same(t, late, a)
}
