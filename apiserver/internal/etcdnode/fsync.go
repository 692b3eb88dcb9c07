//go:build !mutant_nofsync

package etcdnode

// withoutFsync is never set: what is acknowledged is on the disks of a majority.
const withoutFsync = false
