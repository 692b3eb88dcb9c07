package etcdnode

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
)

// TestStartsBeforeItsAdmissionIsHeardOf starts a member that joins; the one that it asks
// for the members hears of it only after its answer.
func TestStartsBeforeItsAdmissionIsHeardOf(t *testing.T) {
	listen, urlB := freeURL(t), freeURL(t)
	target, err := url.Parse(listen)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.FlushInterval = -1 // raft's streams
	asked, once := make(chan struct{}), sync.Once{}
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		forward.ServeHTTP(w, r)
		if r.URL.Path == "/members" {
			once.Do(func() { close(asked) })
		}
	}))
	t.Cleanup(door.Close)
	a, err := Start(t.Context(), Config{
		Name: "a", Dir: t.TempDir(), PeerURL: door.URL, ListenPeerURL: listen, ClusterToken: "test", Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	cfg := Config{
		Name: "b", Dir: t.TempDir(), PeerURL: urlB, ClusterToken: "test",
		InitialCluster: "a=" + door.URL + ",b=" + urlB, Log: zaptest.NewLogger(t),
	}
	started := make(chan error, 1)
	go func() {
		b, err := Start(t.Context(), cfg)
		if err == nil {
			b.Close()
		}
		started <- err
	}()
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Fatal("b does not ask for the members")
	}
	if _, _, err := a.AddLearner(t.Context(), urlB); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Error(err)
	}
}
