// Package plan decides how one machine reaches the pods of the others. It is pure.
package plan

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Mode says how pods of other machines are reached.
type Mode string

const (
	// Auto routes to machines on the same link and tunnels to the others.
	Auto Mode = "auto"
	// Routes never tunnels.
	Routes Mode = "routes"
	// VXLAN tunnels to all.
	VXLAN Mode = "vxlan"
)

// ParseMode reads a mode; empty is Auto.
func ParseMode(text string) (Mode, error) {
	switch m := Mode(text); m {
	case "":
		return Auto, nil
	case Auto, Routes, VXLAN:
		return m, nil
	default:
		return "", fmt.Errorf("mode %q is none of auto, routes, vxlan", text)
	}
}

// TunnelOverhead is what VXLAN over IPv4 takes from each packet.
const TunnelOverhead = 50

// Node is a machine of the cluster as the API knows it.
type Node struct {
	Name string
	// Address other machines reach it by; invalid while unknown.
	Address netip.Addr
	// Range its pods get their addresses from; invalid while not given.
	Range netip.Prefix
}

// Input is what a plan is made of.
type Input struct {
	// Self is the name and Address the address of this machine.
	Self    string
	Address netip.Addr
	Mode    Mode
	// PodRange is the range of all pods.
	PodRange netip.Prefix
	Nodes    []Node
	// OnLink says whether an address is reached without a router. Used in mode auto
	// and routes.
	OnLink func(netip.Addr) bool
	// MTU of the link that has Address.
	MTU int
}

// Route leads to the pods of a machine on the same link.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Peer is a machine at the other end of the tunnel. Both ends derive its addresses
// from what the API says about it, so nothing needs to be exchanged.
type Peer struct {
	To netip.Prefix
	// Machine is its address on the underlay.
	Machine netip.Addr
	// Endpoint and Hardware are its addresses inside the tunnel.
	Endpoint netip.Addr
	Hardware string
}

// Plan is how this machine's network must look.
type Plan struct {
	// Range of this machine's pods. While it is invalid nothing else is planned.
	Range netip.Prefix
	// MTU of pods.
	MTU    int
	Routes []Route
	// Tunnel says whether the tunnel device exists, with these addresses and peers.
	Tunnel   bool
	Endpoint netip.Addr
	Hardware string
	Peers    []Peer
	// Problems are machines whose pods cannot be reached, each with the cause and the fix.
	Problems []string
}

// Make plans. The result depends on nothing but the input.
func Make(in Input) Plan {
	var p Plan
	nodes := slices.SortedFunc(slices.Values(in.Nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		if n.Name == in.Self && n.Range.IsValid() {
			p.Range = n.Range
		}
	}
	if !p.Range.IsValid() {
		return p
	}
	taken := []Node{{Name: in.Self, Range: p.Range}}
	for _, n := range nodes {
		if n.Name == in.Self || !n.Range.IsValid() || !n.Address.IsValid() {
			continue // a machine that is still joining
		}
		if problem := misplaced(n, taken, in.PodRange); problem != "" {
			p.Problems = append(p.Problems, problem)
			continue
		}
		taken = append(taken, n)
		switch onLink := in.Mode != VXLAN && in.OnLink(n.Address); {
		case onLink:
			p.Routes = append(p.Routes, Route{To: n.Range, Via: n.Address})
		case in.Mode == Routes:
			p.Problems = append(p.Problems, fmt.Sprintf(
				"pods of node %s (%s) cannot be reached: %s is behind a router; use mode auto or vxlan", n.Name, n.Range, n.Address))
		default:
			p.Peers = append(p.Peers, Peer{To: n.Range, Machine: n.Address, Endpoint: n.Range.Masked().Addr(), Hardware: Hardware(n.Address)})
		}
	}
	p.MTU = in.MTU
	p.Tunnel = in.Mode == VXLAN || len(p.Peers) > 0
	if p.Tunnel {
		p.MTU -= TunnelOverhead
		p.Endpoint, p.Hardware = p.Range.Masked().Addr(), Hardware(in.Address)
	}
	return p
}

// misplaced explains why a node's range cannot be used, or returns "".
func misplaced(n Node, taken []Node, pods netip.Prefix) string {
	if !pods.Contains(n.Range.Addr()) || n.Range.Bits() < pods.Bits() {
		return fmt.Sprintf("pods of node %s cannot be reached: its range %s lies outside %s; correct spec.podCIDR", n.Name, n.Range, pods)
	}
	for _, other := range taken {
		if other.Range.Overlaps(n.Range) {
			return fmt.Sprintf("pods of node %s cannot be reached: its range %s overlaps that of node %s; correct spec.podCIDR", n.Name, n.Range, other.Name)
		}
	}
	return ""
}

// Hardware derives the tunnel's hardware address of a machine from its IPv4 address:
// locally administered, and different for each machine.
func Hardware(a netip.Addr) string {
	b := a.As4()
	return net.HardwareAddr{0x0a, 0x4b, b[0], b[1], b[2], b[3]}.String()
}
