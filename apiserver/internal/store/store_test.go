package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
)

func TestWritesReachFollowersWithTheSameVersions(t *testing.T) {
	b := memory.New()
	a, f := run(t, "a", b), run(t, "f", b)
	a.lead()
	commit(t, a, set(pod("x"), "v=1"), set(pod("y"), "v=1"))
	commit(t, a, set(pod("x"), "v=2"), remove(pod("y")), remove(pod("never")))
	if err := f.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, a, f)
	got := f.Snapshot("pods", "")
	if len(got.Records) != 1 || value(got.Records[0]) != "v=2" || got.Records[0].Index.Fields.Get("v") != "2" {
		t.Errorf("follower has %v", got.Records)
	}
	if _, err := f.Commit(t.Context(), store.Group{Writes: []store.Write{remove(pod("x"))}}); !errors.Is(err, store.ErrNotLeading) {
		t.Errorf("write on a follower: %v", err)
	}
	// A store loaded later agrees, too.
	same(t, a, run(t, "late", b))
	same(t, a, run(t, "later", b, func(c *store.Config) { c.Replay = 1 }))
}

// same fails unless both hold the same records at the same versions.
func same(t *testing.T, a, b *instance) {
	t.Helper()
	if err := b.WaitVersion(t.Context(), a.Version()); err != nil {
		t.Fatal(err)
	}
	x, y := a.Snapshot("pods", ""), b.Snapshot("pods", "")
	if !slices.EqualFunc(x.Records, y.Records, func(p, q *store.Record) bool {
		return p.Key == q.Key && p.Version == q.Version && string(p.Value) == string(q.Value)
	}) {
		t.Errorf("stores differ: %v and %v", x.Records, y.Records)
	}
}

func TestDecideSeesCommittedStateOnly(t *testing.T) {
	a := run(t, "a", memory.New())
	a.lead()
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				w := store.Write{Key: pod("counter"), Decide: func(r *store.Record) (store.Change, error) {
					n := 0
					if r != nil {
						_, _ = fmt.Sscanf(value(r), "n=%d", &n)
					}
					return store.Change{Value: fmt.Appendf(nil, "n=%d\n", n+1)}, nil
				}}
				if _, err := a.Commit(context.Background(), store.Group{Writes: []store.Write{w}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r, _ := a.Get(pod("counter"))
	if want := fmt.Sprintf("n=%d", writers*each); value(r) != want {
		t.Errorf("counter is %s, want %s: increments on one key were lost", value(r), want)
	}
}

func TestGroups(t *testing.T) {
	a := run(t, "a", memory.New())
	a.lead()
	refuse := errors.New("refused")
	bad := store.Write{Key: pod("bad"), Decide: func(*store.Record) (store.Change, error) { return store.Change{}, refuse }}

	_, err := a.Commit(t.Context(), store.Group{Atomic: true, Writes: []store.Write{set(pod("x"), "v=1"), bad}})
	if !errors.Is(err, refuse) {
		t.Errorf("atomic group: %v", err)
	}
	if _, found := a.Get(pod("x")); found {
		t.Error("part of a failed atomic group was written")
	}
	results, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{set(pod("x"), "v=1"), bad}})
	if err != nil || results[0].Record == nil || !errors.Is(results[1].Err, refuse) {
		t.Errorf("independent group: %+v: %v", results, err)
	}
	results = commit(t, a, store.Write{Key: pod("x"), Decide: func(*store.Record) (store.Change, error) {
		return store.Change{Keep: true}, nil
	}})
	if current, _ := a.Get(pod("x")); results[0].Record != current {
		t.Error("keep did not return the current record")
	}
	if _, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{set(pod("x"), ""), set(pod("x"), "")}}); err == nil {
		t.Error("one key twice in a group was accepted")
	}
	if _, err := a.Commit(t.Context(), store.Group{Epoch: a.Term().Epoch + 1, Writes: []store.Write{set(pod("x"), "")}}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("foreign epoch: %v, want ErrFenced", err)
	}
	if _, err := a.Commit(t.Context(), store.Group{Epoch: a.Term().Epoch, Writes: []store.Write{set(pod("x"), "v=3")}}); err != nil {
		t.Errorf("own epoch: %v", err)
	}
	big := store.Write{Key: pod("big"), Decide: func(*store.Record) (store.Change, error) {
		return store.Change{Value: make([]byte, 9<<20)}, nil
	}}
	if _, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{big}}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("huge object: %v, want ErrTooLarge", err)
	}
}

