package masters_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/masters"
)

// TestSpareReplacesDeadVoter kills a voter of three for good, and starts it when a spare has its
// place.
func TestSpareReplacesDeadVoter(t *testing.T) { onBoth(t, spareReplacesDeadVoter) }

func spareReplacesDeadVoter(t *testing.T, on where) {
	const after = 4 * time.Second
	machines := on.formWith(t, 4, func(c *masters.Config) { c.ReplaceDeadAfter = after })
	spares := func() (names []string) {
		for name, role := range roles(machines[0].running) {
			if role == masters.Spare {
				names = append(names, name)
			}
		}
		return names
	}
	eventually(t, "one is a spare", func() bool { return len(spares()) == 1 }) // usually the last, but who starts late is
	lead := leader(t, machines)
	allAlive(t, lead, 3)
	var dead *machine
	for _, mc := range machines {
		if mc != lead && mc.name != spares()[0] {
			dead = mc
		}
	}
	died := time.Now() // nothing is heard of it from some moment of its stop on
	dead.stop()
	rest := without(machines, dead)
	eventually(t, "the dead voter is off the roster", func() bool { return roles(lead.running)[dead.name] == "" })
	const interval = 500 * time.Millisecond // of reports: it may have been heard that long before
	if took := time.Since(died); took < after-interval {
		t.Errorf("replaced after %s, before it was silent for %s", took, after)
	}
	for _, mc := range rest {
		eventually(t, mc.name+" sees the spare vote", func() bool {
			return len(mc.running.Members()) == 3 && voters(mc.running) == 3
		})
	}
	t.Logf("replaced after %s", time.Since(died).Round(time.Millisecond))
	if _, err := put(t.Context(), leader(t, rest).running.store, key(1), ""); err != nil {
		t.Error(err)
	}
	converge(t, rest)

	// The rest tolerates a failure again.
	second := without(rest, leader(t, rest))[0]
	second.stop()
	if _, err := put(t.Context(), leader(t, without(rest, second)).running.store, key(2), ""); err != nil {
		t.Error(err)
	}
	second.start()
	refusedAtStart(t, dead)
}

// refusedAtStart fails unless a master that was removed while it was away says so when it is
// started, and what to do.
func refusedAtStart(t *testing.T, mc *machine) {
	t.Helper()
	if mc.on.separate != nil {
		mc.start()
		endsWithAdvice(t, mc)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node, err := etcdnode.Start(ctx, mc.etcdConfig(logger(t)))
	if err == nil {
		defer node.Close()
		err = node.Run(ctx)
	}
	if err == nil || !strings.Contains(err.Error(), "removed from the masters") || !strings.Contains(err.Error(), "kijabi reset") {
		t.Errorf("the replaced master starts with %v", err)
	}
}

// TestDeadVoterStaysWithoutSpare lets a voter be dead for long.
func TestDeadVoterStaysWithoutSpare(t *testing.T) { onBoth(t, deadVoterStaysWithoutSpare) }

func deadVoterStaysWithoutSpare(t *testing.T, on where) {
	const after = time.Second
	machines := on.formWith(t, 3, func(c *masters.Config) { c.ReplaceDeadAfter = after })
	lead := leader(t, machines)
	allAlive(t, lead, 3)
	dead := without(machines, lead)[0]
	dead.stop()
	died := time.Now()
	eventually(t, "it has been dead for long", func() bool {
		if _, found := roles(lead.running)[dead.name]; !found {
			t.Fatalf("%s was removed without a spare", dead.name)
		}
		return time.Since(died) > 4*after
	})
	dead.start()
	allAlive(t, lead, 3)
}
