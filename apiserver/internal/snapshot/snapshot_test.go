package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/storage/etcd"
	"kijabi.dev/apiserver/internal/storage/etcd/etcdtest"
	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/pki"
)

// openKeys returns keys of a file of their own.
func openKeys(t *testing.T, keys ...[]byte) *sealed.Keys {
	t.Helper()
	file := filepath.Join(t.TempDir(), pki.StorageKeyFile)
	if err := os.WriteFile(file, bytes.Join(keys, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := sealed.OpenKeys(file, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// database is an embedded member or a separate etcd.
type database interface {
	Backend() *etcd.Backend
	Revision() int64
	WriteDatabase(w io.Writer) (int64, error)
	Close()
}

// cluster is an etcd with a store that writes, as on a master.
type cluster struct {
	node  database
	store *store.Store
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

func startCluster(t *testing.T, keys *sealed.Keys, dir string) *cluster {
	t.Helper()
	node, err := etcdnode.Start(t.Context(), etcdnode.Config{Name: "m1", Dir: dir, PeerURL: freeURL(t), ClusterToken: "c1", Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	return clusterOn(t, keys, node)
}

func clusterOn(t *testing.T, keys *sealed.Keys, node database) *cluster {
	t.Helper()
	s, err := store.New(store.Config{
		Name: "m1", Backend: sealed.New(node.Backend(), keys, []string{"secrets"}), Log: zap.NewNop(),
		Indexer: func(store.Key, []byte) (store.Index, error) { return store.Index{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	for _, run := range []func(context.Context) error{s.Run, s.Lead} {
		go func() {
			_ = run(ctx)
			ended <- struct{}{}
		}()
	}
	t.Cleanup(func() { cancel(); <-ended; <-ended })
	for deadline := time.Now().Add(20 * time.Second); !s.Term().Leading; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the store does not lead")
		}
	}
	return &cluster{node, s}
}

var podKey, secretKey = store.Key{Resource: "pods", Namespace: "default", Name: "web"}, //nolint:gochecknoglobals // constants
	store.Key{Resource: "secrets", Namespace: "default", Name: "password"}

const canary = "canary-of-the-secret"

// write stores one pod and one Secret.
func (c *cluster) write(t *testing.T) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password", Namespace: "default"}, Data: map[string][]byte{"p": []byte(canary)}}
	for key, obj := range map[store.Key]interface{ Marshal() ([]byte, error) }{podKey: pod, secretKey: secret} {
		value, err := obj.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		c.put(t, key, value)
	}
}

func (c *cluster) put(t *testing.T, key store.Key, value []byte) {
	t.Helper()
	_, err := c.store.Commit(t.Context(), store.Group{User: "test", Writes: []store.Write{{
		Key: key, Decide: func(*store.Record) (store.Change, error) { return store.Change{Value: value}, nil },
	}}})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) maker(t *testing.T, keys *sealed.Keys, archive Archive) *Maker {
	t.Helper()
	return NewMaker(MakerConfig{
		Master: "m1", Archive: archive, Keys: keys, Describe: func() Header { return Header{ClusterID: "c1", Epoch: c.store.Term().Epoch} },
		Revision: c.node.Revision, Copy: c.node.WriteDatabase, Scratch: t.TempDir(), KeepHourly: 24, KeepDaily: 7,
		Clock: clock.RealClock{}, Log: zaptest.NewLogger(t),
	})
}

func TestMakeAndVerify(t *testing.T) {
	old := pki.NewStorageKey()
	keys := openKeys(t, old)
	t.Run("embedded", func(t *testing.T) { makeAndVerify(t, old, keys, startCluster(t, keys, t.TempDir())) })
	t.Run("separate", func(t *testing.T) {
		makeAndVerify(t, old, keys, clusterOn(t, keys, etcdtest.Start(t, etcdtest.Options{}).Connect()))
	})
}

func makeAndVerify(t *testing.T, old []byte, keys *sealed.Keys, c *cluster) {
	archive := Directory(filepath.Join(t.TempDir(), "snapshots"))
	c.write(t)
	maker := c.maker(t, keys, archive)
	slot := time.Now().Truncate(time.Hour)
	entry, err := maker.MakeFor(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := maker.MakeFor(t.Context(), slot); err != nil || again != entry {
		t.Errorf("made twice for one slot: %v: %v", again, err)
	}
	if made, _ := maker.Counts(); made != 1 {
		t.Errorf("counted %d snapshots", made)
	}
	path := filepath.Join(string(archive), entry.Name)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v: %v", info.Mode(), err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"/o/pods/", "kubernetes", canary, "clusterID"} {
		if bytes.Contains(whole[200:], []byte(text)) {
			t.Errorf("the file holds %q in clear", text)
		}
	}
	content, err := Verify(t.Context(), bytes.NewReader(whole), keys, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if content.Header.ClusterID != "c1" || content.Header.Epoch == 0 || content.Revision < content.Header.Revision || content.Objects != 2 || len(content.Unreadable) != 0 {
		t.Errorf("found %+v", content)
	}
	// A later key that seals takes nothing away from the former.
	if _, err := Verify(t.Context(), bytes.NewReader(whole), openKeys(t, pki.NewStorageKey(), old), t.TempDir()); err != nil {
		t.Errorf("after a change of keys: %v", err)
	}
	id, err := pki.ParseStorageKeys(old)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Verify(t.Context(), bytes.NewReader(whole), openKeys(t, pki.NewStorageKey()), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), id[0].ID) {
		t.Errorf("with another key: %v, want the id %s", err, id[0].ID)
	}
	if left, _ := os.ReadDir(maker.cfg.Scratch); len(left) > 0 {
		t.Errorf("%v is left of the trial", left)
	}
}

// TestTamperedSnapshotIsRefused flips a bit in each part of the file, and cuts it at each.
func TestTamperedSnapshotIsRefused(t *testing.T) {
	keys := openKeys(t, pki.NewStorageKey())
	c := startCluster(t, keys, t.TempDir())
	c.write(t)
	c.put(t, store.Key{Resource: "pods", Namespace: "default", Name: "large"}, make([]byte, 200<<10))
	var out bytes.Buffer
	if err := c.maker(t, keys, Directory(t.TempDir())).Send(&out, func(Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	whole := out.Bytes()
	id := bytes.Index(whole, []byte(stanza)) + len(stanza) + 1
	places := map[string]int{
		"version": 3, "type of the key": bytes.Index(whole, []byte(stanza)), "id of the key": id, "wrapped key": id + 30,
		"mac": bytes.Index(whole, []byte("\n--- ")) + 10, "nonce": bytes.Index(whole, []byte("\n--- ")) + 55, "header": id + 250,
		"second piece": 65<<10 + 500, "middle": len(whole) / 2, "digest": len(whole) - 30, "last byte": len(whole) - 1,
	}
	dir := t.TempDir()
	for what, place := range places {
		damaged := bytes.Clone(whole)
		damaged[place] ^= 1
		if _, err := Verify(t.Context(), bytes.NewReader(damaged), keys, dir); err == nil {
			t.Errorf("a flipped bit in the %s is not noticed", what)
		} else if what != "id of the key" && what != "wrapped key" && !errors.Is(err, ErrDamaged) {
			t.Errorf("a flipped bit in the %s: %v", what, err)
		}
		if _, err := Verify(t.Context(), bytes.NewReader(whole[:place]), keys, dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut at the %s: %v", what, err)
		}
	}
	for what, longer := range map[string][]byte{"a byte": {0}, "itself": whole} {
		if _, err := Verify(t.Context(), bytes.NewReader(slices.Concat(whole, longer)), keys, dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("with %s more: %v", what, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	// Whole for the cipher, but not of what was written.
	var lying bytes.Buffer
	err := Write(&lying, keys, Header{Revision: 1 << 40}, func(w io.Writer) error {
		_, err := c.node.WriteDatabase(w)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), &lying, keys, dir); err == nil {
		t.Error("a header that promises more than the database holds is believed")
	}
}

// TestUnreadableObjectsAreNamed verifies a cluster with an object that nothing decodes.
func TestUnreadableObjectsAreNamed(t *testing.T) {
	keys := openKeys(t, pki.NewStorageKey())
	c := startCluster(t, keys, t.TempDir())
	c.write(t)
	c.put(t, store.Key{Resource: "pods", Namespace: "default", Name: "garbage"}, []byte{0xff, 0xff})
	var out bytes.Buffer
	if err := c.maker(t, keys, Directory(t.TempDir())).Send(&out, func(Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	content, err := Verify(t.Context(), &out, keys, t.TempDir())
	if err != nil || content.Objects != 2 || len(content.Unreadable) != 1 || !strings.Contains(content.Unreadable[0], "default/garbage") {
		t.Errorf("found %+v: %v", content, err)
	}
}

// TestFailedSnapshotLeavesNothing fails in the middle of the copy.
func TestFailedSnapshotLeavesNothing(t *testing.T) {
	archive := Directory(t.TempDir())
	maker := NewMaker(MakerConfig{
		Master: "m1", Archive: archive, Keys: openKeys(t, pki.NewStorageKey()), Describe: func() Header { return Header{} },
		Revision: func() int64 { return 1 }, Scratch: t.TempDir(), Clock: clock.RealClock{}, Log: zap.NewNop(),
		Copy: func(w io.Writer) (int64, error) {
			_, _ = w.Write(make([]byte, 1<<20))
			return 0, errors.New("the disk failed")
		},
	})
	if _, err := maker.Make(t.Context()); err == nil || !strings.Contains(err.Error(), "the disk failed") {
		t.Errorf("it says %v", err)
	}
	// Nor does one whose content is no database.
	maker.cfg.Copy = func(w io.Writer) (int64, error) {
		_, err := w.Write(make([]byte, 1<<20))
		return 0, err
	}
	if _, err := maker.Make(t.Context()); err == nil {
		t.Error("zeros passed as a database")
	}
	if left, err := os.ReadDir(string(archive)); err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
	if made, failed := maker.Counts(); made != 0 || failed != 2 {
		t.Errorf("counted %d made, %d failed", made, failed)
	}
}

func TestRetention(t *testing.T) {
	now := time.Date(2026, 11, 30, 8, 20, 0, 0, time.UTC)
	var all []Entry
	for hours := range 30 * 24 { // a month of them, and two in the newest hour
		all = append(all, Entry{Name: fmt.Sprint(hours), Time: now.Add(-time.Duration(hours) * time.Hour)})
	}
	all = slices.Insert(all, 1, Entry{Name: "double", Time: now.Add(-time.Minute)})
	old := map[string]bool{}
	for _, e := range expired(all, 24, 7) {
		old[e.Name] = true
	}
	var kept []string
	for _, e := range all {
		if !old[e.Name] {
			kept = append(kept, e.Name)
		}
	}
	var want []string
	for hours := range 24 {
		want = append(want, fmt.Sprint(hours))
	}
	for day := 2; day <= 6; day++ { // the newest of each day: today's and yesterday's are among the hours
		want = append(want, fmt.Sprint(9+24*(day-1)))
	}
	if !slices.Equal(kept, want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
	if gone := expired(all[:1], 0, 0); len(gone) > 0 {
		t.Error("the only one is removed")
	}
}
