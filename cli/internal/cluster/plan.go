// Package cluster starts and ends a whole cluster on one Linux host: it plans the
// machines, makes them, and runs in them the same commands that make a virtual machine
// a member.
package cluster

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"kijabi.dev/cli/internal/machine"
)

// Plan is what the user asked for. Zero values keep what exists, or mean the default.
type Plan struct {
	// Name of the cluster.
	Name string
	// Masters, 1, 3 or 5, and Nodes to have; negative means as many as there are, or the
	// default of 3 and 2.
	Masters, Nodes int
	// Subnet of the machines; default 10.89.0.0/24.
	Subnet netip.Prefix
	// BinDir holds the programs.
	BinDir string
}

const (
	defaultMasters = 3
	defaultNodes   = 2
	firstMaster    = 11
	firstNode      = 21
)

func defaultSubnet() netip.Prefix { return netip.MustParsePrefix("10.89.0.0/24") }

// extend returns the state with the machines that the plan asks for in addition. Names
// of the new ones come second.
func (p Plan) extend(state machine.State) (machine.State, []string, error) {
	fresh := len(state.Machines) == 0
	if fresh {
		if !p.Subnet.IsValid() {
			p.Subnet = defaultSubnet()
		}
		state.Subnet, state.BinDir = p.Subnet.Masked(), p.BinDir
		if p.Masters < 0 {
			p.Masters = defaultMasters
		}
		if p.Nodes < 0 {
			p.Nodes = defaultNodes
		}
		if !slices.Contains([]int{1, 3, 5}, p.Masters) {
			return state, nil, fmt.Errorf("%d masters cannot agree well: use 1, 3 or 5 with --masters", p.Masters)
		}
	}
	if p.Subnet.IsValid() && p.Subnet.Masked() != state.Subnet {
		return state, nil, fmt.Errorf("cluster %q runs in subnet %s: end it with `kijabi down --name %s` before choosing %s",
			state.Name, state.Subnet, state.Name, p.Subnet)
	}
	if p.BinDir != "" {
		state.BinDir = p.BinDir
	}
	if !state.Subnet.Addr().Is4() {
		return state, nil, fmt.Errorf("subnet %s is not IPv4: choose one like %s with --subnet", state.Subnet, defaultSubnet())
	}
	var added []string
	state.Machines = slices.Clone(state.Machines)
	for _, group := range []struct {
		role        machine.Role
		want, first int
	}{{machine.Master, p.Masters, firstMaster}, {machine.Node, p.Nodes, firstNode}} {
		have := count(state, group.role)
		if group.want >= 0 && group.want < have {
			return state, nil, fmt.Errorf("cluster %q has %d %ss: `kijabi up` does not remove machines; end it with `kijabi down` to start over with %d",
				state.Name, have, group.role, group.want)
		}
		for i := have + 1; i <= group.want; i++ {
			address, err := nth(state.Subnet, group.first+i-1)
			if err != nil {
				return state, nil, err
			}
			name := fmt.Sprintf("%s-%d", group.role, i)
			added = append(added, name)
			state.Machines = append(state.Machines, machine.Machine{Name: name, Role: group.role, Address: address})
		}
	}
	return state, added, nil
}

func count(state machine.State, role machine.Role) int {
	n := 0
	for _, m := range state.Machines {
		if m.Role == role {
			n++
		}
	}
	return n
}

// nth is the address of number n in the subnet.
func nth(subnet netip.Prefix, n int) (netip.Addr, error) {
	base := subnet.Masked().Addr().As4()
	value := binary.BigEndian.Uint32(base[:]) + uint32(n)
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], value)
	address := netip.AddrFrom4(raw)
	next := address.Next()
	if !subnet.Contains(address) || !subnet.Contains(next) { // the last one is for broadcasts
		return netip.Addr{}, fmt.Errorf("subnet %s is too small for machine number %d: choose a larger one with --subnet", subnet, n)
	}
	return address, nil
}
