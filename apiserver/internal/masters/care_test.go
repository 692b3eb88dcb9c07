package masters_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/store"
)

// large is a write of an object of a size.
func large(ctx context.Context, s *store.Store, k store.Key, value []byte) error {
	w := store.Write{Key: k, Decide: func(*store.Record) (store.Change, error) { return store.Change{Value: value}, nil }}
	_, err := s.Commit(ctx, store.Group{Writes: []store.Write{w}, User: "test"})
	return err
}

func erase(ctx context.Context, s *store.Store, k store.Key) error {
	w := store.Write{Key: k, Decide: func(*store.Record) (store.Change, error) { return store.Change{Delete: true}, nil }}
	_, err := s.Commit(ctx, store.Group{Writes: []store.Write{w}, User: "test"})
	return err
}

// damage inverts a bit of a value in the database of a master, which may run: etcd maps the file.
func (mc *machine) damage(marker string) {
	mc.t.Helper()
	file := filepath.Join(mc.dir, "etcd", "member", "snap", "db")
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		mc.t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		mc.t.Fatal(err)
	}
	found := 0
	for at := 0; ; found++ {
		i := bytes.Index(content[at:], []byte(marker))
		if i < 0 {
			break
		}
		at += i
		if _, err := f.WriteAt([]byte{content[at] ^ 0x10}, int64(at)); err != nil {
			mc.t.Fatal(err)
		}
		at++
	}
	if err := f.Close(); err != nil || found == 0 {
		mc.t.Fatalf("%q is %d times in %s: %v", marker, found, file, err)
	}
}

// rejoin starts a master that has been removed for its data, as its program does.
func (mc *machine) rejoin(lead *machine) {
	mc.t.Helper()
	mc.stop()
	if err := lead.running.PermitRebuild(mc.t.Context(), mc.name, "it was removed", false); err != nil {
		mc.t.Fatalf("%s may not rebuild its data: %v", mc.name, err)
	}
	for _, part := range []string{"etcd", "raft"} {
		if err := os.RemoveAll(filepath.Join(mc.dir, part)); err != nil {
			mc.t.Fatal(err)
		}
	}
	mc.start(lead.peer)
}

// alike fails unless all members have the same data.
func alike(t *testing.T, machines []*machine) {
	t.Helper()
	eventually(t, "all members have the same data", func() bool {
		revision := machines[0].running.etcd.Revision()
		var first uint32
		for i, mc := range machines {
			hash, _, err := mc.running.etcd.Hash(revision)
			if i == 0 {
				first = hash
			}
			if err != nil || hash != first {
				return false
			}
		}
		return true
	})
}

func quickly(c *masters.Config) { c.CompareEvery = 200 * time.Millisecond }

