package loops

import (
	"testing"

	"kijabi.dev/test/harness"
)

// TestControllers runs, one after the other on one master, what the loops promise.
func TestControllers(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	t.Run("PodRanges", func(t *harness.T) { testPodRanges(t, s, k) })
	t.Run("Garbage", func(t *harness.T) { testGarbage(t, s) })
	t.Run("ServiceAccounts", func(t *harness.T) { testServiceAccounts(t, s) })
	t.Run("NamespaceDeletion", func(t *harness.T) { testNamespaceDeletion(t, s) })
	t.Run("Rollout", func(t *harness.T) { testRollout(t, s) })
	t.Run("Recreate", func(t *harness.T) { testRecreate(t, s) })
	t.Run("Endpoints", func(t *harness.T) { testEndpoints(t, s) })
	t.Run("ExactlyOnce", func(t *harness.T) { testExactlyOnce(t, s) })
	t.Run("SilentNodes", func(t *harness.T) { testSilentNodes(t, s, k) })
	t.Run("Storm", func(t *harness.T) { testStorm(t, s, k) })
}