// TestFencing pauses a leader between decision and commit, lets another claim, and
// resumes it: nothing of the old epoch may be written.
func TestFencing(t *testing.T) {
	b := memory.New()
	paused, resume := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	b.Fault = func(ops []store.Op) (bool, error) {
		if ops[0].Key == "/o/pods/default/x" && armed.CompareAndSwap(true, false) {
			close(paused)
			<-resume
		}
		return true, nil
	}
	old, next := run(t, "old", b), run(t, "next", b)
	old.lead()
	first := old.Term()
	armed.Store(true)
	result := make(chan error, 1)
	go func() {
		_, err := old.Commit(context.Background(), store.Group{Writes: []store.Write{set(pod("x"), "by=old")}})
		result <- err
	}()
	<-paused
	next.lead()
	commit(t, next, set(pod("y"), "by=next"))
	close(resume)
	if err := <-result; !errors.Is(err, store.ErrNotLeading) {
		t.Errorf("write of the deposed leader: %v, want ErrNotLeading", err)
	}
	if _, err := next.Commit(t.Context(), store.Group{Epoch: first.Epoch, Writes: []store.Write{set(pod("z"), "")}}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("component of the old epoch: %v, want ErrFenced", err)
	}
	eventually(t, "the deposed leader knows its successor", func() bool {
		term := old.Term()
		return term.Epoch == next.Term().Epoch && term.Holder == "next" && !term.Leading
	})
	same(t, next, old)
	if _, found := old.Get(pod("x")); found {
		t.Error("the old epoch wrote")
	}
}

func TestAnswersFromMemoryAreProven(t *testing.T) {
	b := memory.New()
	old, next := run(t, "old", b), run(t, "next", b)
	old.lead()
	commit(t, old, set(pod("x"), "v=1"))
	next.lead()
	commit(t, next, remove(pod("x")))
	// The deposed leader still believes that x exists.
	exists := store.Write{Key: pod("x"), Decide: func(r *store.Record) (store.Change, error) {
		return store.Change{}, fmt.Errorf("exists: %v", r != nil)
	}}
	if _, err := old.Commit(t.Context(), store.Group{Writes: []store.Write{exists}}); !errors.Is(err, store.ErrNotLeading) {
		t.Errorf("deposed leader answered %v", err)
	}
}

func TestUnknownOutcome(t *testing.T) {
	for _, happens := range []bool{true, false} {
		t.Run(fmt.Sprintf("happened %v", happens), func(t *testing.T) {
			b := memory.New()
			var armed atomic.Bool
			b.Fault = func([]store.Op) (bool, error) {
				if armed.CompareAndSwap(true, false) {
					return happens, errors.New("connection lost")
				}
				return true, nil
			}
			a := run(t, "a", b)
			resign := a.lead()
			armed.Store(true)
			g := store.Group{RequestID: "r1", User: "u", Writes: []store.Write{set(pod("x"), "v=1")}}
			results, err := a.Commit(t.Context(), g)
			if happens {
				if err != nil || results[0].Record == nil {
					t.Fatalf("committed after all, but: %v", err)
				}
				return
			}
			if !errors.Is(err, store.ErrUnknownOutcome) {
				t.Fatalf("got %v, want ErrUnknownOutcome", err)
			}
			if err := resign(); !errors.Is(err, store.ErrUnknownOutcome) {
				t.Errorf("the term ended with %v", err)
			}
			a.lead()
			if results, err = a.Commit(t.Context(), g); err != nil || results[0].Repeated {
				t.Errorf("repeated: %+v: %v", results, err)
			}
		})
	}
}

// lossy loses the answer of a commit, which has not happened, while armed.
type lossy struct {
	store.Backend

	armed atomic.Bool
	lost  chan struct{}
}

