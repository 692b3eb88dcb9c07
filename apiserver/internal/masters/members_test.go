package masters_test

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/store"
)

func roles(m *master) map[string]masters.Role {
	r := map[string]masters.Role{}
	for _, member := range m.Members() {
		r[member.Name] = member.Role
	}
	return r
}

// TestFourthMasterWaitsForTheFifth forms four masters, then five, and takes two away again.
func TestFourthMasterWaitsForTheFifth(t *testing.T) { onBoth(t, fourthMasterWaitsForTheFifth) }

func fourthMasterWaitsForTheFifth(t *testing.T, on where) {
	machines := on.form(t, 4)
	eventually(t, "the fourth is a spare", func() bool { return roles(machines[0].running)["m4"] == masters.Spare })
	lead := leader(t, machines)
	if _, err := put(t.Context(), machines[3].running.store, key(1), ""); !errors.Is(err, store.ErrNotLeading) {
		t.Errorf("a spare answered a write with %v", err)
	}
	if _, err := put(t.Context(), lead.running.store, key(1), ""); err != nil {
		t.Fatal(err)
	}
	converge(t, machines) // the spare serves reads

	fifth := on.newMachine(t, "m5")
	fifth.start(machines[1].peer, lead.peer)
	machines = append(machines, fifth)
	for _, mc := range machines {
		eventually(t, mc.name+" sees five voters", func() bool { return voters(mc.running) == 5 })
	}
	converge(t, machines)

	if _, err := lead.running.Remove(t.Context(), "m5", masters.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	fifth.stop()
	if _, found := roles(lead.running)["m5"]; found {
		t.Error("m5 is still on the roster")
	}
	if _, err := lead.running.Remove(t.Context(), "m9", masters.RemoveOptions{}); !errors.Is(err, masters.ErrUnknownMember) {
		t.Errorf("removing a stranger: %v", err)
	}
	if _, err := put(t.Context(), lead.running.store, key(2), ""); err != nil {
		t.Error(err)
	}
}

// TestLostDiskRejoins deletes a dead master's data; it joins again under its name.
func TestLostDiskRejoins(t *testing.T) { onBoth(t, lostDiskRejoins) }

func lostDiskRejoins(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	var victim *machine
	for _, mc := range machines {
		if mc != lead {
			victim = mc
		}
	}
	if _, err := put(t.Context(), lead.running.store, key(1), ""); err != nil {
		t.Fatal(err)
	}
	before := roles(lead.running)
	_, err := lead.running.Join(t.Context(), masters.Member{Name: victim.name, PeerAddress: victim.peer, EtcdPeerURL: victim.url})
	if !errors.Is(err, masters.ErrConflict) {
		t.Errorf("a living master joined again: %v", err)
	}
	victim.stop()
	if err := os.RemoveAll(victim.dir); err != nil {
		t.Fatal(err)
	}
	for _, other := range machines {
		if other != lead && other != victim {
			if _, err := lead.running.Remove(t.Context(), other.name, masters.RemoveOptions{}); !errors.Is(err, masters.ErrQuorum) {
				t.Errorf("removing the last but one living voter: %v, want ErrQuorum", err)
			}
		}
	}
	began := time.Now()
	victim.start(lead.peer)
	for _, mc := range machines {
		eventually(t, mc.name+" sees three voters", func() bool {
			return voters(mc.running) == 3 && len(mc.running.Members()) == 3
		})
	}
	t.Logf("rejoined in %s", time.Since(began).Round(time.Millisecond))
	after := lead.running.Members()
	if len(after) != len(before) {
		t.Errorf("the roster is %v", after)
	}
	converge(t, machines)
}

// TestLeaderThatHangsEnds hangs the disk of a leader, raft's log on it included: it can neither
// lead nor hand over, but its heartbeats go on, so that it has to end for another to lead.
func TestLeaderThatHangsEnds(t *testing.T) { onBoth(t, leaderThatHangsEnds) }

func leaderThatHangsEnds(t *testing.T, on where) {
	var abandoned atomic.Bool
	machines := on.formWith(t, 3, func(c *masters.Config) { c.Abandon = func() { abandoned.Store(true) } })
	lead := leader(t, machines)
	allAlive(t, lead, 3)
	release, err := lead.running.HangLog()
	if err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(release)
	t.Cleanup(release)
	lead.running.backend.cut.Store(true)
	began := time.Now()
	eventually(t, "the leader gives its process up", abandoned.Load)
	t.Logf("given up after %s", time.Since(began).Round(time.Millisecond))
	release() // what hangs ends with a process
	lead.stop()
	if _, err := put(t.Context(), leader(t, without(machines, lead)).running.store, key(1), ""); err != nil {
		t.Error(err)
	}
}

// TestLeaderThatCannotWriteHandsOver cuts the leader's store from its data.
func TestLeaderThatCannotWriteHandsOver(t *testing.T) { onBoth(t, leaderThatCannotWriteHandsOver) }

func leaderThatCannotWriteHandsOver(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	eventually(t, "the others are alive", func() bool {
		n := 0
		for _, s := range lead.running.Status().Members {
			if s.Alive {
				n++
			}
		}
		return n == 3
	})
	lead.running.backend.cut.Store(true)
	began := time.Now()
	var next *machine
	eventually(t, "another master leads", func() bool {
		for _, mc := range machines {
			if mc != lead && mc.running.Leadership().Leading {
				next = mc
				return true
			}
		}
		return false
	})
	t.Logf("handed over after %s", time.Since(began).Round(time.Millisecond))
	if _, err := put(t.Context(), next.running.store, key(1), ""); err != nil {
		t.Error(err)
	}
	lead.running.backend.cut.Store(false)
}