// TestOddDataIsRebuilt damages the data of a running follower, then that of the leader.
func TestOddDataIsRebuilt(t *testing.T) {
	machines := where{}.formWith(t, 3, quickly)
	for round, victimLeads := range []bool{false, true} {
		lead := leader(t, machines)
		marker := fmt.Sprintf("precious-%d-", round)
		if err := large(t.Context(), lead.running.store, key(round), []byte(strings.Repeat(marker, 10))); err != nil {
			t.Fatal(err)
		}
		converge(t, machines)
		victim := lead
		for _, mc := range machines {
			if !victimLeads && mc != lead {
				victim = mc
			}
		}
		// What was written reaches the file with etcd's next commit, after 100 ms.
		eventually(t, "it is in the file", func() bool {
			content, err := os.ReadFile(filepath.Join(victim.dir, "etcd", "member", "snap", "db"))
			return err == nil && bytes.Contains(content, []byte(marker))
		})
		began := time.Now()
		victim.damage(marker)
		select {
		case err := <-victim.running.ended:
			if !errors.Is(err, masters.ErrRemoved) {
				t.Errorf("its part ended with %v", err)
			}
		case err := <-victim.running.etcdEnd:
			if !errors.Is(err, etcdnode.ErrRemoved) {
				t.Errorf("etcd ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the damage was not found in time")
		}
		var others []*machine
		for _, mc := range machines {
			if mc != victim {
				others = append(others, mc)
			}
		}
		lead = leader(t, others)
		if _, err := put(t.Context(), lead.running.store, key(100+round), ""); err != nil {
			t.Error(err)
		}
		eventually(t, "it may rebuild", func() bool { return roles(lead.running)[victim.name] == "" })
		victim.rejoin(lead)
		eventually(t, "it votes again", func() bool { return voters(victim.running) == 3 && voters(lead.running) == 3 })
		t.Logf("rebuilt after %s", time.Since(began).Round(time.Millisecond))
		converge(t, machines)
		alike(t, machines)
	}
	if counts := leader(t, machines).running.CareCounts(); counts.Compared == 0 {
		t.Errorf("counted %+v", counts)
	}
}

// TestRebuildIsPermittedToOne asks for permission for masters that do not run.
func TestRebuildIsPermittedToOne(t *testing.T) {
	machines := where{}.form(t, 3)
	lead := leader(t, machines)
	var others []*machine
	for _, mc := range machines {
		if mc != lead {
			others = append(others, mc)
		}
	}
	ask := func(mc *machine, differs bool) error {
		return lead.running.PermitRebuild(t.Context(), mc.name, "test", differs)
	}
	if err := lead.running.PermitRebuild(t.Context(), "m9", "test", false); !errors.Is(err, masters.ErrUnknownMember) {
		t.Errorf("a stranger: %v", err)
	}
	if err := ask(lead, false); !errors.Is(err, masters.ErrConflict) {
		t.Errorf("the leader: %v", err)
	}
	if err := others[0].running.PermitRebuild(t.Context(), lead.name, "test", false); !errors.Is(err, masters.ErrNotLeader) {
		t.Errorf("asked of a follower: %v", err)
	}
	others[0].stop()
	if err := ask(others[0], true); err != nil {
		t.Errorf("its data differs from what the others agree on: %v", err)
	}
	// The other two are the quorum now.
	if err := ask(others[1], false); !errors.Is(err, masters.ErrUnsettled) {
		t.Errorf("a second at once: %v", err)
	}
	if err := ask(others[0], false); err != nil {
		t.Errorf("the same again: %v", err)
	}
}

// TestQuorumGoesBeforeRebuilding has one of three masters dead, and another that would like to
// give its data up.
func TestQuorumGoesBeforeRebuilding(t *testing.T) {
	machines := where{}.form(t, 3)
	lead := leader(t, machines)
	var others []*machine
	for _, mc := range machines {
		if mc != lead {
			others = append(others, mc)
		}
	}
	others[0].stop()
	eventually(t, "the removal of the other would cost the quorum", func() bool {
		return errors.Is(lead.running.PermitRebuild(t.Context(), others[1].name, "test", false), masters.ErrQuorum)
	})
}

// TestLimitHealsItself fills the data store up to its limit, deletes, and writes on without
// anybody's command.
func TestLimitHealsItself(t *testing.T) {
	mc := where{}.newMachine(t, "m1")
	mc.quota = 16 << 20
	mc.start()
	lead := leader(t, []*machine{mc}).running
	value := bytes.Repeat([]byte("v"), 256<<10)
	n, err := 0, error(nil)
	for ; err == nil && n < 1000; n++ {
		err = large(t.Context(), lead.store, key(n), value)
	}
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "etcd.quotaBytes") {
		t.Fatalf("after %d objects: %v", n, err)
	}
	if space, err := lead.etcd.Space(); err != nil || space.InUse > 2*mc.quota {
		t.Errorf("%d bytes are in use: %v", space.InUse, err)
	}
	eventually(t, "it says that it is full", func() bool {
		return lead.Full() && strings.Contains(strings.Join(lead.Status().Warnings, "\n"), "are in use")
	})
	t.Logf("full after %d objects: %v", n, err)
	if len(lead.etcd.Alarms()) > 0 {
		t.Error("etcd raised its alarm")
	}
	began := time.Now()
	for i := range n - 1 {
		if err := erase(t.Context(), lead.store, key(i)); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	eventually(t, "it takes writes again", func() bool { return large(t.Context(), lead.store, key(0), value) == nil })
	t.Logf("healed in %s", time.Since(began).Round(time.Millisecond))
	if s := lead.Status(); lead.Full() || len(s.Warnings) > 0 || lead.CareCounts().Shortened == 0 {
		t.Errorf("afterwards: full %t, warnings %v, %+v", lead.Full(), s.Warnings, lead.CareCounts())
	}
}

// TestAlarmOfQuotaEnds fills the file past etcd's own quota, behind the limit's back, so that etcd
// raises its alarm and refuses every batch.
func TestAlarmOfQuotaEnds(t *testing.T) {
	mc := where{}.newMachine(t, "m1")
	mc.quota = 1 << 20
	mc.start()
	lead := leader(t, []*machine{mc}).running
	fence, _, err := lead.backend.Read(t.Context(), "/fence")
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = lead.backend.Commit(t.Context(), "/fence", fence.Revision, []store.Op{{Key: "/filler", Value: make([]byte, 4<<20)}})
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatal(err)
	}
	if _, err := lead.backend.Commit(t.Context(), "/fence", fence.Revision, []store.Op{{Key: "/filler", Delete: true}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it takes writes again", func() bool {
		_, err := put(t.Context(), lead.store, key(1), "")
		return err == nil
	})
	if left := lead.etcd.Alarms(); len(left) > 0 {
		t.Errorf("alarms are left: %v", left)
	}
}

