package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/pki"
)

// TestRestoredClusterGoesOn restores a snapshot: objects and secrets are there, what was
// written later is not, revisions are above all that were ever given, and whoever watched has
// to list again.
func TestRestoredClusterGoesOn(t *testing.T) {
	keys := openKeys(t, pki.NewStorageKey())
	before := startCluster(t, keys, t.TempDir())
	before.write(t)
	var out bytes.Buffer
	if err := before.maker(t, keys, Directory(t.TempDir())).Send(&out, func(Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	later := store.Key{Resource: "pods", Namespace: "default", Name: "later"}
	before.put(t, later, nil)
	seen := before.store.Snapshot("pods", "").Version // what a watcher resumes from
	last := before.node.Revision()
	before.node.Close()

	dir := t.TempDir()
	database, header, err := Extract(&out, keys, dir)
	if err != nil || header.ClusterID != "c1" {
		t.Fatalf("header %+v: %v", header, err)
	}
	made := filepath.Join(dir, "member-of-its-own")
	if err := etcdnode.Restore(etcdnode.RestoreConfig{
		Database: database, Name: "m1", Dir: made, PeerURL: "http://127.0.0.1:2380", ClusterToken: "c1/1", Bump: 1_000_000_000, Log: zaptest.NewLogger(t),
	}); err != nil {
		t.Fatal(err)
	}
	after := startCluster(t, keys, made)
	if at := after.node.Revision(); at <= last {
		t.Errorf("the revision is %d, was %d", at, last)
	}
	secret, found := after.store.Get(secretKey)
	if !found || !bytes.Contains(secret.Value, []byte(canary)) {
		t.Error("the secret is lost")
	}
	if _, found := after.store.Get(podKey); !found {
		t.Error("the pod is lost")
	}
	if _, found := after.store.Get(later); found {
		t.Error("what was written after the snapshot is there")
	}
	for key, reason := range after.store.Quarantined() {
		t.Errorf("%s is set aside: %v", key, reason)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, version := range []uint64{seen, secret.Version, 1} {
		w, err := after.store.Watch(ctx, store.WatchOptions{Resource: "pods", After: version})
		if err == nil {
			_, err = w.Next(ctx)
			w.Close()
		}
		if !errors.Is(err, store.ErrExpired) {
			t.Errorf("a watch from %d goes on: %v", version, err)
		}
	}
	after.put(t, later, nil)
	if record, _ := after.store.Get(later); record == nil || record.Version <= seen {
		t.Errorf("a new write has the version %v, %d was seen", record, seen)
	}
	if err := os.Remove(database); err != nil {
		t.Error(err)
	}
}
