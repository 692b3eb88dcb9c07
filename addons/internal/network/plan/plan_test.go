package plan

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func node(name, address, pods string) Node {
	n := Node{Name: name}
	if address != "" {
		n.Address = netip.MustParseAddr(address)
	}
	if pods != "" {
		n.Range = netip.MustParsePrefix(pods)
	}
	return n
}

func TestMake(t *testing.T) {
	self := node("a", "192.168.1.1", "10.244.0.0/24")
	near, far := node("b", "192.168.1.2", "10.244.1.0/24"), node("c", "172.16.0.3", "10.244.2.0/24")
	route := func(n Node) Route { return Route{To: n.Range, Via: n.Address} }
	peer := func(n Node) Peer {
		return Peer{To: n.Range, Machine: n.Address, Endpoint: n.Range.Addr(), Hardware: Hardware(n.Address)}
	}
	tunnel := func(p Plan) Plan {
		p.Tunnel, p.MTU, p.Endpoint, p.Hardware = true, 1450, self.Range.Addr(), "0a:4b:c0:a8:01:01"
		return p
	}
	for name, test := range map[string]struct {
		mode  Mode
		nodes []Node
		want  Plan
	}{
		"unknown machine":       {Auto, []Node{near}, Plan{}},
		"no range yet":          {Auto, []Node{node("a", "192.168.1.1", ""), near}, Plan{}},
		"alone":                 {Auto, []Node{self}, Plan{Range: self.Range, MTU: 1500}},
		"auto, one link":        {Auto, []Node{near, self}, Plan{Range: self.Range, MTU: 1500, Routes: []Route{route(near)}}},
		"auto, behind a router": {Auto, []Node{self, far}, tunnel(Plan{Range: self.Range, Peers: []Peer{peer(far)}})},
		"auto, both":            {Auto, []Node{far, self, near}, tunnel(Plan{Range: self.Range, Routes: []Route{route(near)}, Peers: []Peer{peer(far)}})},
		"vxlan":                 {VXLAN, []Node{far, self, near}, tunnel(Plan{Range: self.Range, Peers: []Peer{peer(near), peer(far)}})},
		"vxlan, alone":          {VXLAN, []Node{self}, tunnel(Plan{Range: self.Range})},
		"routes": {Routes, []Node{self, near, far}, Plan{
			Range: self.Range, MTU: 1500, Routes: []Route{route(near)},
			Problems: []string{"pods of node c (10.244.2.0/24) cannot be reached: 172.16.0.3 is behind a router; use mode auto or vxlan"},
		}},
		"joining machines": {Auto, []Node{self, node("b", "", "10.244.1.0/24"), node("c", "192.168.1.3", "")}, Plan{Range: self.Range, MTU: 1500}},
		"bad ranges": {Auto, []Node{self, near, node("d", "192.168.1.4", "10.244.1.128/25"), node("e", "192.168.1.5", "10.1.0.0/24"), node("f", "192.168.1.6", "10.244.0.0/24")}, Plan{
			Range: self.Range, MTU: 1500, Routes: []Route{route(near)},
			Problems: []string{
				"pods of node d cannot be reached: its range 10.244.1.128/25 overlaps that of node b; correct spec.podCIDR",
				"pods of node e cannot be reached: its range 10.1.0.0/24 lies outside 10.244.0.0/16; correct spec.podCIDR",
				"pods of node f cannot be reached: its range 10.244.0.0/24 overlaps that of node a; correct spec.podCIDR",
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Make(Input{
				Self: "a", Address: self.Address, Mode: test.mode, Nodes: test.nodes, MTU: 1500,
				PodRange: netip.MustParsePrefix("10.244.0.0/16"),
				OnLink:   func(a netip.Addr) bool { return netip.MustParsePrefix("192.168.1.0/24").Contains(a) },
			})
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

func TestParseMode(t *testing.T) {
	for text, want := range map[string]Mode{"": Auto, "auto": Auto, "routes": Routes, "vxlan": VXLAN} {
		if got, err := ParseMode(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
	if _, err := ParseMode("wireguard"); err == nil {
		t.Error("an unknown mode is accepted")
	}
}
