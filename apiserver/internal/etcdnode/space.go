package etcdnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"golang.org/x/sys/unix"
)

const (
	// minLimit and maxLimit bound what a database may have in use unless it is configured. Less
	// does not hold a small cluster with a day of its history; etcd advises against more.
	minLimit = 256 << 20
	maxLimit = 8 << 30
	// diskShare is the part of the disk that is the limit: beside the database there must be room for
	// the copy that defragmentation makes, or the one that is received from the leader, for the log,
	// and for the trial of a snapshot.
	diskShare = 4

	// slack is what etcd's own quota has above twice our limit.
	slack = 64 << 20

	// The reserve of a disk is a part of it, within bounds; when less is free, nothing may grow.
	// A part of it lies in a file.
	reserveShare = 50
	minReserve   = 8 << 20
	maxReserve   = 512 << 20
	// maxReserved bounds the file; the log is written in segments of this size, allocated ahead.
	maxReserved = 64 << 20
)

// Space is what a member's database takes, and may take, in bytes.
type Space struct {
	// File is the size of the database, InUse the part of it that is not free pages.
	File, InUse int64
	// Limit of InUse, which the leading master keeps.
	Limit int64
	// Ceiling of File, at which etcd raises its alarm.
	Ceiling int64
	// Free is what is free on the database's disk, above its reserve; with 0 or less nothing may
	// grow.
	Free int64
}

// Space returns what the database takes. An error is the disk's.
func (n *Node) Space() (Space, error) {
	backend, limit := n.etcd.Server.Backend(), n.limit()
	s := Space{File: backend.Size(), InUse: backend.SizeInUse(), Limit: limit, Ceiling: ceiling(limit)}
	size, free, err := disk(n.cfg.Dir)
	s.Free = free + reserved(n.cfg.Dir) - reserve(size)
	return s, err
}

func (n *Node) limit() int64 { return limitOf(n.cfg) }

// limitOf is the configured limit, or follows from the disk. With a disk that cannot be asked it is
// that of a small one.
func limitOf(cfg Config) int64 {
	size, _, err := disk(cfg.Dir)
	if err != nil {
		size = 0
	}
	return cmp.Or(cfg.QuotaBytes, min(max(size/diskShare, minLimit), maxLimit))
}

// ceiling is etcd's own quota. It concerns the file, free pages included, and once it is reached
// etcd takes no puts, and thereby no batches, until an operator gives in. It lies so far above our
// limit that it is not reached by what is in use, what is freed but not yet reused, and deletions.
func ceiling(limit int64) int64 { return 2*limit + slack }

func reserve(disk int64) int64 { return min(max(disk/reserveShare, minReserve), maxReserve) }

// disk returns the size of the file system that dir is on, and what a program may use of it.
func disk(dir string) (size, free int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("disk of %s: %w", dir, err)
	}
	return int64(fs.Blocks) * fs.Bsize, int64(fs.Bavail) * fs.Bsize, nil //nolint:gosec // below 2^63
}

// Settle writes what is pending to the file, which Space does not count before.
func (n *Node) Settle() { n.etcd.Server.Backend().ForceCommit() }

// Compact forgets the revisions before the given one, on all members, and waits until this one has
// freed their pages. The fence must have been checked just before. Doing it twice is harmless.
func (n *Node) Compact(ctx context.Context, revision int64) error {
	_, err := n.etcd.Server.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: revision, Physical: true})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return fmt.Errorf("compact before revision %d: %w", revision, err)
	}
	// What one transaction frees counts as free from the next on.
	for range 2 {
		n.Settle()
	}
	return nil
}

// Defragment rewrites the database without its free pages, and returns its size before and after. It
// takes a second or so for each GiB in use, cannot be interrupted, and the member applies nothing
// and answers no reads meanwhile. It needs room for the copy.
func (n *Node) Defragment() (before, after int64, err error) {
	backend := n.etcd.Server.Backend()
	before = backend.Size()
	if err := backend.Defrag(); err != nil {
		return before, before, fmt.Errorf("defragment the database of etcd member %s: %w", n.cfg.Name, err)
	}
	return before, backend.Size(), nil
}

// Alarm is one of etcd's alarms. While there is one of either kind, no member takes writes.
type Alarm struct {
	// Member that it is about; 0 when data differ and it is not known whose is wrong.
	Member uint64
	// Corrupt says that the member's data differ from others'; else its file has reached the ceiling.
	Corrupt bool
}

// Alarms lists the active ones.
func (n *Node) Alarms() []Alarm {
	var all []Alarm
	for _, a := range n.etcd.Server.Alarms() {
		all = append(all, Alarm{Member: a.GetMemberID(), Corrupt: a.GetAlarm() == etcdserverpb.AlarmType_CORRUPT})
	}
	return all
}

// SetAlarm ends an alarm, or raises it as etcd does.
func (n *Node) SetAlarm(ctx context.Context, a Alarm, active bool) error {
	kind, action := etcdserverpb.AlarmType_NOSPACE, etcdserverpb.AlarmRequest_DEACTIVATE
	if a.Corrupt {
		kind = etcdserverpb.AlarmType_CORRUPT
	}
	if active {
		action = etcdserverpb.AlarmRequest_ACTIVATE
	}
	if _, err := n.etcd.Server.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: action, MemberID: a.Member, Alarm: kind}); err != nil {
		return fmt.Errorf("%s the %s alarm of etcd member %x: %w", action, kind, a.Member, err)
	}
	return nil
}
