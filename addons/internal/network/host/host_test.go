package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap/zaptest"

	"kijabi.dev/addons/internal/network/plan"
)

// machine is a network namespace that lives as long as its test.
type machine struct {
	name string
	ns   netns.NsHandle
}

// onThread runs fn on a thread of its own, which ends with it: a thread whose
// namespace was changed must never be given to another goroutine.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, on purpose
		done <- fn()
	}()
	return <-done
}

func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	m := &machine{name: name}
	err := onThread(func() (err error) {
		if m.ns, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.LinkSetUp(lo))
	})
	if err != nil {
		t.Fatalf("make network namespace %s (root is needed): %v", name, err)
	}
	t.Cleanup(func() { _ = m.ns.Close() })
	return m
}

func (m *machine) do(t *testing.T, fn func() error) {
	t.Helper()
	if err := onThread(func() error { return errors.Join(netns.Set(m.ns), fn()) }); err != nil {
		t.Fatalf("in %s: %v", m.name, err)
	}
}

// connect joins two machines by a virtual cable with these addresses, or as ports of
// the bridge br0 where the address is empty.
func connect(t *testing.T, a *machine, aName, aAddr string, b *machine, bName, bAddr string) {
	t.Helper()
	a.do(t, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: aName}, PeerName: bName, PeerNamespace: netlink.NsFd(int(b.ns))})
	})
	end := func(name, addr string) func() error {
		return func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if addr == "" {
				br, err := netlink.LinkByName("br0")
				return errors.Join(err, netlink.LinkSetMaster(link, br), netlink.LinkSetUp(link))
			}
			parsed, err := netlink.ParseAddr(addr)
			return errors.Join(err, netlink.AddrAdd(link, parsed), netlink.LinkSetUp(link))
		}
	}
	a.do(t, end(aName, aAddr))
	b.do(t, end(bName, bAddr))
}

func (m *machine) route(t *testing.T, to, via string) {
	t.Helper()
	m.do(t, func() error {
		_, dst, err := net.ParseCIDR(to)
		return errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}))
	})
}

// serve answers TCP connections with the address of the client.
func (m *machine) serve(t *testing.T, address string) {
	t.Helper()
	var l net.Listener
	m.do(t, func() (err error) { l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp4", address); return err })
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = io.WriteString(c, host)
			_ = c.Close()
		}
	}()
}

func (m *machine) ask(address string) (string, error) {
	var c net.Conn
	dialer := net.Dialer{Timeout: 1500 * time.Millisecond}
	err := onThread(func() (err error) {
		if err = netns.Set(m.ns); err == nil {
			c, err = dialer.DialContext(context.Background(), "tcp4", address)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(1500 * time.Millisecond))
	b, err := io.ReadAll(c)
	return string(b), err
}

// world is two nodes, each with a pod, and a machine outside the cluster.
type world struct {
	nodes, pods [2]*machine
	outside     *machine
	nodeIP      [2]string
	hosts       [2]*Host
	list        []plan.Node
}

// newWorld puts the nodes on one link, or on two with the outside machine as router.
func newWorld(t *testing.T, routed bool) *world {
	t.Helper()
	w := &world{outside: newMachine(t, "outside")}
	for i := range w.nodes {
		w.nodes[i], w.pods[i] = newMachine(t, fmt.Sprintf("node-%d", i)), newMachine(t, fmt.Sprintf("pod-%d", i))
	}
	w.outside.do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	var gateways [2]string
	if routed {
		w.nodeIP, gateways = [2]string{"192.168.10.1", "192.168.20.1"}, [2]string{"192.168.10.254", "192.168.20.254"}
		for i := range w.nodes {
			connect(t, w.nodes[i], "eth0", w.nodeIP[i]+"/24", w.outside, fmt.Sprintf("e%d", i), gateways[i]+"/24")
		}
	} else {
		w.nodeIP, gateways = [2]string{"192.168.10.1", "192.168.10.2"}, [2]string{"192.168.10.254", "192.168.10.254"}
		w.outside.do(t, func() error {
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
				return err
			}
			br, err := netlink.LinkByName("br0")
			addr, err2 := netlink.ParseAddr("192.168.10.254/24")
			return errors.Join(err, err2, netlink.AddrAdd(br, addr), netlink.LinkSetUp(br))
		})
		for i := range w.nodes {
			connect(t, w.nodes[i], "eth0", w.nodeIP[i]+"/24", w.outside, fmt.Sprintf("e%d", i), "")
		}
	}
	for i := range w.nodes {
		w.nodes[i].route(t, "0.0.0.0/0", gateways[i])
		connect(t, w.pods[i], "eth0", fmt.Sprintf("10.244.%d.2/24", i), w.nodes[i], "veth0", fmt.Sprintf("10.244.%d.1/24", i))
		w.pods[i].route(t, "0.0.0.0/0", fmt.Sprintf("10.244.%d.1", i))
		w.pods[i].serve(t, fmt.Sprintf("10.244.%d.2:80", i))
		w.nodes[i].serve(t, w.nodeIP[i]+":80")
		w.list = append(w.list, plan.Node{
			Name: fmt.Sprintf("node-%d", i), Address: netip.MustParseAddr(w.nodeIP[i]), Range: netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)),
		})
		w.hosts[i] = New(Config{
			Address: w.list[i].Address, PodRange: netip.MustParsePrefix("10.244.0.0/16"), ServiceRange: netip.MustParsePrefix("10.96.0.0/16"),
			Log: zaptest.NewLogger(t),
		})
	}
	w.outside.serve(t, gateways[0]+":80")
	return w
}

