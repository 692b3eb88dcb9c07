package e2e

import (
	"testing"
	"time"

	"kijabi.dev/test/harness"
)

// TestCluster does, in this order and on one cluster, what the project promises.
func TestCluster(tt *testing.T) {
	t := harness.Begin(tt)
	c := &cluster{Cluster: harness.NewCluster(t, clusterName, subnet)}
	before := lookAtHost(t)
	c.up(t)
	c.api = c.Connect(t, clusterName, c.Masters(t, clusterName))
	for _, step := range []struct {
		name string
		run  func(*harness.T, *cluster)
	}{
		{"Up", testUp},
		{"Guestbook", testGuestbook},
		{"Kubectl", testKubectl},
		{"OtherKubectl", testOtherKubectl},
		{"Pods", testPods},
		{"RestartInPlace", testRestartInPlace},
		{"NodeVolumes", testNodeVolumes},
		{"Workloads", testWorkloads},
		{"GRPC", testGRPC},
		{"LeaderKilled", testLeaderKilled},
		{"VIP", testVIP},
		{"AllMastersKilled", testAllMastersKilled},
		{"NodeKilled", testNodeKilled},
		{"BadInput", testBadInput},
	} {
		t.Run(step.name, func(t *harness.T) {
			c.KeepArtifacts(t)
			started := time.Now()
			step.run(t, c)
			t.Logf("%s took %s", step.name, time.Since(started).Round(100*time.Millisecond))
		})
	}
	t.Run("Down", func(t *harness.T) { testDown(t, c, before) })
}
