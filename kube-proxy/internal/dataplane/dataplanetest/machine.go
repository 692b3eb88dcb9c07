// Package dataplanetest checks an implementation of dataplane.Plane with real packets
// between network namespaces. It needs root.
package dataplanetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Machine is a network namespace that lives as long as its test.
type Machine struct {
	// Name tells machines apart in the echo servers' answers.
	Name string
	ns   netns.NsHandle
}

// NewMachine makes a namespace with its loopback up and forwarding on.
func NewMachine(tb testing.TB, name string) *Machine {
	tb.Helper()
	m := &Machine{Name: name}
	err := onThread(func() error {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		m.ns = ns
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		err = netlink.LinkSetUp(lo)
		for name, value := range map[string]string{
			"ip_forward": "1",
			// A packet that leaves where it came from must not cost the client's share of
			// ICMP messages: the refusals it waits for are such messages, too.
			"conf/all/send_redirects": "0", "conf/default/send_redirects": "0",
		} {
			err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644))
		}
		return err
	})
	if err != nil {
		tb.Fatalf("make network namespace %s (root is needed): %v", name, err)
	}
	tb.Cleanup(func() { _ = m.ns.Close() })
	return m
}

// Do runs fn inside the namespace. Sockets that fn opens stay there; goroutines that
// it starts do not.
func (m *Machine) Do(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(m.ns); err != nil {
			return fmt.Errorf("enter namespace %s: %w", m.Name, err)
		}
		return fn()
	})
}

// Must is Do for steps that a test cannot go on without.
func (m *Machine) Must(t *testing.T, fn func() error) {
	t.Helper()
	if err := m.Do(fn); err != nil {
		t.Fatalf("in %s: %v", m.Name, err)
	}
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

// Connect joins two machines by a virtual cable. An end with an address gets it; an
// end named as a port of bridge "bridge" is enslaved, in hairpin mode.
func Connect(t *testing.T, a *Machine, aName, aAddr string, b *Machine, bName, bAddr string) {
	t.Helper()
	a.Must(t, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: aName}, PeerName: bName, PeerNamespace: netlink.NsFd(int(b.ns)),
		})
	})
	for _, end := range []struct {
		m          *Machine
		name, addr string
	}{{a, aName, aAddr}, {b, bName, bAddr}} {
		end.m.Must(t, func() error {
			link, err := netlink.LinkByName(end.name)
			if err != nil {
				return err
			}
			if bridge, isPort := strings.CutPrefix(end.addr, "bridge "); isPort {
				br, err := netlink.LinkByName(bridge)
				if err != nil {
					return err
				}
				if err := errors.Join(netlink.LinkSetMaster(link, br), netlink.LinkSetHairpin(link, true)); err != nil {
					return err
				}
				return netlink.LinkSetUp(link)
			}
			return errors.Join(addAddress(link, end.addr), netlink.LinkSetUp(link))
		})
	}
}

// AddBridge makes a bridge, with an address unless that is empty.
func (m *Machine) AddBridge(t *testing.T, name, addr string) {
	t.Helper()
	m.Must(t, func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if addr != "" {
			err = addAddress(link, addr)
		}
		return errors.Join(err, netlink.LinkSetUp(link))
	})
}

// AddAddress puts an address on a link that exists.
func (m *Machine) AddAddress(t *testing.T, link, addr string) {
	t.Helper()
	m.Must(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return addAddress(l, addr)
	})
}

func addAddress(link netlink.Link, addr string) error {
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	const noDAD = 0x02 // IPv6 addresses are usable at once
	a.Flags = noDAD
	return netlink.AddrAdd(link, a)
}

// AddRoute adds a route by way of a gateway.
func (m *Machine) AddRoute(t *testing.T, to, via string) {
	t.Helper()
	m.Must(t, func() error {
		_, dst, err := net.ParseCIDR(to)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	})
}

// Serve answers connections and datagrams on address:port with
// "name of the machine, address of the client" until the test ends.
func (m *Machine) Serve(t *testing.T, network, address string) {
	t.Helper()
	m.Must(t, func() error {
		if strings.HasPrefix(network, "udp") {
			pc, err := (&net.ListenConfig{}).ListenPacket(t.Context(), network, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = pc.Close() })
			go m.answerPackets(pc)
			return nil
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go m.answerConnections(l)
		return nil
	})
}

func (m *Machine) answerPackets(pc net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = pc.WriteTo([]byte(m.reply(from)), from)
	}
}

func (m *Machine) answerConnections(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			buf := make([]byte, 64)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := io.WriteString(c, m.reply(c.RemoteAddr())); err != nil {
					return
				}
			}
		}()
	}
}

func (m *Machine) reply(from net.Addr) string {
	return m.Name + " " + netip.MustParseAddrPort(from.String()).Addr().Unmap().String()
}

// Answer is what an echo server said.
type Answer struct {
	// Server is the machine's name.
	Server string
	// Client is the client's address as the server saw it.
	Client string
}

// Dial opens a connection from the machine. An address that nobody refuses takes a
// second and a half to fail.
func (m *Machine) Dial(network, address string) (net.Conn, error) {
	var c net.Conn
	dialer := net.Dialer{Timeout: 1500 * time.Millisecond}
	err := m.Do(func() error {
		var err error
		c, err = dialer.DialContext(context.Background(), network, address)
		return err
	})
	return c, err
}

// Ask opens a connection, asks once and closes.
func (m *Machine) Ask(network, address string) (Answer, error) {
	c, err := m.Dial(network, address)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = c.Close() }()
	return AskOn(c)
}

// AskOn asks once on an open connection.
func AskOn(c net.Conn) (Answer, error) {
	if err := c.SetDeadline(time.Now().Add(1500 * time.Millisecond)); err != nil {
		return Answer{}, err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return Answer{}, err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if err != nil {
		return Answer{}, err
	}
	server, client, _ := strings.Cut(string(buf[:n]), " ")
	return Answer{Server: server, Client: client}, nil
}
