package etcdnode

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/apiserver/internal/store"
)

// startIn is start with a directory that outlasts the member.
func startIn(t *testing.T, name, dir, url, initial string) *Node {
	t.Helper()
	n, err := Start(t.Context(), Config{
		Name: name, Dir: dir, PeerURL: url, ClusterToken: "test", InitialCluster: initial, Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func write(ctx context.Context, n *Node, key, value string) error {
	_, err := n.Backend().Commit(ctx, "/fence", 0, []store.Op{{Key: key, Value: []byte(value)}})
	return err
}

// salvaged returns the pairs that Salvage finds in dir, which it must leave as it is.
func salvaged(t *testing.T, dir string) map[string]string {
	t.Helper()
	before, scratch := listing(t, dir), t.TempDir()
	file := filepath.Join(scratch, "salvaged.db")
	revision, err := Salvage(t.Context(), dir, filepath.Join(scratch, "copy"), file, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	if after := listing(t, dir); !maps.Equal(before, after) {
		t.Errorf("the data was changed: %v, was %v", after, before)
	}
	if left, _ := os.ReadDir(scratch); len(left) != 1 {
		t.Errorf("besides the database it left %v", left)
	}
	db, err := OpenDatabase(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	pairs := map[string]string{}
	at, err := db.Each(t.Context(), func(pair store.Pair) error {
		pairs[pair.Key] = string(pair.Value)
		return nil
	})
	if err != nil || at != revision {
		t.Errorf("the database has revision %d, said was %d: %v", at, revision, err)
	}
	return pairs
}

// listing is the size and time of every file.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			all[path] = info.ModTime().String() + info.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSalvageKeepsWhatTheLogHolds loses the other voter: what is in the log of the one that is
// left, without being known as committed, may have been acknowledged.
func TestSalvageKeepsWhatTheLogHolds(t *testing.T) {
	dirA, urlA, urlB := t.TempDir(), freeURL(t), freeURL(t)
	a := startIn(t, "a", dirA, urlA, "")
	id, _, err := a.AddLearner(t.Context(), urlB)
	if err != nil {
		t.Fatal(err)
	}
	dirB := t.TempDir()
	b := startIn(t, "b", dirB, urlB, "a="+urlA+",b="+urlB)
	for key, value := range map[string]string{"/kept": "1", "/gone": "1"} {
		if err := write(t.Context(), a, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Backend().Commit(t.Context(), "/fence", 0, []store.Op{{Key: "/gone", Delete: true}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Backend().Read(t.Context(), "/kept"); err != nil { // b has all of it then
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); a.Promote(t.Context(), id) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("b is not promoted")
		}
	}
	if err := write(t.Context(), a, "/both", "1"); err != nil {
		t.Fatal(err)
	}
	b.Abort()
	b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := write(ctx, a, "/unanswered", "1"); err == nil {
		t.Error("a write without a quorum was acknowledged")
	}
	a.Abort()
	a.Close()
	found := salvaged(t, dirA)
	if keys := slices.Sorted(maps.Keys(found)); !slices.Equal(keys, []string{"/both", "/kept", "/unanswered"}) {
		t.Errorf("a is left with %v", keys)
	}
	if keys := slices.Sorted(maps.Keys(salvaged(t, dirB))); !slices.Equal(keys, []string{"/both", "/kept"}) {
		t.Errorf("b is left with %v", keys)
	}
}

// TestSalvageFromALearner has nobody left but one that never voted.
func TestSalvageFromALearner(t *testing.T) {
	urlA, dirB, urlB := freeURL(t), t.TempDir(), freeURL(t)
	a := startIn(t, "a", t.TempDir(), urlA, "")
	if _, _, err := a.AddLearner(t.Context(), urlB); err != nil {
		t.Fatal(err)
	}
	b := startIn(t, "b", dirB, urlB, "a="+urlA+",b="+urlB)
	if err := write(t.Context(), a, "/kept", "1"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Backend().Read(t.Context(), "/kept"); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if found := salvaged(t, dirB); found["/kept"] != "1" || len(found) != 1 {
		t.Errorf("found %v", found)
	}
}
