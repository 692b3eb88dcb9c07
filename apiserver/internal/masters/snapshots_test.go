package masters_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	clocktesting "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/masters"
)

// diary notes who made the snapshot of which slot.
type diary struct {
	mu     sync.Mutex
	made   map[time.Time][]string
	broken string // a master that fails
}

func (d *diary) make(master string, slot time.Time) (masters.Snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if master == d.broken {
		return masters.Snapshot{}, errors.New("its disk is full")
	}
	d.made[slot] = append(d.made[slot], master)
	return masters.Snapshot{Name: slot.String(), Master: master, Time: slot}, nil
}

func (d *diary) slots() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.made)
}

// TestOneSnapshotForAllMasters lets hours pass while the leadership moves.
func TestOneSnapshotForAllMasters(t *testing.T) { onBoth(t, oneSnapshotForAllMasters) }

func oneSnapshotForAllMasters(t *testing.T, on where) {
	machines := on.form(t, 3)
	clk := clocktesting.NewFakeClock(time.Date(2026, 11, 30, 8, 10, 0, 0, time.UTC))
	d := &diary{made: map[time.Time][]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for _, mc := range machines {
		s := masters.NewSnapshots(masters.SnapshotsConfig{
			Masters: mc.running.Masters, Interval: time.Hour, Clock: clk, Log: zap.NewNop(),
			Make: func(_ context.Context, slot time.Time) (masters.Snapshot, error) { return d.make(mc.name, slot) },
			Ask: func(_ context.Context, master string, slot time.Time) (masters.Snapshot, error) {
				return d.make(master, slot)
			},
		})
		running.Go(func() { _ = s.Run(ctx) })
	}
	// pass waits until the slot is served; all the while time goes on.
	pass := func(want int) {
		t.Helper()
		eventually(t, "the snapshot of the hour", func() bool {
			clk.Step(5 * time.Second)
			return d.slots() == want && leader(t, machines).running.SnapshotState().Done
		})
	}
	for hour := 1; hour <= 6; hour++ {
		pass(hour)
		lead := leader(t, machines)
		state := lead.running.SnapshotState()
		if state.Last == nil || state.Last.Master == lead.name {
			t.Errorf("hour %d: made by %+v, %s leads", hour, state.Last, lead.name)
		}
		for range 3 { // each leader looks, none repeats it
			if _, err := leader(t, machines).running.Transfer(t.Context(), "", "the test"); err != nil {
				t.Logf("leadership stays: %v", err)
			}
			leader(t, machines)
			clk.Step(time.Minute)
			eventually(t, "all have looked", func() bool { return clk.Waiters() == len(machines) })
		}
		clk.Step(time.Hour - clk.Now().Sub(clk.Now().Truncate(time.Hour)))
	}
	pass(7)
	// One whose disk is full is replaced by another within the hour.
	d.mu.Lock()
	d.broken = leader(t, machines).running.SnapshotState().Last.Master
	d.mu.Unlock()
	clk.Step(time.Hour)
	pass(8)
	d.mu.Lock()
	defer d.mu.Unlock()
	for slot, by := range maps.All(d.made) {
		if len(by) != 1 {
			t.Errorf("%s was made by %v", slot, by)
		}
	}
}
