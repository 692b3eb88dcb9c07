package masters_test

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/masters"
)

// without returns the other machines.
func without(machines []*machine, gone *machine) []*machine {
	var others []*machine
	for _, mc := range machines {
		if mc != gone {
			others = append(others, mc)
		}
	}
	return others
}

// allAlive waits until a master has heard of all others.
func allAlive(t *testing.T, mc *machine, n int) {
	t.Helper()
	eventually(t, mc.name+" hears the others", func() bool { return mc.running.Status().Quorum.Living == n })
}

// remove asks as a client does: again while the masters are not settled.
func remove(t *testing.T, machines []*machine, name string, o masters.RemoveOptions) (masters.Removal, error) {
	t.Helper()
	var removal masters.Removal
	var err error
	eventually(t, "an answer to the removal of "+name, func() bool {
		removal, err = leader(t, machines).running.Remove(t.Context(), name, o)
		return !errors.Is(err, masters.ErrNotLeader) && !errors.Is(err, masters.ErrUnsettled)
	})
	return removal, err
}

// endsWithAdvice fails unless a master and its etcd member end by themselves and say what to do.
func endsWithAdvice(t *testing.T, mc *machine) {
	t.Helper()
	parts := map[string]chan error{"master": mc.running.ended}
	if mc.running.etcd != nil {
		parts["etcd member"] = mc.running.etcdEnd
	}
	for what, ended := range parts {
		select {
		case err := <-ended:
			for _, part := range []string{"removed from the masters", "kijabi reset", "kijabi master leave"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%s %s ended with %v, which does not mention %q", what, mc.name, err, part)
				}
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s %s does not notice that it was removed", what, mc.name)
		}
	}
}

func TestRemovalIsPlannedWeighedAndRefused(t *testing.T) {
	onBoth(t, removalIsPlannedWeighedAndRefused)
}

func removalIsPlannedWeighedAndRefused(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	allAlive(t, lead, 3)
	others := without(machines, lead)
	dead, living := others[0], others[1]

	plan := masters.RemoveOptions{PlanOnly: true}
	before := roles(lead.running)
	got, err := remove(t, machines, dead.name, plan)
	if err != nil || got.Refused != nil || !got.Alive || got.Leader ||
		got.Before != (masters.Quorum{Voters: 3, Living: 3}) || got.After != (masters.Quorum{Voters: 2, Living: 2}) ||
		got.Before.Tolerated() != 1 || got.After.Tolerated() != 0 || got.After.Needed() != 2 {
		t.Errorf("plan of a living master's removal: %+v, %v", got, err)
	}
	if got, err := remove(t, machines, lead.name, plan); err != nil || !got.Leader || got.Refused != nil {
		t.Errorf("plan of the leader's removal: %+v, %v", got, err)
	}
	if after := roles(lead.running); !maps.Equal(before, after) {
		t.Errorf("a plan changed the roster from %v to %v", before, after)
	}

	dead.stop()
	for _, o := range []masters.RemoveOptions{{Force: true}, {}} { // at once: it has answered raft just now
		_, err := remove(t, machines, living.name, o)
		if !errors.Is(err, masters.ErrQuorum) || !strings.Contains(err.Error(), dead.name+" does not answer") || !strings.Contains(err.Error(), "remove it first") {
			t.Errorf("removing the last but one living voter with %+v: %v", o, err)
		}
	}
	if got, err := remove(t, machines, living.name, plan); err != nil || !errors.Is(got.Refused, masters.ErrQuorum) || got.After.Tolerated() != -1 {
		t.Errorf("plan of it: %+v, %v", got, err)
	}
	if got, err := remove(t, machines, dead.name, masters.RemoveOptions{}); err != nil || got.Alive ||
		got.Before != (masters.Quorum{Voters: 3, Living: 2}) || got.After != (masters.Quorum{Voters: 2, Living: 2}) {
		t.Errorf("removal of the dead master: %+v, %v", got, err)
	}
	if _, err := put(t.Context(), leader(t, machines).running.store, key(1), ""); err != nil {
		t.Error(err)
	}
	if got, err := remove(t, machines, living.name, masters.RemoveOptions{}); err != nil || got.After != (masters.Quorum{Voters: 1, Living: 1}) {
		t.Errorf("removal of the second of two: %+v, %v", got, err)
	}
	endsWithAdvice(t, living)
	if _, err := remove(t, machines, lead.name, masters.RemoveOptions{Force: true}); !errors.Is(err, masters.ErrQuorum) {
		t.Errorf("removal of the only master: %v", err)
	}
	if _, err := put(t.Context(), lead.running.store, key(2), ""); err != nil {
		t.Error(err)
	}
}

func TestForceCountsVotersThatAnswerRaft(t *testing.T) { onBoth(t, forceCountsVotersThatAnswerRaft) }

