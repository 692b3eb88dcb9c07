package loops

import "testing"

// TestControllers runs, one after the other on one master, what the loops promise.
func TestControllers(t *testing.T) {
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	t.Run("PodRanges", func(t *testing.T) { testPodRanges(t, s, k) })
	t.Run("Garbage", func(t *testing.T) { testGarbage(t, s) })
	t.Run("ServiceAccounts", func(t *testing.T) { testServiceAccounts(t, s) })
	t.Run("NamespaceDeletion", func(t *testing.T) { testNamespaceDeletion(t, s) })
	t.Run("Rollout", func(t *testing.T) { testRollout(t, s) })
	t.Run("Recreate", func(t *testing.T) { testRecreate(t, s) })
	t.Run("Endpoints", func(t *testing.T) { testEndpoints(t, s) })
	t.Run("ExactlyOnce", func(t *testing.T) { testExactlyOnce(t, s) })
	t.Run("SilentNodes", func(t *testing.T) { testSilentNodes(t, s, k) })
	t.Run("Storm", func(t *testing.T) { testStorm(t, s, k) })
}