func (l *lossy) Commit(ctx context.Context, guardKey string, guard int64, ops []store.Op) (int64, error) {
	if !l.armed.CompareAndSwap(true, false) {
		return l.Backend.Commit(ctx, guardKey, guard, ops)
	}
	close(l.lost)
	<-ctx.Done()
	return 0, ctx.Err()
}

// A batch that was lost in a change of etcd's leader keeps nobody waiting for its whole timeout.
func TestChangeOfTheBackendsLeaderLosesABatch(t *testing.T) {
	b := &lossy{Backend: memory.New(), lost: make(chan struct{})}
	changed := make(chan struct{})
	a := run(t, "a", b, func(c *store.Config) {
		c.CommitTimeout, c.Disturbed = time.Hour, func() <-chan struct{} { return changed }
	})
	resign := a.lead()
	b.armed.Store(true)
	ended := make(chan error, 1)
	go func() {
		_, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{set(pod("x"), "v=1")}})
		ended <- err
	}()
	<-b.lost
	select {
	case err := <-ended:
		t.Fatalf("it ended before the change: %v", err)
	case <-time.After(300 * time.Millisecond): // nothing says that nothing will happen
	}
	close(changed)
	if err := <-ended; !errors.Is(err, store.ErrUnknownOutcome) {
		t.Errorf("got %v, want ErrUnknownOutcome", err)
	}
	if err := resign(); !errors.Is(err, store.ErrUnknownOutcome) {
		t.Errorf("the term ended with %v", err)
	}
}

func TestFullDatabaseRefusesWithoutEndingTheTerm(t *testing.T) {
	b := memory.New()
	var full atomic.Bool
	b.Fault = func([]store.Op) (bool, error) {
		if full.Load() {
			return false, store.ErrNoSpace
		}
		return true, nil
	}
	a := run(t, "a", b)
	a.lead()
	epoch := a.Term().Epoch
	full.Store(true)
	_, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{set(pod("x"), "v=1")}})
	if !errors.Is(err, store.ErrRefused) || !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("got %v, want ErrRefused for lack of space", err)
	}
	full.Store(false)
	commit(t, a, set(pod("x"), "v=2"))
	if a.Term().Epoch != epoch {
		t.Error("the term ended")
	}
}

func TestRequestsAreRecognisedAcrossLeaders(t *testing.T) {
	b := memory.New()
	a, f := run(t, "a", b), run(t, "f", b)
	resign := a.lead()
	create := func(s *instance, user string) (store.Result, error) {
		w := store.Write{Key: pod("x"), Decide: func(r *store.Record) (store.Change, error) {
			if r != nil {
				return store.Change{}, errors.New("already exists")
			}
			return store.Change{Value: []byte("v=1\n")}, nil
		}}
		results, err := s.Commit(t.Context(), store.Group{Writes: []store.Write{w}, User: user, RequestID: "r1"})
		if err != nil {
			return store.Result{}, err
		}
		return results[0], nil
	}
	first, err := create(a, "u")
	if err != nil || first.Repeated {
		t.Fatal(first, err)
	}
	again, err := create(a, "u")
	if err != nil || !again.Repeated || again.Record != first.Record {
		t.Errorf("on the same leader: %+v: %v", again, err)
	}
	if _, err := create(a, "somebody else"); err == nil {
		t.Error("another user's request id was taken for this one's")
	}
	if err := resign(); err != nil {
		t.Fatal(err)
	}
	f.lead()
	again, err = create(f, "u")
	if err != nil || !again.Repeated || again.Record.Version != first.Record.Version {
		t.Errorf("on the next leader: %+v: %v", again, err)
	}
	// And on one that was not there when it happened.
	late := run(t, "late", b)
	late.lead()
	again, err = create(late, "u")
	if err != nil || !again.Repeated || again.Record.Version != first.Record.Version {
		t.Errorf("on a leader started later: %+v: %v", again, err)
	}
}