// TestAlarmOfCorruptionEnds has etcd raise its alarm, which ends all writes, about the wrong member
// of three and about one that is well.
func TestAlarmOfCorruptionEnds(t *testing.T) {
	machines := where{}.formWith(t, 3, func(c *masters.Config) { c.CompareEvery = time.Hour })
	lead := leader(t, machines)
	var others []*machine
	for _, mc := range machines {
		if mc != lead {
			others = append(others, mc)
		}
	}
	raise := func(about *machine) {
		t.Helper()
		alarm := etcdnode.Alarm{Member: about.running.etcd.Status().ID, Corrupt: true}
		if err := lead.running.etcd.SetAlarm(t.Context(), alarm, true); err != nil {
			t.Fatal(err)
		}
	}
	writes := func(i int) {
		t.Helper()
		eventually(t, "writes are taken again", func() bool {
			if len(lead.running.etcd.Alarms()) > 0 {
				return false
			}
			_, err := put(t.Context(), leader(t, []*machine{lead, others[1]}).running.store, key(i), "")
			return err == nil
		})
	}
	raise(others[0])
	writes(1)
	for name, role := range roles(lead.running) {
		if role != masters.Voter {
			t.Errorf("%s is a %s after a false alarm", name, role)
		}
	}

	marker := "precious-alarm-"
	eventually(t, "written", func() bool {
		return large(t.Context(), leader(t, machines).running.store, key(2), []byte(strings.Repeat(marker, 10))) == nil
	})
	lead = leader(t, machines)
	others = nil
	for _, mc := range machines {
		if mc != lead {
			others = append(others, mc)
		}
	}
	converge(t, machines)
	eventually(t, "it is in the file", func() bool {
		content, err := os.ReadFile(filepath.Join(others[0].dir, "etcd", "member", "snap", "db"))
		return err == nil && bytes.Contains(content, []byte(marker))
	})
	others[0].damage(marker)
	raise(others[1])
	writes(3)
	if _, found := roles(lead.running)[others[0].name]; found {
		t.Errorf("%s is still a member", others[0].name)
	}
	if roles(lead.running)[others[1].name] != masters.Voter {
		t.Errorf("%s was blamed", others[1].name)
	}
}

