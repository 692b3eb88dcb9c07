//go:build !mutant_noepoch

package etcd

import clientv3 "go.etcd.io/etcd/client/v3"

// guarded is the condition of every transaction: the guard key was last written by revision guard.
func guarded(guardKey string, guard int64) []clientv3.Cmp {
	return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(guardKey), "=", guard)}
}