func TestEphemeralObjects(t *testing.T) {
	b := memory.New()
	a, f := run(t, "a", b), run(t, "f", b)
	a.lead()
	put := func(k store.Key, v string, ephemeral bool) {
		t.Helper()
		if _, err := a.Commit(t.Context(), store.Group{Ephemeral: ephemeral, Writes: []store.Write{set(k, v)}}); err != nil {
			t.Fatal(err)
		}
	}
	put(pod("x"), "v=1", true)
	put(pod("x"), "v=2", false) // moves to the durable side
	put(pod("y"), "v=1", false)
	put(pod("y"), "v=2", true)
	put(pod("z"), "v=1", true)
	commit(t, a, remove(pod("z")), remove(pod("y")))
	same(t, a, f)
	same(t, a, run(t, "late", b, func(c *store.Config) { c.Replay = 1 }))
	if got := a.Snapshot("pods", "default"); len(got.Records) != 1 || value(got.Records[0]) != "v=2" {
		t.Errorf("left over: %v", got.Records)
	}
}

func TestDamagedObjectIsSetAside(t *testing.T) {
	b := memory.New()
	a := run(t, "a", b)
	a.lead()
	commit(t, a, set(pod("x"), "v=1"))
	w := store.Write{Key: pod("broken"), Decide: func(*store.Record) (store.Change, error) {
		return store.Change{Value: []byte("damaged\n")}, nil
	}}
	commit(t, a, w)
	late := run(t, "late", b)
	if got := late.Snapshot("pods", ""); len(got.Records) != 1 {
		t.Errorf("listed: %v", got.Records)
	}
	n := 0
	for k, err := range late.Quarantined() {
		if n++; k != pod("broken") || err == nil {
			t.Errorf("quarantined %v: %v", k, err)
		}
	}
	if n != 1 {
		t.Errorf("%d objects in quarantine, want 1", n)
	}
}

// TestDamagedObjectLeavesQuarantine deletes and overwrites objects that nobody can read, also
// below the other prefix, through a leader that has set them aside.
func TestDamagedObjectLeavesQuarantine(t *testing.T) {
	b := memory.New()
	a := run(t, "a", b)
	resign := a.lead()
	damage := func(k store.Key, ephemeral bool) {
		t.Helper()
		w := store.Write{Key: k, Decide: func(*store.Record) (store.Change, error) {
			return store.Change{Value: []byte("damaged\n")}, nil
		}}
		if _, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{w}, Ephemeral: ephemeral}); err != nil {
			t.Fatal(err)
		}
	}
	for i, ephemeral := range []bool{false, true} {
		damage(pod(fmt.Sprint("deleted", i)), ephemeral)
		damage(pod(fmt.Sprint("overwritten", i)), ephemeral)
	}
	if err := resign(); err != nil {
		t.Fatal(err)
	}
	leader := run(t, "leader", b)
	follower := run(t, "follower", b)
	leader.lead()
	aside := func(s *instance) (n int) {
		for _, reason := range s.Quarantined() {
			if reason != nil {
				n++
			}
		}
		return n
	}
	if aside(leader) != 4 || leader.SetAside(pod("deleted0")) == nil {
		t.Fatalf("%d objects are set aside, want 4", aside(leader))
	}
	results := commit(t, leader, remove(pod("deleted0")), remove(pod("deleted1")), set(pod("overwritten0"), "v=1"), set(pod("overwritten1"), "v=1"))
	for i, r := range results[:2] {
		if r.Record != nil || r.Err != nil {
			t.Errorf("deletion %d: %+v", i, r)
		}
	}
	same(t, leader, follower)
	late := run(t, "late", b, func(c *store.Config) { c.Replay = 1 })
	for name, s := range map[string]*instance{"leader": leader, "follower": follower, "late": late} {
		if n := aside(s); n != 0 {
			t.Errorf("%s still has %d objects set aside", name, n)
		}
		if got := s.Snapshot("pods", "").Records; len(got) != 2 {
			t.Errorf("%s lists %v", name, got)
		}
	}
}

