package etcdnode

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
)

// TestRemovedMemberSaysSo removes a member while it runs, and starts it again.
func TestRemovedMemberSaysSo(t *testing.T) {
	urlA, urlB := freeURL(t), freeURL(t)
	a := start(t, "a", urlA, "")
	id, _, err := a.AddLearner(t.Context(), urlB)
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		Name: "b", Dir: t.TempDir(), PeerURL: urlB, ClusterToken: "test", InitialCluster: "a=" + urlA + ",b=" + urlB,
		Log: zaptest.NewLogger(t),
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	if err := a.Remove(ctx, id); err != nil {
		t.Fatal(err)
	}
	check := func(when string, err error) {
		t.Helper()
		for _, part := range []string{"b has been removed from the masters", "kijabi reset"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s it says %v, want %q", when, err, part)
			}
		}
	}
	check("while it runs", <-ended)
	again, err := Start(ctx, config)
	if err == nil {
		t.Cleanup(again.Close)
		err = again.Run(ctx)
	}
	check("started again", err)
}
