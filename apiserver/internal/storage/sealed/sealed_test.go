package sealed

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/storage/storagetest"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
)

// keyFile writes a file of keys.
func keyFile(t *testing.T, keys ...[]byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), pki.StorageKeyFile)
	setKeys(t, file, keys...)
	return file
}

func setKeys(t *testing.T, file string, keys ...[]byte) {
	t.Helper()
	if err := os.WriteFile(file, bytes.Join(keys, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

func openKeys(t *testing.T, file string) *Keys {
	t.Helper()
	keys, err := OpenKeys(file, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func idOf(t *testing.T, key []byte) string {
	t.Helper()
	keys, err := pki.ParseStorageKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	return keys[0].ID
}

func TestConforms(t *testing.T) {
	storagetest.Run(t, storagetest.Suite{
		New: func(t *testing.T) store.Backend {
			b := New(memory.New(), openKeys(t, keyFile(t, pki.NewStorageKey())), nil)
			b.prefixes = []string{"/"} // the suite's keys are no objects
			return b
		},
		Compact: func(_ *testing.T, b store.Backend, revision int64) {
			b.(*Backend).Backend.(*memory.Backend).Compact(revision)
		},
	})
}

// raw reads what lies below the sealing.
func raw(t *testing.T, b store.Backend, key string) []byte {
	t.Helper()
	pair, _, err := b.Read(t.Context(), key)
	if err != nil || pair.Key == "" {
		t.Fatalf("read %s: %v", key, err)
	}
	return pair.Value
}

func put(t *testing.T, b store.Backend, key string, value []byte) {
	t.Helper()
	if _, err := b.Commit(t.Context(), "/fence", 0, []store.Op{{Key: key, Value: value}}); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyChosenResourcesAreSealed(t *testing.T) {
	below := memory.New()
	b := New(below, openKeys(t, keyFile(t, pki.NewStorageKey())), []string{"secrets"})
	value := []byte("\x01\x00\x00canary")
	for key, sealed := range map[string]bool{
		"/o/secrets/default/a": true, "/e/secrets/default/a": true,
		"/o/secretstores/default/a": false, "/o/pods/secrets/a": false, "/manifest": false,
	} {
		put(t, b, key, bytes.Clone(value))
		stored := raw(t, below, key)
		if bytes.Contains(stored, []byte("canary")) == sealed {
			t.Errorf("%s is stored as %q", key, stored)
		}
		if got := raw(t, b, key); !bytes.Equal(got, value) {
			t.Errorf("%s reads %q", key, got)
		}
	}
	put(t, b, "/o/secrets/default/b", bytes.Clone(value))
	one, other := raw(t, below, "/o/secrets/default/a"), raw(t, below, "/o/secrets/default/b")
	if bytes.Equal(one[headerSize:], other[headerSize:]) {
		t.Error("equal values are stored alike")
	}
}

func TestWhatIsRefused(t *testing.T) {
	first, second := pki.NewStorageKey(), pki.NewStorageKey()
	below := memory.New()
	b := New(below, openKeys(t, keyFile(t, first)), []string{"secrets"})
	const key = "/o/secrets/default/a"
	put(t, b, key, []byte("\x01\x00\x00value"))
	stored := raw(t, below, key)

	refuses := func(what string, reader *Backend, at string, value []byte, says ...string) {
		t.Helper()
		put(t, below, at, value)
		_, err := reader.Load(t.Context(), at, 0, func(pairs []store.Pair) error {
			p := pairs[0]
			if p.Err == nil {
				t.Errorf("%s: opened as %q", what, p.Value)
				return nil
			}
			for _, word := range append(says, at) {
				if !strings.Contains(p.Err.Error(), word) {
					t.Errorf("%s: %q does not name %s", what, p.Err, word)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuses("moved to another object", b, "/o/secrets/default/b", stored, idOf(t, first))
	for at := range stored {
		if at == 0 {
			continue // another format; the store refuses it
		}
		damaged := bytes.Clone(stored)
		damaged[at] ^= 1
		refuses(fmt.Sprintf("byte %d flipped", at), b, "/o/secrets/default/d", damaged)
	}
	refuses("cut off", b, "/o/secrets/default/c", stored[:headerSize])
	stranger := New(below, openKeys(t, keyFile(t, second)), []string{"secrets"})
	refuses("unknown key", stranger, key, stored, idOf(t, first), idOf(t, second))
}

// instance is a store on a sealed backend, with its rewriter.
type instance struct {
	*store.Store
	keys     *Keys
	rewriter *Rewriter
	lead     func() (resign func())
}

func run(t *testing.T, name string, below store.Backend, file string) *instance {
	t.Helper()
	log := zaptest.NewLogger(t).Named(name)
	keys := openKeys(t, file)
	sealing := New(below, keys, []string{"secrets"})
	s, err := store.New(store.Config{
		Name: name, Backend: sealing, Log: log,
		Indexer: func(store.Key, []byte) (store.Index, error) { return store.Index{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	rewriter := NewRewriter(RewriterConfig{Store: s, Backend: sealing, User: "test", Log: log})
	group := lifecycle.NewGroup(context.Background())
	group.Go(s.Run)
	group.Go(rewriter.Run)
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	<-s.Ready()
	return &instance{Store: s, keys: keys, rewriter: rewriter, lead: func() func() {
		ctx, cancel := context.WithCancel(group.Context())
		ended := make(chan struct{})
		group.Go(func(context.Context) error { defer close(ended); return s.Lead(ctx) })
		eventually(t, name+" leads", func() bool { return s.Term().Leading })
		return func() { cancel(); <-ended }
	}}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func (i *instance) write(t *testing.T, resource, name, value string) {
	t.Helper()
	k := store.Key{Resource: resource, Namespace: "default", Name: name}
	_, err := i.Commit(t.Context(), store.Group{User: "test", Writes: []store.Write{{
		Key: k, Decide: func(*store.Record) (store.Change, error) { return store.Change{Value: []byte(value)}, nil },
	}}})
	if err != nil {
		t.Fatal(err)
	}
}

// plain is an object without the version that its stamp appends.
func (i *instance) plain(name string) string {
	r, ok := i.Get(store.Key{Resource: "secrets", Namespace: "default", Name: name})
	if !ok {
		return ""
	}
	return string(bytes.TrimSuffix(r.Value, store.AppendVersion(nil, r.Version)))
}

// sealedWith counts the stored secrets by the key they are sealed with; "plain" for none.
func sealedWith(t *testing.T, below store.Backend) map[string]int {
	t.Helper()
	counts := map[string]int{}
	_, err := below.Load(t.Context(), "/o/secrets/", 0, func(pairs []store.Pair) error {
		for _, p := range pairs {
			if !isSealed(p.Value) {
				counts["plain"]++
				continue
			}
			id, _ := keyOf(p.Value)
			counts[id.String()]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// An earlier version has stored everything plain: a leader reads it and seals it.
func TestPlainDataIsReadAndRewritten(t *testing.T) {
	below := memory.New()
	const count = 2*rewriteAtOnce + 1
	old, err := store.New(store.Config{
		Name: "old", Backend: below, Log: zaptest.NewLogger(t),
		Indexer: func(store.Key, []byte) (store.Index, error) { return store.Index{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(t.Context())
	group.Go(old.Run)
	group.Go(old.Lead)
	eventually(t, "the old master leads", func() bool { return old.Term().Leading })
	before := &instance{Store: old}
	for n := range count {
		before.write(t, "secrets", fmt.Sprintf("s%d", n), fmt.Sprintf("value %d", n))
	}
	group.Cancel()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := sealedWith(t, below); got["plain"] != count {
		t.Fatalf("before: %v", got)
	}

	key := pki.NewStorageKey()
	file := keyFile(t, key)
	a, b := run(t, "a", below, file), run(t, "b", below, file)
	if got := b.plain("s7"); got != "value 7" {
		t.Errorf("plain data reads %q", got)
	}
	if got := sealedWith(t, below); got["plain"] != count {
		t.Errorf("rewritten without a leader: %v", got)
	}
	a.lead()
	eventually(t, "everything is sealed", func() bool { return sealedWith(t, below)[idOf(t, key)] == count })
	eventually(t, "progress says so", func() bool { return a.rewriter.Progress() == Progress{Total: count} })
	eventually(t, "b follows", func() bool { return b.Version() >= a.Version() })
	for n := range count {
		name, want := fmt.Sprintf("s%d", n), fmt.Sprintf("value %d", n)
		if onA, onB := a.plain(name), b.plain(name); onA != want || onB != want {
			t.Errorf("%s reads %q on the leader, %q on a follower, want %q", name, onA, onB, want)
		}
	}
}

// Keys change on one master after the other, with one leading all the time.
func TestRotation(t *testing.T) {
	below := memory.New()
	first, second := pki.NewStorageKey(), pki.NewStorageKey()
	fileA, fileB := keyFile(t, first), keyFile(t, first)
	a, b := run(t, "a", below, fileA), run(t, "b", below, fileB)
	a.lead()
	a.write(t, "secrets", "s", "value")
	a.write(t, "pods", "p", "value")
	if got := sealedWith(t, below); got[idOf(t, first)] != 1 {
		t.Fatalf("before: %v", got)
	}

	// B's file has the key that A begins to seal with; B is not told to look.
	setKeys(t, fileB, first, second)
	setKeys(t, fileA, second, first)
	if err := a.keys.reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the secret is rewritten", func() bool { return sealedWith(t, below)[idOf(t, second)] == 1 })
	eventually(t, "b follows", func() bool { return b.Version() >= a.Version() })
	if got := b.plain("s"); got != "value" {
		t.Errorf("b reads %q after the rotation", got)
	}

	// Now the old key can go.
	setKeys(t, fileA, second)
	if err := a.keys.reload(); err != nil {
		t.Fatal(err)
	}
	c := run(t, "c", below, fileA)
	if got := c.plain("s"); got != "value" {
		t.Errorf("a master without the old key reads %q", got)
	}

	// A file that cannot be used changes nothing.
	setKeys(t, fileA, []byte("nonsense"))
	if err := a.keys.reload(); err == nil {
		t.Error("a file without keys was loaded")
	}
	if got := a.keys.Sealing(); got != idOf(t, second) {
		t.Errorf("sealing with %s after a failed reload", got)
	}
}

// An object that no key opens is set aside, named in the log, and can be written anew.
func TestUnknownKeySetsAside(t *testing.T) {
	below := memory.New()
	first, second := pki.NewStorageKey(), pki.NewStorageKey()
	a := run(t, "a", below, keyFile(t, first))
	resign := a.lead()
	a.write(t, "secrets", "lost", "value")
	resign()

	b := run(t, "b", below, keyFile(t, second))
	if got := b.plain("lost"); got != "" {
		t.Errorf("reads %q without the key", got)
	}
	if err := b.rewriter.cfg.Backend.Check(); err == nil || !strings.Contains(err.Error(), "none of 1 sealed objects") {
		t.Errorf("strange keys pass the check: %v", err)
	}
	if err := a.rewriter.cfg.Backend.Check(); err != nil {
		t.Errorf("good keys do not pass the check: %v", err)
	}
	found := false
	for k, err := range b.Quarantined() {
		found = k.Name == "lost" && strings.Contains(err.Error(), idOf(t, first))
	}
	if !found {
		t.Error("the object is not set aside under the name of its key")
	}
	b.lead()
	eventually(t, "it is counted", func() bool { return b.rewriter.Progress() == Progress{Total: 1, Unreadable: 1} })
	b.write(t, "secrets", "lost", "new")
	if got := b.plain("lost"); got != "new" {
		t.Errorf("reads %q after it was written anew", got)
	}
}

// Nothing that etcd leaves on the disk holds a secret's content: database, log, snapshots.
func TestNoSecretInTheFilesOfEtcd(t *testing.T) {
	const secret, open = "canary-of-a-secret", "canary-of-a-configmap"
	dir := t.TempDir()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	node, err := etcdnode.Start(t.Context(), etcdnode.Config{
		Name: "a", Dir: dir, PeerURL: url, ClusterToken: "test", Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	t.Run("store", func(t *testing.T) { // ends before etcd does
		a := run(t, "a", node.Backend(), keyFile(t, pki.NewStorageKey()))
		a.lead()
		a.write(t, "secrets", "s", secret)
		a.write(t, "configmaps", "c", open)
		if got := a.plain("s"); got != secret {
			t.Errorf("reads %q", got)
		}
	})
	node.Close()
	seen := map[string]int{}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, canary := range []string{secret, open} {
			seen[canary] += bytes.Count(content, []byte(canary))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen[secret] > 0 {
		t.Errorf("the secret lies open %d times", seen[secret])
	}
	if seen[open] == 0 {
		t.Error("the ConfigMap is not found either: the test looks in the wrong place")
	}
}

func BenchmarkCommit(b *testing.B) {
	file := filepath.Join(b.TempDir(), pki.StorageKeyFile)
	if err := os.WriteFile(file, pki.NewStorageKey(), 0o600); err != nil {
		b.Fatal(err)
	}
	keys, err := OpenKeys(file, zaptest.NewLogger(b))
	if err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte("x"), 1024)
	nothing := nothing{}
	for _, bench := range []struct {
		name, resource string
		backend        store.Backend
	}{
		{"plain", "pods", nothing},
		{"other kind", "pods", New(nothing, keys, []string{"secrets"})},
		{"sealed", "secrets", New(nothing, keys, []string{"secrets"})},
	} {
		b.Run(bench.name, func(b *testing.B) {
			ops := make([]store.Op, 64)
			for i := range ops {
				ops[i] = store.Op{Key: fmt.Sprintf("/o/%s/default/%d", bench.resource, i), Value: value}
			}
			for b.Loop() {
				if _, err := bench.backend.Commit(b.Context(), "", 0, ops); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ops)), "ns/value")
		})
	}
}

// nothing is a backend that forgets.
type nothing struct{ store.Backend }

func (nothing) Commit(context.Context, string, int64, []store.Op) (int64, error) { return 0, nil }