// TestFullStore has no space left: what makes room goes on, and all does once there is room again.
func TestFullStore(t *testing.T) {
	b := memory.New()
	a := run(t, "a", b)
	a.lead()
	going := func(v string) store.Write { // an object that is being deleted
		return store.Write{Key: pod("going"), Decide: func(*store.Record) (store.Change, error) {
			return store.Change{Value: []byte(v + "\n"), Index: store.Index{Deleting: true}}, nil
		}}
	}
	beat := store.Key{Resource: "leases", Name: "n1"}
	commit(t, a, set(pod("x"), "v=1"), set(pod("y"), "v=1"), set(pod("going"), "v=1"))
	if _, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{set(beat, "v=1")}, Ephemeral: true}); err != nil {
		t.Fatal(err)
	}
	full := fmt.Errorf("%w: test", store.ErrFull)
	a.SetRoom(1<<10, full)
	commit(t, a, set(pod("last"), "v="+strings.Repeat("x", 1<<10)))
	for name, c := range map[string]struct {
		write     store.Write
		ephemeral bool
		want      error
	}{
		"create":                   {write: set(pod("new"), "v=1"), want: full},
		"create for a while":       {write: set(pod("event"), "v=1"), ephemeral: true, want: full},
		"same size":                {write: set(pod("x"), "v=2"), want: full},
		"larger":                   {write: set(pod("x"), "v=1 w=2"), want: full},
		"smaller":                  {write: set(pod("x"), "v=")},
		"mark for deletion":        {write: going("v=1 deleted=now")},
		"last words":               {write: going("v=1 deleted=now status=failed")},
		"delete":                   {write: remove(pod("y"))},
		"heartbeat":                {write: set(beat, "v=2"), ephemeral: true},
		"heartbeat that is larger": {write: set(beat, "v=2 and more than there was room for a version"), ephemeral: true, want: full},
	} {
		if _, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{c.write}, Ephemeral: c.ephemeral}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	results, err := a.Commit(t.Context(), store.Group{Writes: []store.Write{remove(pod("going")), set(pod("new"), "v=1")}})
	if err != nil || results[0].Err != nil || !errors.Is(results[1].Err, full) {
		t.Errorf("a mixed group: %+v: %v", results, err)
	}
	if !a.Term().Leading {
		t.Error("it does not lead any more")
	}
	a.SetRoom(0, nil)
	commit(t, a, set(pod("new"), "v=1"))
}

// tally is an Observer that counts, and checks its call order.
type tally struct {
	mu      sync.Mutex
	objects map[store.Key]uint64
	applied int
	open    bool
}

func (o *tally) Reset(all iter.Seq[*store.Record]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.objects = map[store.Key]uint64{}
	for r := range all {
		o.objects[r.Key] = r.Version
	}
}

func (o *tally) Begin() { o.mu.Lock(); o.open = true; o.mu.Unlock() }

func (o *tally) Apply(events []store.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range events {
		if o.applied++; e.Type == store.Deleted {
			delete(o.objects, e.Record.Key)
		} else {
			o.objects[e.Record.Key] = e.Record.Version
		}
	}
}

func TestObserversAreExactWhenWritersLearn(t *testing.T) {
	b := memory.New()
	s, err := store.New(store.Config{})
	if err == nil || s != nil {
		t.Error("a store without configuration was made")
	}
	o := &tally{}
	a := run(t, "a", b)
	a.stop()
	a = observed(t, b, o)
	a.lead()
	for i := range 20 {
		r := commit(t, a, set(pod(fmt.Sprint(i)), "v=1"))
		o.mu.Lock()
		if o.objects[r[0].Record.Key] != r[0].Record.Version {
			t.Errorf("write %d was acknowledged before the observer knew it", i)
		}
		o.mu.Unlock()
	}
	late := &tally{}
	observed(t, b, late)
	if len(late.objects) != 20 {
		t.Errorf("a later observer counts %d objects, want 20", len(late.objects))
	}
}

func observed(t *testing.T, b store.Backend, o store.Observer) *instance {
	t.Helper()
	return run(t, "observed", b, func(c *store.Config) { c.Observers = []store.Observer{o} })
}

