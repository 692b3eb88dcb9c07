package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/storage/etcd"
	"kijabi.dev/apiserver/internal/storage/etcd/etcdtest"
	"kijabi.dev/apiserver/internal/storage/storagetest"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/pki"
)

// TestBackendConforms is etcdnode's test of the same name with three members of a separate etcd.
func TestBackendConforms(t *testing.T) {
	storagetest.Run(t, storagetest.Suite{
		New: func(t *testing.T) store.Backend {
			t.Helper()
			return etcdtest.Start(t, etcdtest.Options{Members: 3}).Connect().Backend()
		},
		Compact: func(t *testing.T, b store.Backend, revision int64) {
			t.Helper()
			if err := b.(*etcd.Backend).Compact(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func TestLargestTransaction(t *testing.T) {
	b := etcdtest.Start(t, etcdtest.Options{}).Connect().Backend()
	var ops []store.Op
	for i := range 4001 {
		ops = append(ops, store.Op{Key: fmt.Sprintf("/o/%d", i), Value: bytes.Repeat([]byte("x"), 2000)})
	}
	if _, err := b.Commit(t.Context(), "/fence", 0, ops); err != nil {
		t.Error(err)
	}
}

// TestWrongLimitsAreRefused starts etcd with one of the two limits as it is by default.
func TestWrongLimitsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--max-txn-ops=4096"}, {"--max-request-bytes=10485760"}, {"--max-txn-ops=4096", "--max-request-bytes=9000000"}} {
		c := etcdtest.Start(t, etcdtest.Options{Args: args})
		_, err := etcd.Connect(t.Context(), etcd.SeparateConfig{Endpoints: c.Endpoints, Log: zap.NewNop()})
		for _, part := range []string{c.Endpoints[0], "--max-txn-ops=4096", "--max-request-bytes=10485760"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("with %v: %v, want %q", args, err, part)
			}
		}
	}
}

func TestWhoseEtcdItIs(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	s := c.Connect()
	refused := func(what string, err error, parts ...string) {
		t.Helper()
		for _, part := range append(parts, c.Endpoints[0]) {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", what, err, part)
			}
		}
	}
	refused("joining an empty one", s.Belongs(t.Context(), "c1"), "holds no data")
	for range 2 { // the first attempt may have died before anything else was done
		if err := s.Found(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Belongs(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
	refused("joining with another", s.Belongs(t.Context(), "c2"), "cluster c1", "c2")
	if _, err := s.Backend().Commit(t.Context(), "/fence", 0, []store.Op{{Key: "/fence", Value: []byte("m1")}}); err != nil {
		t.Fatal(err)
	}
	refused("founding another over data", s.Found(t.Context(), "c2"), "cluster c1", "c2", "empty it")
	refused("founding again over data", s.Found(t.Context(), "c1"), "already holds", "kijabi recover")

	abandoned := etcdtest.Start(t, etcdtest.Options{}).Connect() // by a founder that never led
	for _, id := range []string{"c1", "c2"} {
		if err := errors.Join(abandoned.Found(t.Context(), id), abandoned.Belongs(t.Context(), id)); err != nil {
			t.Error(err)
		}
	}

	other := etcdtest.Start(t, etcdtest.Options{})
	plain, err := clientv3.New(clientv3.Config{Endpoints: other.Endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	if _, err := plain.Put(t.Context(), "somebody/else", "1"); err != nil {
		t.Fatal(err)
	}
	c = other
	refused("founding over a stranger's data", other.Connect().Found(t.Context(), "c1"), "not empty", "somebody/else")
}

// TestMembersComeAndGo kills members of three while there are writes: with one dead they go on, with
// two they fail in time, and none that was acknowledged is lost.
func TestMembersComeAndGo(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	b := c.Connect().Backend()
	n := 0
	write := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		n++
		_, err := b.Commit(ctx, "/none", 0, []store.Op{{Key: fmt.Sprintf("/o/%03d", n), Value: []byte("x")}})
		return err
	}
	acked := 0
	soon := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			err := write()
			if err == nil {
				acked++
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no write %s: %v", what, err)
			}
		}
	}
	for i := range 3 {
		c.Kill(i)
		soon("beside a dead member")
		for range 10 {
			soon("beside a dead member")
		}
		c.Restart(i)
	}
	c.Kill(0)
	c.Kill(1)
	began := time.Now()
	if err := write(); err == nil {
		t.Error("a write without a majority was acknowledged")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it failed after %s", took)
	}
	c.Restart(0)
	soon("with a majority again")
	c.Restart(1)
	found := 0
	if _, err := b.Load(t.Context(), "/o/", 0, func(page []store.Pair) error { found += len(page); return nil }); err != nil {
		t.Fatal(err)
	}
	if found < acked {
		t.Errorf("%d writes acknowledged, %d found", acked, found)
	}
}

// TestCertificate renews the certificate while etcd is in use; without one nobody is let in.
func TestCertificate(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{TLS: true})
	id, err := pki.OpenIdentity(c.Files)
	if err != nil {
		t.Fatal(err)
	}
	s, err := etcd.Connect(t.Context(), etcd.SeparateConfig{Endpoints: c.Endpoints, Identity: id, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Found(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	before := id.Leaf().SerialNumber
	c.Renew()
	if err := id.Reload(); err != nil || id.Leaf().SerialNumber.Cmp(before) == 0 {
		t.Fatalf("not renewed: %v", err)
	}
	c.Kill(0) // the connection with the old one is over
	c.Restart(0)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = s.Belongs(t.Context(), "c1"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	stranger, err := pki.NewCA("strangers", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := stranger.Issue(pki.LeafRequest{CommonName: "client", Life: time.Hour, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	for what, trusted := range map[string]*pki.CA{"a certificate of another CA": c.CA(), "etcd of another CA": stranger} {
		bad, err := pki.NewIdentity(cert, key, trusted.CertificatePEM())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err = etcd.Connect(ctx, etcd.SeparateConfig{Endpoints: c.Endpoints, Identity: bad, Log: zap.NewNop()})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), c.Endpoints[0]) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestCopyOfTheDatabase copies while there are writes and reads the copy.
func TestCopyOfTheDatabase(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	s := c.Connect()
	for i := range 300 {
		if _, err := s.Backend().Commit(t.Context(), "/none", 0, []store.Op{{Key: fmt.Sprintf("/o/%03d", i), Value: bytes.Repeat([]byte{byte(i)}, 1000)}}); err != nil {
			t.Fatal(err)
		}
	}
	_, now, err := s.Backend().Read(t.Context(), "/none")
	if err != nil {
		t.Fatal(err)
	}
	c.Kill(0) // another member's is taken
	var copied bytes.Buffer
	revision, err := s.WriteDatabase(&copied)
	if err != nil || revision < now || copied.Len()%4096 != 0 || copied.Len() < 300_000 {
		t.Errorf("%d bytes of revision %d, want %d: %v", copied.Len(), revision, now, err)
	}
}
