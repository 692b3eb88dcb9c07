package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCluster does, in this order and on one cluster, what the project promises.
func TestCluster(t *testing.T) {
	c := newCluster(t)
	before := lookAtHost(t)
	if _, err := os.Stat(filepath.Join(stateRoot, clusterName)); err == nil {
		t.Log("removing a cluster that an earlier run has left")
		c.down(t)
	}
	t.Cleanup(func() {
		if os.Getenv("KIJABI_E2E_KEEP") == "" {
			c.down(t)
		}
	})
	c.up(t)
	c.connect(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"Up", testUp},
		{"Guestbook", testGuestbook},
		{"Kubectl", testKubectl},
		{"OtherKubectl", testOtherKubectl},
		{"Pods", testPods},
		{"GRPC", testGRPC},
		{"LeaderKilled", testLeaderKilled},
		{"AllMastersKilled", testAllMastersKilled},
		{"NodeKilled", testNodeKilled},
		{"BadInput", testBadInput},
	} {
		t.Run(step.name, func(t *testing.T) {
			c.keepArtifacts(t)
			started := time.Now()
			step.run(t, c)
			t.Logf("%s took %s", step.name, time.Since(started).Round(100*time.Millisecond))
		})
	}
	t.Run("Down", func(t *testing.T) { testDown(t, c, before) })
}
