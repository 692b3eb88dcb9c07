// Package storagetest is the conformance suite of store.Backend.
package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/store"
)

const guard = "/guard"

// Suite says how to make what is tested.
type Suite struct {
	// New returns an empty backend; it is closed by t's cleanup.
	New func(t *testing.T) store.Backend
	// Compact forgets the revisions before the given one.
	Compact func(t *testing.T, b store.Backend, revision int64)
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Helper()
	t.Run("commit and read", s.commitAndRead)
	t.Run("guard", s.guard)
	t.Run("load", s.load)
	t.Run("watch", s.watch)
	t.Run("compaction", s.compaction)
}

func put(k, v string) store.Op { return store.Op{Key: k, Value: []byte(v)} }
func del(k string) store.Op    { return store.Op{Key: k, Delete: true} }

func commit(t *testing.T, b store.Backend, epoch int64, ops ...store.Op) int64 {
	t.Helper()
	revision, err := b.Commit(t.Context(), guard, epoch, ops)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return revision
}

func (s Suite) commitAndRead(t *testing.T) {
	b := s.New(t)
	epoch := commit(t, b, 0, put(guard, "a"))
	revision := commit(t, b, epoch, put("/o/x", "1"), put("/o/y", "2"), del("/o/none"))
	if revision != epoch+1 {
		t.Errorf("revision %d after %d, want consecutive", revision, epoch)
	}
	pair, now, err := b.Read(t.Context(), "/o/x")
	if err != nil || string(pair.Value) != "1" || pair.Revision != revision || now != revision {
		t.Errorf("read: %+v at %d: %v", pair, now, err)
	}
	pair, _, err = b.Read(t.Context(), "/o/none")
	if err != nil || pair.Revision != 0 || pair.Key != "" {
		t.Errorf("read of an absent key: %+v: %v", pair, err)
	}
	if _, err := b.Commit(t.Context(), guard, epoch, []store.Op{put("/o/x", "3"), put("/o/x", "4")}); !errors.Is(err, store.ErrRefused) {
		t.Errorf("one key twice: %v, want ErrRefused", err)
	}
}

func (s Suite) guard(t *testing.T) {
	b := s.New(t)
	first := commit(t, b, 0, put(guard, "a"))
	if _, err := b.Commit(t.Context(), guard, 0, []store.Op{put(guard, "b")}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("second first claim: %v, want ErrFenced", err)
	}
	second := commit(t, b, first, put(guard, "b"))
	if _, err := b.Commit(t.Context(), guard, first, []store.Op{put("/o/x", "1")}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("old epoch: %v, want ErrFenced", err)
	}
	pair, _, err := b.Read(t.Context(), "/o/x")
	if err != nil || pair.Revision != 0 {
		t.Errorf("old epoch wrote %+v: %v", pair, err)
	}
	commit(t, b, second, put("/o/x", "1"))
}

func load(t *testing.T, b store.Backend, prefix string, revision int64) ([]string, int64, error) {
	t.Helper()
	var got []string
	at, err := b.Load(t.Context(), prefix, revision, func(pairs []store.Pair) error {
		for _, p := range pairs {
			got = append(got, fmt.Sprintf("%s=%s@%d", p.Key, p.Value, p.Revision))
		}
		return nil
	})
	return got, at, err
}

func (s Suite) load(t *testing.T) {
	b := s.New(t)
	epoch := commit(t, b, 0, put(guard, "a"))
	r1 := commit(t, b, epoch, put("/o/b", "1"), put("/o/a", "1"), put("/p/c", "1"))
	r2 := commit(t, b, epoch, put("/o/b", "2"), del("/o/a"))
	got, at, err := load(t, b, "/o/", 0)
	if want := []string{fmt.Sprintf("/o/b=2@%d", r2)}; err != nil || at != r2 || !slices.Equal(got, want) {
		t.Errorf("newest: %v at %d: %v, want %v", got, at, err, want)
	}
	got, at, err = load(t, b, "/o/", r1)
	if want := []string{fmt.Sprintf("/o/a=1@%d", r1), fmt.Sprintf("/o/b=1@%d", r1)}; err != nil || at != r1 || !slices.Equal(got, want) {
		t.Errorf("at %d: %v at %d: %v, want %v", r1, got, at, err, want)
	}
	boom := errors.New("boom")
	if _, err := b.Load(t.Context(), "/o/", 0, func([]store.Pair) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("failing yield: %v", err)
	}
	var many []store.Op
	for i := range 2500 {
		many = append(many, put(fmt.Sprintf("/m/%05d", i), "x"))
	}
	commit(t, b, epoch, many...)
	got, _, err = load(t, b, "/m/", 0)
	if err != nil || len(got) != 2500 || !slices.IsSorted(got) {
		t.Errorf("%d pairs in several pages, sorted %v: %v", len(got), slices.IsSorted(got), err)
	}
}

func (s Suite) watch(t *testing.T) {
	b := s.New(t)
	epoch := commit(t, b, 0, put(guard, "a"))
	var want []string
	note := func(r int64, what string) { want = append(want, fmt.Sprintf("%d %s", r, what)) }
	note(commit(t, b, epoch, put("/o/a", "1"), put("/o/b", "1")), "+/o/a=1 +/o/b=1")
	note(commit(t, b, epoch, put("/o/a", "2"), del("/o/b")), "+/o/a=2 -/o/b")

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	err := b.Watch(ctx, epoch, func(r store.Revision) error {
		line := fmt.Sprint(r.Number)
		for _, p := range r.Puts {
			if p.Revision != r.Number {
				t.Errorf("put of revision %d in revision %d", p.Revision, r.Number)
			}
			line += fmt.Sprintf(" +%s=%s", p.Key, p.Value)
		}
		for _, k := range r.Deletes {
			line += " -" + k
		}
		got = append(got, line)
		switch len(got) {
		case 2: // history is over: now live
			note(commit(t, b, epoch, put("/o/c", "1")), "+/o/c=1")
		case 3:
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("watched\n%v, want\n%v", got, want)
	}
	boom := errors.New("boom")
	if err := b.Watch(t.Context(), epoch, func(store.Revision) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("failing apply: %v", err)
	}
}

func (s Suite) compaction(t *testing.T) {
	b := s.New(t)
	epoch := commit(t, b, 0, put(guard, "a"))
	var revisions []int64
	for i := range 5 {
		revisions = append(revisions, commit(t, b, epoch, put("/o/a", fmt.Sprint(i))))
	}
	s.Compact(t, b, revisions[3])
	if _, _, err := load(t, b, "/o/", revisions[0]); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("load of a compacted revision: %v, want ErrCompacted", err)
	}
	if err := b.Watch(t.Context(), revisions[0], func(store.Revision) error { return nil }); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch of compacted revisions: %v, want ErrCompacted", err)
	}
	got, _, err := load(t, b, "/o/", 0)
	if err != nil || len(got) != 1 {
		t.Errorf("load after compaction: %v: %v", got, err)
	}
}
