package etcdnode

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
)

// TestStartsBeforeItsAdmissionIsHeardOf starts a member that joins while the one it asks
// does not know of it yet.
func TestStartsBeforeItsAdmissionIsHeardOf(t *testing.T) {
	urlA, urlB := freeURL(t), freeURL(t)
	a := start(t, "a", urlA, "")
	dir := t.TempDir()
	cfg := Config{Name: "b", Dir: dir, PeerURL: urlB, ClusterToken: "test", InitialCluster: "a=" + urlA + ",b=" + urlB, Log: zaptest.NewLogger(t)}
	type result struct {
		node *Node
		err  error
	}
	started := make(chan result, 1)
	go func() {
		node, err := Start(t.Context(), cfg)
		started <- result{node, err}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "member")); err == nil {
			break // it has begun to ask
		}
		if time.Now().After(deadline) {
			t.Fatal("b does not begin")
		}
	}
	if _, _, err := a.AddLearner(t.Context(), urlB); err != nil {
		t.Fatal(err)
	}
	b := <-started
	if b.err != nil {
		t.Fatal(b.err)
	}
	b.node.Close()
}
