package etcdnode

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/apiserver/internal/storage/etcd"
	"kijabi.dev/apiserver/internal/storage/storagetest"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/pki"
)

// freeURL returns a loopback URL that nobody listens on, at an address of its own: a port of the
// common one could be taken by an outgoing connection before a member listens, or listens again.
func freeURL(t *testing.T) string {
	t.Helper()
	for {
		address := fmt.Sprintf("127.%d.%d.%d:2380", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		if err == nil {
			_ = l.Close()
			return "http://" + address
		}
	}
}

func start(t *testing.T, name, url, initial string) *Node {
	t.Helper()
	n, err := Start(t.Context(), Config{
		Name: name, Dir: t.TempDir(), PeerURL: url, ClusterToken: "test", InitialCluster: initial,
		Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func TestBackendConforms(t *testing.T) {
	storagetest.Run(t, storagetest.Suite{
		New: func(t *testing.T) store.Backend { return start(t, "a", freeURL(t), "").Backend() },
		Compact: func(t *testing.T, b store.Backend, revision int64) {
			t.Helper()
			if err := b.(*etcd.Backend).Compact(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func TestLearnerJoinsIsPromotedAndLeads(t *testing.T) {
	urlA, urlB := freeURL(t), freeURL(t)
	a := start(t, "a", urlA, "")
	id, all, err := a.AddLearner(t.Context(), urlB)
	if err != nil || len(all) != 2 {
		t.Fatalf("add learner: %v: %v", all, err)
	}
	if again, _, err := a.AddLearner(t.Context(), urlB); err != nil || again != id {
		t.Errorf("added again: %x, want %x: %v", again, id, err)
	}
	b := start(t, "b", urlB, "a="+urlA+",b="+urlB)
	if !b.Status().Learner {
		t.Error("b votes before it is promoted")
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := a.Promote(t.Context(), id)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for b.Lead(t.Context()) != nil { // until it has learned that it votes
		if time.Now().After(deadline) {
			t.Fatal("b cannot lead")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if b.Status().Leader != b.Status().ID {
		t.Error("b does not lead")
	}
	if _, err := b.Backend().Commit(t.Context(), "/fence", 0, []store.Op{{Key: "/fence", Value: []byte("b")}}); err != nil {
		t.Fatal(err)
	}
	hashB, at, err := b.Hash(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Backend().Read(t.Context(), "/fence"); err != nil { // a has applied it then
		t.Fatal(err)
	}
	if hashA, _, err := a.Hash(at); err != nil || hashA != hashB {
		t.Errorf("hashes differ: %x and %x: %v", hashA, hashB, err)
	}
}

// TestPeersSpeakTLS joins two members under one CA; one of another CA is not let in.
func TestPeersSpeakTLS(t *testing.T) {
	ca, err := pki.NewCA("peers", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	urlA, urlB := "https"+strings.TrimPrefix(freeURL(t), "http"), "https"+strings.TrimPrefix(freeURL(t), "http")
	secure := func(name, url, initial string) *Node {
		t.Helper()
		dir := t.TempDir()
		if err := ca.Save(dir, "ca"); err != nil {
			t.Fatal(err)
		}
		cert, key, err := ca.Issue(pki.LeafRequest{
			CommonName: name, IPs: []net.IP{net.ParseIP(strings.TrimSuffix(strings.TrimPrefix(url, "https://"), ":2380"))}, Life: time.Hour, Server: true, Client: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		for file, content := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n, err := Start(t.Context(), Config{
			Name: name, Dir: filepath.Join(dir, "etcd"), PeerURL: url, ClusterToken: "test", InitialCluster: initial,
			CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), CAFile: filepath.Join(dir, "ca.crt"),
			Log: zaptest.NewLogger(t),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}
	a := secure("a", urlA, "")
	if _, _, err := a.AddLearner(t.Context(), urlB); err != nil {
		t.Fatal(err)
	}
	b := secure("b", urlB, "a="+urlA+",b="+urlB)
	if _, err := a.Backend().Commit(t.Context(), "/fence", 0, []store.Op{{Key: "/fence", Value: []byte("a")}}); err != nil {
		t.Fatal(err)
	}
	pair, _, err := b.Backend().Read(t.Context(), "/fence")
	if err != nil || string(pair.Value) != "a" {
		t.Errorf("b reads %q: %v", pair.Value, err)
	}
	stranger := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // it only knocks
	conn, err := (&tls.Dialer{Config: stranger}).DialContext(t.Context(), "tcp", strings.TrimPrefix(urlA, "https://"))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil {
		t.Error("a stranger without a certificate was let in")
	}
}
