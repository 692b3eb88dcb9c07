package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

const idleFor = 60 * time.Second

// goals of memory by program, bytes.
var memoryGoals = map[string]int64{
	"apiserver": 120 << 20, "scheduler": 40 << 20, "controller-manager": 40 << 20, "cloud-controller-manager": 40 << 20,
	"kubelet": 60 << 20, "kube-proxy": 25 << 20,
}

// measureIdle watches a cluster without pods for a minute.
func measureIdle(ctx context.Context, b *bench) error {
	for _, size := range []struct{ masters, nodes int }{{1, 1}, {3, 0}} {
		if err := b.withCluster(ctx, size.masters, size.nodes, func(c *cluster) error { return c.idle(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) idle(ctx context.Context) error {
	if err := pause(ctx, 10*time.Second); err != nil { // start-up is over
		return err
	}
	changes, err := c.leaderChanges(ctx, 1)
	if err != nil {
		return err
	}
	all, err := c.processes()
	if err != nil {
		return err
	}
	before := map[int]time.Duration{}
	for _, p := range all {
		if before[p.pid], err = cpu(p.pid); err != nil {
			return err
		}
	}
	if err := pause(ctx, idleFor); err != nil {
		return err
	}
	machines := map[string]time.Duration{}
	type use struct {
		cpu time.Duration
		pss int64
	}
	programs := map[string]use{} // "machine program"
	for _, p := range all {
		after, err := cpu(p.pid)
		if err != nil {
			return fmt.Errorf("%s in %s ended while idle: %w", p.name, p.machine, err)
		}
		memory, err := pss(p.pid)
		if err != nil {
			return err
		}
		machines[p.machine] += after - before[p.pid]
		key := p.machine + " " + p.name
		sum := programs[key]
		programs[key] = use{sum.cpu + after - before[p.pid], sum.pss + memory.all}
	}
	changesAfter, err := c.leaderChanges(ctx, 1)
	if err != nil {
		return err
	}
	percent := func(d time.Duration) string { return fmt.Sprintf("%.2f %%", 100*d.Seconds()/idleFor.Seconds()) }
	shown := c.masters == 1
	for _, key := range slices.Sorted(maps.Keys(programs)) {
		if !shown {
			continue
		}
		var machine, program string
		_, _ = fmt.Sscan(key, &machine, &program)
		goal := ""
		if limit, ok := memoryGoals[program]; ok {
			goal = fmt.Sprintf("≤ %d MB", limit>>20)
		}
		c.table.add(row{what: "idle: " + key, figure: fmt.Sprintf("%.1f MB PSS, %s of a core", float64(programs[key].pss)/(1<<20), percent(programs[key].cpu)), goal: goal})
	}
	for _, machine := range slices.Sorted(maps.Keys(machines)) {
		c.table.add(row{
			what:   fmt.Sprintf("idle: all of %s, %d master(s), leader changes %d", machine, c.masters, changesAfter-changes),
			figure: percent(machines[machine]) + " of a core", goal: "≤ 2 %",
		})
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