// TestDefragmentationGoesRound leaves all members with free pages. Each gets rid of them, the leader
// last, by leading no more; nobody is taken for dead.
func TestDefragmentationGoesRound(t *testing.T) {
	machines := where{}.formWith(t, 3, func(c *masters.Config) {
		c.DefragmentAbove, c.DefragmentEvery, c.ReplaceDeadAfter = 8<<20, 200*time.Millisecond, 10*time.Second
	})
	lead := leader(t, machines)
	value := bytes.Repeat([]byte("v"), 256<<10)
	for i := range 60 {
		if err := large(t.Context(), lead.running.store, key(i%5), value); err != nil {
			t.Fatal(err)
		}
	}
	converge(t, machines)
	if err := lead.running.etcd.Compact(t.Context(), lead.running.etcd.Revision()); err != nil {
		t.Fatal(err)
	}
	writing, n := true, 0
	for deadline := time.Now().Add(20 * time.Second); writing; {
		writing = false
		for _, mc := range machines {
			space, err := mc.running.etcd.Space()
			writing = writing || err != nil || space.File > 8<<20
		}
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
		// Free pages count when the next write is committed.
		if _, err := put(t.Context(), leader(t, machines).running.store, key(1000+n), ""); err == nil {
			n++
		}
	}
	for _, mc := range machines {
		if counts := mc.running.CareCounts(); counts.Defragmented == 0 || counts.DefragmentationsFailed > 0 {
			t.Errorf("%s: %+v", mc.name, counts)
		}
	}
	if changes := lead.running.Status().LeaderChanges; changes < 2 || changes > 5 { // the first is its own election
		t.Errorf("%d changes of leadership", changes)
	}
	for name, role := range roles(leader(t, machines).running) {
		if role != masters.Voter {
			t.Errorf("%s is a %s", name, role)
		}
	}
	converge(t, machines)
	alike(t, machines)
}

// TestFailedWriteEndsTheProcess has the disk fail a write of raft's log: it is not repeated.
func TestFailedWriteEndsTheProcess(t *testing.T) {
	mc := where{}.newMachine(t, "m1")
	var failed error
	abandoned := 0
	mc.configure = func(c *masters.Config) {
		c.DiskFailed, c.Abandon = func(err error) { failed = err }, func() { abandoned++ }
	}
	mc.start()
	if err := mc.running.FailLog(); !errors.Is(err, syscall.EIO) || !errors.Is(failed, syscall.EIO) || abandoned != 1 {
		t.Errorf("failed with %v: told %v, ended %d times", err, failed, abandoned)
	}
}

// TestLoneMasterIsDefragmented has nobody to hand over to.
func TestLoneMasterIsDefragmented(t *testing.T) {
	mc := where{}.newMachine(t, "m1")
	mc.configure = func(c *masters.Config) { c.DefragmentAbove, c.DefragmentEvery = 4<<20, 100*time.Millisecond }
	mc.start()
	lead := leader(t, []*machine{mc}).running
	for range 30 {
		if err := large(t.Context(), lead.store, key(1), make([]byte, 256<<10)); err != nil && !errors.Is(err, store.ErrNotLeading) {
			t.Fatal(err)
		}
	}
	if err := lead.etcd.Compact(t.Context(), lead.etcd.Revision()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its file is small", func() bool {
		space, err := lead.etcd.Space()
		return err == nil && space.File < 4<<20
	})
	eventually(t, "it takes writes", func() bool {
		_, err := put(t.Context(), lead.store, key(2), "")
		return err == nil
	})
	if counts := lead.CareCounts(); counts.Defragmented != 1 {
		t.Errorf("counted %+v", counts)
	}
}
