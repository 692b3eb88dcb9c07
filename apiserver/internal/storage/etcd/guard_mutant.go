//go:build mutant_noepoch

package etcd

import clientv3 "go.etcd.io/etcd/client/v3"

// guarded leaves transactions unconditional: a mistake that test/faults must find.
func guarded(string, int64) []clientv3.Cmp { return nil }