func forceCountsVotersThatAnswerRaft(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	allAlive(t, lead, 3)
	others := without(machines, lead)
	others[0].running.door.deaf.Store(true)
	if _, err := remove(t, machines, others[1].name, masters.RemoveOptions{}); !errors.Is(err, masters.ErrQuorum) {
		t.Errorf("removal beside a voter that does not answer: %v", err)
	}
	if got, err := remove(t, machines, others[1].name, masters.RemoveOptions{Force: true}); err != nil || got.After != (masters.Quorum{Voters: 2, Living: 2}) {
		t.Errorf("forced: %+v, %v", got, err)
	}
	if _, err := put(t.Context(), leader(t, machines).running.store, key(1), ""); err != nil {
		t.Error(err)
	}
}

func TestLeaderIsRemoved(t *testing.T) { onBoth(t, leaderIsRemoved) }

func leaderIsRemoved(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	allAlive(t, lead, 3)
	rest := without(machines, lead)
	if _, err := lead.running.Remove(t.Context(), lead.name, masters.RemoveOptions{By: "anna"}); !errors.Is(err, masters.ErrNotLeader) {
		t.Fatalf("the leader answers its own removal with %v, want ErrNotLeader after the hand-over", err)
	}
	if _, err := remove(t, rest, lead.name, masters.RemoveOptions{By: "anna"}); err != nil {
		t.Fatal(err)
	}
	endsWithAdvice(t, lead)
	for _, mc := range rest {
		eventually(t, mc.name+" knows two masters", func() bool { return len(mc.running.Members()) == 2 })
		changes := mc.running.Status().LastChanges
		if last := changes[len(changes)-1]; last.From != lead.name || last.Reason != "removal by anna" {
			t.Errorf("%s: last change of leader %+v", mc.name, last)
		}
	}
	if _, err := put(t.Context(), leader(t, rest).running.store, key(1), ""); err != nil {
		t.Error(err)
	}
	converge(t, rest)
}

// TestRemovalIsFinishedByTheNextLeader kills the leader when the member is out of etcd, if that is
// embedded, but not out of raft.
func TestRemovalIsFinishedByTheNextLeader(t *testing.T) { onBoth(t, removalIsFinishedByTheNextLeader) }

func removalIsFinishedByTheNextLeader(t *testing.T, on where) {
	machines := on.form(t, 5)
	lead := leader(t, machines)
	allAlive(t, lead, 5)
	rest := without(machines, lead)
	gone := rest[0]
	rest = rest[1:]
	gone.stop()
	if err := lead.running.HalfExpel(t.Context(), gone.name); err != nil {
		t.Fatal(err)
	}
	lead.stop()
	for _, mc := range rest {
		eventually(t, mc.name+" knows four masters, all voters", func() bool {
			return len(mc.running.Members()) == 4 && voters(mc.running) == 4
		})
	}
	if _, err := put(t.Context(), leader(t, rest).running.store, key(1), ""); err != nil {
		t.Error(err)
	}
}

// TestRemovalIsGivenUpWhenVotersDieBefore marks a voter as leaving when the rest cannot do without it
// any more.
func TestRemovalIsGivenUpWhenVotersDieBefore(t *testing.T) {
	onBoth(t, removalIsGivenUpWhenVotersDieBefore)
}

func removalIsGivenUpWhenVotersDieBefore(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	allAlive(t, lead, 3)
	others := without(machines, lead)
	others[0].stop()
	if err := lead.running.MarkLeaving(others[1].name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is a voter again", func() bool { return roles(lead.running)[others[1].name] == masters.Voter })
	if _, err := put(t.Context(), lead.running.store, key(1), ""); err != nil {
		t.Error(err)
	}
	converge(t, machines)
}

func TestHistoryKnowsWhyLeadersChanged(t *testing.T) { onBoth(t, historyKnowsWhyLeadersChanged) }

func historyKnowsWhyLeadersChanged(t *testing.T, on where) {
	machines := on.form(t, 3)
	first := leader(t, machines)
	allAlive(t, first, 3)
	second := without(machines, first)[0]
	allAlive(t, second, 3)
	if _, err := first.running.Transfer(t.Context(), second.name, "transfer by anna"); err != nil {
		t.Fatal(err)
	}
	rest := without(machines, second)
	eventually(t, "the heir leads", func() bool { return second.running.Leadership().Leading })
	// Only a leader whose epoch all know has a reason to be found under it.
	for _, mc := range rest {
		eventually(t, mc.name+" knows the epoch", func() bool {
			l := mc.running.Leadership()
			return l.Leader == second.name && l.Epoch != 0
		})
	}
	second.stop()
	leader(t, rest)
	for _, mc := range rest {
		eventually(t, mc.name+" knows both reasons", func() bool {
			changes := mc.running.Status().LastChanges
			n := len(changes)
			return n >= 2 && changes[n-2].Reason == "transfer by anna" && changes[n-2].To == second.name &&
				changes[n-1].From == second.name && changes[n-1].Reason == "died"
		})
	}
	second.start() // it is found out only now that it has been started again
	eventually(t, "it has still died", func() bool {
		status := rest[0].running.Status()
		return status.Quorum.Living == 3 && status.LastChanges[len(status.LastChanges)-1].Reason == "died"
	})
}
