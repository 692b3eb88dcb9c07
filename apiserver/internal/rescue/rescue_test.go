package rescue

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/snapshot"
	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/pki"
)

func openKeys(t *testing.T, dir string) *sealed.Keys {
	t.Helper()
	file := filepath.Join(dir, pki.StorageKeyFile)
	if err := os.WriteFile(file, pki.NewStorageKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := sealed.OpenKeys(file, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestFailureLeavesTheDataAlone restores what cannot be restored, over data that matters.
func TestFailureLeavesTheDataAlone(t *testing.T) {
	dir := t.TempDir()
	keys := openKeys(t, t.TempDir())
	p := Place{
		Name: "m1", ClusterID: "c1", PeerAddress: "127.0.0.1:7443", PeerURL: "http://127.0.0.1:2380",
		EtcdDir: filepath.Join(dir, "etcd"), RaftDir: filepath.Join(dir, "raft"), Now: time.Now(), Log: zap.NewNop(),
	}
	precious := []string{filepath.Join(p.EtcdDir, "member", "wal", "0.wal"), filepath.Join(p.RaftDir, "raft", "roster")}
	for _, path := range precious {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	written := func(cluster, database string) []byte {
		t.Helper()
		var out bytes.Buffer
		err := snapshot.Write(&out, keys, snapshot.Header{ClusterID: cluster}, func(w io.Writer) error {
			_, err := io.WriteString(w, database)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	whole := written("c1", strings.Repeat("no database", 1000))
	for what, content := range map[string][]byte{
		"a foreign cluster's": written("c2", ""), "cut short": whole[:len(whole)-1], "nothing": nil, "no database": whole,
	} {
		out, err := FromSnapshot(p, bytes.NewReader(content), keys)
		if err == nil {
			t.Errorf("%s was restored: %+v", what, out)
		}
		for _, path := range precious {
			if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
				t.Errorf("%s: %s is %q: %v", what, path, content, err)
			}
		}
		for _, place := range []string{p.EtcdDir, p.RaftDir} {
			if entries, _ := os.ReadDir(place); len(entries) != 1 {
				t.Errorf("%s: %s holds %v", what, place, entries)
			}
		}
	}
	if _, err := FromMember(t.Context(), Place{EtcdDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no data to recover from") {
		t.Errorf("recovered from nothing: %v", err)
	}
}

// TestDatabaseForASeparateEtcd takes a snapshot's database out, for etcd's own tools.
func TestDatabaseForASeparateEtcd(t *testing.T) {
	keys, now := openKeys(t, t.TempDir()), time.Now()
	dir := filepath.Join(t.TempDir(), "restored")
	for cluster, want := range map[string]string{"c2": "of the cluster c2", "c1": ""} {
		var out bytes.Buffer
		err := snapshot.Write(&out, keys, snapshot.Header{ClusterID: cluster, Revision: 7, Time: now.Add(-time.Hour)}, func(w io.Writer) error {
			_, err := io.WriteString(w, "database")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		file, bump, err := ForSeparate(Place{ClusterID: "c1", Now: now}, &out, keys, dir)
		if want != "" {
			if _, left := os.Stat(dir); err == nil || !strings.Contains(err.Error(), want) || left == nil {
				t.Errorf("%v, want %q; its directory: %v", err, want, left)
			}
			continue
		}
		content, readErr := os.ReadFile(file)
		if err != nil || readErr != nil || string(content) != "database" || filepath.Dir(file) != dir || bump < generationBump+3600*bumpPerSecond {
			t.Errorf("%s holds %q, bump %d: %v, %v", file, content, bump, err, readErr)
		}
	}
}

func TestMoveAside(t *testing.T) {
	etcd, raft := t.TempDir(), filepath.Join(t.TempDir(), "absent")
	for _, path := range []string{"member/snap/db", "neighbours", "aside-20200101T000000Z/member/old", "lost+found/x", "lock"} {
		path = filepath.Join(etcd, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	for again, want := range []int{1, 0} {
		aside, err := MoveAside(etcd, raft, now.Add(time.Duration(again)*time.Second))
		if err != nil || len(aside) != want {
			t.Fatalf("moved to %v: %v", aside, err)
		}
	}
	for _, path := range []string{
		"aside-20261130T080000Z/member/snap/db", "aside-20261130T080000Z/neighbours", "aside-20200101T000000Z/member/old", "lost+found/x", "lock",
	} {
		if _, err := os.Stat(filepath.Join(etcd, path)); err != nil {
			t.Error(err)
		}
	}
}

// TestNoRevisionIsGivenTwice restores the same snapshot again and again: after writes, over the
// data of a later generation, and on a machine that knows of none of it.
func TestNoRevisionIsGivenTwice(t *testing.T) {
	dir := t.TempDir()
	keys := openKeys(t, dir)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	p := Place{
		Name: "m1", ClusterID: "c1", PeerAddress: "127.0.0.1:7443", PeerURL: url,
		EtcdDir: filepath.Join(dir, "etcd"), RaftDir: filepath.Join(dir, "raft"), Now: now, Log: zap.NewNop(),
	}
	highest := int64(0)
	// run starts what is there, writes a little, and stops; meanwhile may look at it.
	run := func(what string, meanwhile func(*etcdnode.Node)) {
		t.Helper()
		node, err := etcdnode.Start(t.Context(), etcdnode.Config{Name: "m1", Dir: p.EtcdDir, PeerURL: url, ClusterToken: "c1", Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		defer node.Close()
		if at := node.Revision(); at <= highest {
			t.Errorf("%s begins at %d, %d was given", what, at, highest)
		}
		for i := range 200 {
			if highest, err = node.Backend().Commit(t.Context(), "/fence", 0, []store.Op{{Key: fmt.Sprint("/", i), Value: []byte(what)}}); err != nil {
				t.Fatal(err)
			}
		}
		if meanwhile != nil {
			meanwhile(node)
		}
	}
	var taken bytes.Buffer
	run("the first", func(node *etcdnode.Node) {
		err := snapshot.Write(&taken, keys, snapshot.Header{ClusterID: "c1", Time: now}, func(w io.Writer) error {
			_, err := node.WriteDatabase(w)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	for i := range uint64(2) {
		p.Now = p.Now.Add(-time.Second) // no help comes from this machine's clock
		out, err := FromSnapshot(p, bytes.NewReader(taken.Bytes()), keys)
		if err != nil || out.Generation != i+1 {
			t.Fatalf("restored as %+v: %v", out, err)
		}
		run(fmt.Sprint("restoration ", i+1), nil)
	}
	p.Now = p.Now.Add(-time.Second)
	if out, err := FromMember(t.Context(), p); err != nil || out.Generation != 3 {
		t.Fatalf("recovered as %+v: %v", out, err)
	}
	run("the recovery", nil)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	highest -= 2 * generationBump // all that was known of the later ones is lost
	p.Now = now.Add(time.Minute)
	if out, err := FromSnapshot(p, bytes.NewReader(taken.Bytes()), keys); err != nil || out.Generation != 1 {
		t.Fatalf("restored as %+v: %v", out, err)
	}
	run("a restoration elsewhere", nil)
}