// apply plans for node i with these nodes and applies.
func (w *world) apply(t *testing.T, i int, mode plan.Mode, nodes []plan.Node) plan.Plan {
	t.Helper()
	var p plan.Plan
	w.nodes[i].do(t, func() error {
		mtu, err := w.hosts[i].MTU()
		if err != nil {
			return err
		}
		p = plan.Make(plan.Input{
			Self: w.list[i].Name, Address: w.list[i].Address, Mode: mode, PodRange: netip.MustParsePrefix("10.244.0.0/16"),
			Nodes: nodes, OnLink: w.hosts[i].OnLink, MTU: mtu,
		})
		return w.hosts[i].Apply(p)
	})
	return p
}

func want(t *testing.T, from *machine, address, client string) {
	t.Helper()
	if got, err := from.ask(address); err != nil || got != client {
		t.Errorf("%s asks %s: came from %q, %v, want %q", from.name, address, got, err, client)
	}
}

func TestTraffic(t *testing.T) {
	for name, test := range map[string]struct {
		routed bool
		mode   plan.Mode
		tunnel bool
	}{
		"routes":                 {false, plan.Routes, false},
		"auto on one link":       {false, plan.Auto, false},
		"vxlan":                  {false, plan.VXLAN, true},
		"auto behind a router":   {true, plan.Auto, true},
		"vxlan behind a router":  {true, plan.VXLAN, true},
		"strict source checking": {true, plan.VXLAN, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.routed)
			for i := range w.nodes {
				if name == "strict source checking" {
					w.nodes[i].do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0) })
				}
				for range 2 { // the second time changes nothing
					if p := w.apply(t, i, test.mode, w.list); p.Tunnel != test.tunnel || len(p.Problems) > 0 {
						t.Fatalf("plan: %+v", p)
					}
				}
			}
			want(t, w.pods[0], "10.244.1.2:80", "10.244.0.2")
			want(t, w.pods[1], "10.244.0.2:80", "10.244.1.2")
			client := w.nodeIP[0]
			if test.tunnel {
				client = "10.244.0.0"
			}
			want(t, w.nodes[0], "10.244.1.2:80", client)
			// Beyond the cluster's pods a pod's address means nothing.
			const gateway = "192.168.10.254"
			outside := gateway + ":80"
			want(t, w.pods[0], outside, w.nodeIP[0])
			want(t, w.pods[0], w.nodeIP[1]+":80", w.nodeIP[0])
			want(t, w.pods[0], w.nodeIP[0]+":80", "10.244.0.2")
			want(t, w.nodes[0], outside, w.nodeIP[0])

			w.nodes[0].do(t, func() error {
				def := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: net.ParseIP(gateway)}
				err := netlink.RouteDel(def)
				routes, err2 := netlink.RouteGet(net.ParseIP("10.96.0.1"))
				if err2 != nil || len(routes) != 1 || routes[0].Src.String() != w.nodeIP[0] {
					t.Errorf("services without a default route: %v, %v", routes, err2)
				}
				return errors.Join(err, netlink.RouteAdd(def))
			})

			// A node that is gone is reached no more, at once, and not by the default route.
			w.apply(t, 0, test.mode, w.list[:1])
			begin := time.Now()
			if _, err := w.pods[0].ask("10.244.1.2:80"); err == nil || time.Since(begin) > time.Second {
				t.Errorf("pod of a node that is gone: %v after %v", err, time.Since(begin))
			}
			w.apply(t, 0, test.mode, w.list)
			want(t, w.pods[0], "10.244.1.2:80", "10.244.0.2")
		})
	}
}