func TestFreshFollowsWhatWasAcknowledged(t *testing.T) {
	b := memory.New()
	a, f := run(t, "a", b), run(t, "f", b)
	a.lead()
	for i := range 200 {
		r := commit(t, a, set(pod("x"), fmt.Sprintf("v=%d", i)))
		if err := f.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, _ := f.Get(pod("x")); got == nil || got.Version < r[0].Record.Version {
			t.Fatalf("consistent read %d is stale", i)
		}
		if err := a.Fresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// One proof serves all reads of a request, and those of no other store.
func TestProofIsForOneRequest(t *testing.T) {
	b := memory.New()
	a, f := run(t, "a", b), run(t, "f", b)
	a.lead()
	r := commit(t, a, set(pod("x"), "v=1"))
	ctx, err := f.Prove(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := f.Get(pod("x")); got == nil || got.Version < r[0].Record.Version {
		t.Fatal("what was proven is stale")
	}
	f.stop() // now nothing can be proven
	if err := f.Fresh(ctx); err != nil {
		t.Errorf("with a proof: %v", err)
	}
	if err := f.Fresh(t.Context()); !errors.Is(err, store.ErrStopped) {
		t.Errorf("without one: %v", err)
	}
	a.stop()
	if err := a.Fresh(ctx); !errors.Is(err, store.ErrStopped) {
		t.Errorf("with another store's: %v", err)
	}
}

func TestCommitHonoursItsContext(t *testing.T) {
	b := memory.New()
	entered, release := make(chan struct{}, 1), make(chan struct{})
	var armed atomic.Bool
	b.Fault = func([]store.Op) (bool, error) {
		if armed.CompareAndSwap(true, false) {
			entered <- struct{}{}
			<-release
		}
		return true, nil
	}
	a := run(t, "a", b)
	a.lead()
	armed.Store(true)
	inFlight, cancelInFlight := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := a.Commit(inFlight, store.Group{Writes: []store.Write{set(pod("x"), "v=1")}})
		result <- err
	}()
	<-entered
	queued, cancelQueued := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancelQueued()
	_, err := a.Commit(queued, store.Group{Writes: []store.Write{set(pod("y"), "v=1")}})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrUnknownOutcome) {
		t.Errorf("queued write given up: %v", err)
	}
	cancelInFlight()
	if err := <-result; !errors.Is(err, store.ErrUnknownOutcome) {
		t.Errorf("write in flight given up: %v", err)
	}
	close(release)
	commit(t, a, set(pod("z"), "v=1"))
	if _, found := a.Get(pod("y")); found {
		t.Error("a withdrawn write happened")
	}
}

// Rewriting gives an object a new version and changes nothing else, where it is stored included.
func TestRewrite(t *testing.T) {
	b := memory.New()
	a, follower := run(t, "a", b), run(t, "b", b)
	a.lead()
	commit(t, a, set(pod("lasting"), "node=n1 lasting"))
	if _, err := a.Commit(t.Context(), store.Group{User: "test", Ephemeral: true, Writes: []store.Write{set(pod("passing"), "node=n2 passing")}}); err != nil {
		t.Fatal(err)
	}
	rewrite := func(k store.Key) store.Write {
		return store.Write{Key: k, Decide: func(*store.Record) (store.Change, error) { return store.Change{Rewrite: true}, nil }}
	}
	for range 3 {
		for _, name := range []string{"lasting", "passing"} {
			before, _ := a.Get(pod(name))
			after := commit(t, a, rewrite(pod(name)))[0].Record
			if after.Version <= before.Version || value(after) != value(before) || len(after.Value) != len(before.Value) || after.Index.Fields.Get("node") != before.Index.Fields.Get("node") {
				t.Errorf("%s: %q at %d, then %q at %d", name, before.Value, before.Version, after.Value, after.Version)
			}
		}
	}
	if r := commit(t, a, rewrite(pod("none")))[0].Record; r != nil {
		t.Errorf("rewriting nothing made %q", r.Value)
	}
	for key, want := range map[string]bool{
		"/o/pods/default/lasting": true, "/e/pods/default/lasting": false, "/e/pods/default/passing": true, "/o/pods/default/passing": false, "/o/pods/default/none": false,
	} {
		if pair, _, err := b.Read(t.Context(), key); err != nil || (pair.Key != "") != want {
			t.Errorf("%s is stored: %v, want %v: %v", key, pair.Key != "", want, err)
		}
	}
	eventually(t, "the follower has it", func() bool { return follower.Version() == a.Version() })
	for _, name := range []string{"lasting", "passing"} {
		onA, _ := a.Get(pod(name))
		onB, ok := follower.Get(pod(name))
		if !ok || onA.Version != onB.Version || string(onA.Value) != string(onB.Value) {
			t.Errorf("%s differs on the follower", name)
		}
	}
}
