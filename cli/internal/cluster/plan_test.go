package cluster

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kijabi.dev/cli/internal/machine"
)

func names(state machine.State) string {
	var all []string
	for _, m := range state.Machines {
		all = append(all, m.Name+"="+m.Address.String())
	}
	return strings.Join(all, " ")
}

func TestExtend(t *testing.T) {
	keep := Plan{Name: "a", Masters: -1, Nodes: -1, BinDir: "/bin"}
	state, added, err := keep.extend(machine.State{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := "master-1=10.89.0.11 master-2=10.89.0.12 master-3=10.89.0.13 node-1=10.89.0.21 node-2=10.89.0.22"
	if got := names(state); got != want || len(added) != 5 {
		t.Errorf("default = %s, added %v", got, added)
	}
	again, added, err := keep.extend(state)
	if err != nil || len(added) != 0 || names(again) != want {
		t.Errorf("again = %s, added %v, %v", names(again), added, err)
	}
	more, added, err := Plan{Name: "a", Masters: -1, Nodes: 4}.extend(state)
	if err != nil || !cmp.Equal(added, []string{"node-3", "node-4"}) || len(more.Machines) != 7 {
		t.Errorf("more = %s, added %v, %v", names(more), added, err)
	}
	if len(state.Machines) != 5 {
		t.Error("the old state was changed")
	}
}

func TestExtendRefuses(t *testing.T) {
	existing, _, err := Plan{Masters: 3, Nodes: 2}.extend(machine.State{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		state machine.State
		plan  Plan
		want  string
	}{
		"two masters":    {machine.State{}, Plan{Masters: 2, Nodes: 1}, "1, 3 or 5"},
		"fewer nodes":    {existing, Plan{Masters: 3, Nodes: 1}, "does not remove"},
		"other subnet":   {existing, Plan{Masters: -1, Nodes: -1, Subnet: netip.MustParsePrefix("10.1.0.0/24")}, "kijabi down"},
		"small subnet":   {machine.State{}, Plan{Masters: 3, Nodes: 2, Subnet: netip.MustParsePrefix("10.1.0.0/28")}, "too small"},
		"too many nodes": {machine.State{}, Plan{Masters: 1, Nodes: 240}, "too small"},
		"IPv6":           {machine.State{}, Plan{Masters: 1, Nodes: 0, Subnet: netip.MustParsePrefix("fd00::/64")}, "not IPv4"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := test.plan.extend(test.state); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("extend = %v, want an error with %q", err, test.want)
			}
		})
	}
}