// TestModeChange goes from one mode to the other and back, and cleans.
func TestModeChange(t *testing.T) {
	w := newWorld(t, false)
	foreign := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), Gw: net.ParseIP("192.168.10.254")}
	w.nodes[0].do(t, func() error { return netlink.RouteAdd(foreign) })
	for _, mode := range []plan.Mode{plan.Routes, plan.VXLAN, plan.Auto, plan.VXLAN} {
		for i := range w.nodes {
			w.apply(t, i, mode, w.list)
		}
		want(t, w.pods[0], "10.244.1.2:80", "10.244.0.2")
	}
	for range 2 {
		w.nodes[0].do(t, func() error { return Clean(t.TempDir()) })
	}
	w.nodes[0].do(t, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == TunnelDevice }) {
			t.Error("the tunnel is left behind")
		}
		own, err := ownRoutes()
		if err != nil || len(own) > 0 {
			t.Errorf("routes left behind: %v, %v", own, err)
		}
		if list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, foreign, netlink.RT_FILTER_DST); err != nil || len(list) != 1 {
			t.Errorf("somebody else's route: %v, %v", list, err)
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		if tables, err := c.ListTables(); err != nil || len(tables) > 0 {
			t.Errorf("tables left behind: %d, %v", len(tables), err)
		}
		return nil
	})
}

// TestRepair breaks what was applied and applies again.
func TestRepair(t *testing.T) {
	w := newWorld(t, true)
	for i := range w.nodes {
		w.apply(t, i, plan.Auto, w.list)
	}
	for name, breakIt := range map[string]func() error{
		"masquerading": func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.FlushRuleset()
			return c.Flush()
		},
		"tunnel": func() error { return removeLink(TunnelDevice) },
		"forwarding": func() error {
			return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
		},
		"neighbours": func() error {
			link, err := netlink.LinkByName(TunnelDevice)
			if err != nil {
				return err
			}
			list, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
			for i := range list {
				err = errors.Join(err, netlink.NeighDel(&list[i]))
			}
			return err
		},
	} {
		w.nodes[0].do(t, breakIt)
		w.apply(t, 0, plan.Auto, w.list)
		t.Run(name, func(t *testing.T) {
			want(t, w.pods[0], "10.244.1.2:80", "10.244.0.2")
			want(t, w.pods[0], "192.168.10.254:80", w.nodeIP[0])
		})
	}
}

func TestUnknownAddress(t *testing.T) {
	m := newMachine(t, "bare")
	h := New(Config{Address: netip.MustParseAddr("192.168.10.9"), Log: zaptest.NewLogger(t)})
	m.do(t, func() error {
		if _, err := h.MTU(); err == nil {
			t.Error("no interface has the address, and yet no error")
		}
		return nil
	})
}
