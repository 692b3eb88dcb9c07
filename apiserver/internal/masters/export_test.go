package masters

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// HalfExpel removes a member from etcd only, if that is embedded, and lets nobody finish that
// here, as if this leader died in the middle.
func (m *Masters) HalfExpel(ctx context.Context, name string) error {
	m.change.Lock() // until this master ends
	go func() {
		for m.raft.State() != raft.Shutdown {
			time.Sleep(time.Millisecond)
		}
		m.change.Unlock()
	}()
	member, found := m.roster.get(name)
	if !found {
		return fmt.Errorf("%w: %s", ErrUnknownMember, name)
	}
	member.Role = Leaving
	if err := m.apply(command{Put: &member}); err != nil {
		return err
	}
	if m.cfg.Etcd == nil {
		return nil
	}
	return m.cfg.Etcd.Remove(ctx, parseEtcdID(member.EtcdID))
}

// MarkLeaving writes down that a member is leaving, and does no more, as if this leader died then.
func (m *Masters) MarkLeaving(name string) error {
	member, found := m.roster.get(name)
	if !found {
		return fmt.Errorf("%w: %s", ErrUnknownMember, name)
	}
	member.Role = Leaving
	return m.apply(command{Put: &member})
}

// FailLog has a write to raft's log fail as a broken disk does.
func (m *Masters) FailLog() error {
	return m.logs.update(func(*bbolt.Tx) error { return syscall.EIO })
}

// HangLog makes every write to raft's log hang, as a disk does whose fsync never returns, and raft
// with it, until release is called.
func (m *Masters) HangLog() (release func(), err error) {
	tx, err := m.logs.db.Begin(true)
	if err != nil {
		return nil, err
	}
	m.raft.Apply([]byte("{}"), 0) // a change of nothing, not waited for
	return func() { _ = tx.Rollback() }, nil
}
