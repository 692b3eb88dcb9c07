//go:build mutant_nofsync

package etcdnode

// withoutFsync acknowledges what may not be on disk: a mistake that test/faults must find.
const withoutFsync = true
