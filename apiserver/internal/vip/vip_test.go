package vip_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/vip"
	"kijabi.dev/platform/lifecycle"
)

// machine is a network namespace with one interface, eth0, on a bridge that others are on, too.
type machine struct {
	t     *testing.T
	space netns.NsHandle
	mac   net.HardwareAddr
}

// machines makes n of them, with the addresses 10.77.0.1, fd77::1 and so on. They need root.
func machines(t *testing.T, n int) []*machine {
	t.Helper()
	hub := newMachine(t)
	hub.do(func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hub"}}); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("hub")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(bridge)
	})
	var all []*machine
	for i := range n {
		m := newMachine(t)
		hub.do(func() error { return plug(m, i) })
		m.do(func() error {
			eth, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			m.mac = eth.Attrs().HardwareAddr
			for _, address := range []string{fmt.Sprintf("10.77.0.%d/24", i+1), fmt.Sprintf("fd77::%d/64", i+1)} {
				if err := netlink.AddrAdd(eth, parse(t, address)); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(eth)
		})
		all = append(all, m)
	}
	return all
}

// plug runs in the hub's namespace.
func plug(m *machine, i int) error {
	bridge, err := netlink.LinkByName("hub")
	if err != nil {
		return err
	}
	port := "port" + strconv.Itoa(i)
	attrs := netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(m.space))}); err != nil {
		return err
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func parse(t *testing.T, text string) *netlink.Addr {
	t.Helper()
	address, err := netlink.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	address.Flags |= unix.IFA_F_NODAD
	return address
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t}
	err := onThread(func() (err error) {
		if m.space, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatalf("make a network namespace (root is needed): %v", err)
	}
	t.Cleanup(func() { _ = m.space.Close() })
	return m
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: its namespace changes
		done <- f()
	}()
	return <-done
}

// do runs f in the machine.
func (m *machine) do(f func() error) {
	m.t.Helper()
	if err := m.try(f); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) try(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(m.space); err != nil {
			return err
		}
		return f()
	})
}

// knows is the Ethernet address that the machine has for an IP.
func (m *machine) knows(address netip.Addr) (mac net.HardwareAddr) {
	m.t.Helper()
	m.do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		family := netlink.FAMILY_V4
		if address.Is6() {
			family = netlink.FAMILY_V6
		}
		neighbours, err := netlink.NeighList(eth.Attrs().Index, family)
		for _, n := range neighbours {
			if n.IP.Equal(address.AsSlice()) {
				mac = n.HardwareAddr
			}
		}
		return err
	})
	return mac
}

// has says whether the machine has an address.
func (m *machine) has(address netip.Addr) (found bool) {
	m.t.Helper()
	m.do(func() error {
		all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range all {
			found = found || a.IP.Equal(address.AsSlice())
		}
		return err
	})
	return found
}

// dial connects from the machine.
func (m *machine) dial(address string) (conn net.Conn, err error) {
	err = m.try(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 500 * time.Millisecond}).DialContext(m.t.Context(), "tcp", address)
		return err
	})
	return conn, err
}

// master is a machine with a Holder whose leadership the test decides.
type master struct {
	*machine

	holder *vip.Holder

	mu      sync.Mutex
	leads   bool
	cutOff  bool // no majority confirms anything
	changed chan struct{}
}

var _ vip.Leadership = (*master)(nil)

// newMaster starts a Holder, which ends with the test.
func newMaster(m *machine, addresses ...netip.Addr) *master {
	m.t.Helper()
	one := &master{machine: m, changed: make(chan struct{})}
	m.do(func() (err error) {
		one.holder, err = vip.New(vip.Config{Addresses: addresses, Clock: clock.RealClock{}, Log: zaptest.NewLogger(m.t)})
		return err
	})
	group := lifecycle.NewGroup(m.t.Context())
	group.Go(func(ctx context.Context) error { return one.holder.Run(ctx, one) })
	m.t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			m.t.Error(err)
		}
	})
	return one
}

func (m *master) lead(leads bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leads = leads
	close(m.changed)
	m.changed = make(chan struct{})
}

// hang lets the master believe that it leads, though nobody confirms that.
func (m *master) hang() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cutOff = true
}

func (m *master) WatchLeading(ctx context.Context) iter.Seq[bool] {
	return func(yield func(bool) bool) {
		for {
			m.mu.Lock()
			leads, changed := m.leads, m.changed
			m.mu.Unlock()
			if !yield(leads) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

func (m *master) ConfirmLeading(ctx context.Context) error {
	m.mu.Lock()
	leads, cutOff := m.leads, m.cutOff
	m.mu.Unlock()
	if cutOff {
		<-ctx.Done()
		return ctx.Err()
	}
	if !leads {
		return errors.New("another leads")
	}
	return nil
}

// within waits until a condition holds and returns how long that took.
func within(t *testing.T, limit time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

func addresses() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("fd77::100")}
}

// A leader that hangs keeps the address until the kernel takes it; the next one does not wait.
func TestNeighboursFollowTheNewLeader(t *testing.T) {
	for _, address := range addresses() {
		t.Run(address.String(), func(t *testing.T) {
			t.Parallel()
			all := machines(t, 3)
			first, second, client := newMaster(all[0], address), newMaster(all[1], address), all[2]
			at := netip.AddrPortFrom(address, 9).String()
			first.lead(true)
			within(t, time.Second, "the first leader has the address", func() bool { return first.has(address) })
			within(t, 3*time.Second, "the client knows the first leader", func() bool {
				_, _ = client.dial(at) // refused, but resolved
				return bytes.Equal(client.knows(address), first.mac)
			})

			first.hang()
			second.lead(true)
			took := within(t, 100*time.Millisecond, "the client knows the new leader", func() bool {
				return bytes.Equal(client.knows(address), second.mac)
			})
			t.Logf("the neighbour's cache moved after %s", took)
			took = within(t, 6*time.Second, "the kernel has taken the address off the first leader", func() bool { return !first.has(address) })
			t.Logf("the address of the leader that hung was gone after %s", took)
			if mac := client.knows(address); !bytes.Equal(mac, second.mac) || !second.has(address) {
				t.Errorf("the client has %s for the address, want %s", mac, second.mac)
			}
			if s := second.holder.Status()[0]; !s.Held || s.Conflicts != 0 {
				t.Errorf("the second leader says %+v", s)
			}
			if s := first.holder.Status()[0]; s.Held {
				t.Errorf("the first leader says %+v", s)
			}
		})
	}
}

// A leader keeps the address for as long as it is confirmed, and drops it and the connections that
// came by it the moment it leads no longer.
func TestRelease(t *testing.T) {
	for _, address := range addresses() {
		t.Run(address.String(), func(t *testing.T) {
			t.Parallel()
			all := machines(t, 2)
			leader, client := newMaster(all[0], address), all[1]
			var listener net.Listener
			leader.do(func() error {
				base, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "10.77.0.1:0")
				if err != nil {
					return err
				}
				listener, err = leader.holder.Extend(t.Context(), base)
				return err
			})
			go echo(listener)
			t.Cleanup(func() {
				if err := listener.Close(); err != nil {
					t.Error(err)
				}
			})
			bound := netip.MustParseAddrPort(listener.Addr().String())
			leader.lead(true)
			var byVIP net.Conn
			within(t, 3*time.Second, "a connection by the address", func() bool {
				var err error
				byVIP, err = client.dial(netip.AddrPortFrom(address, bound.Port()).String())
				return err == nil
			})
			direct, err := client.dial(bound.String())
			if err != nil {
				t.Fatal(err)
			}
			for range 5 { // longer than one loan
				if !answers(byVIP) {
					t.Fatal("the connection by the address does not answer while its master leads")
				}
				time.Sleep(time.Second)
			}

			leader.lead(false)
			within(t, 100*time.Millisecond, "the address is gone", func() bool { return !leader.has(address) })
			_ = byVIP.SetDeadline(time.Now().Add(time.Second))
			if _, err := byVIP.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the connection by the address did not end: %v", err)
			}
			if !answers(direct) {
				t.Error("a connection to the master's own address ended, too")
			}
		})
	}
}

func echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(conn, conn) }()
	}
}

func answers(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		return false
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err == nil
}

// What a crash left is removed at the start. What a person configured is left alone, and not held.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	all := machines(t, 1)
	for _, address := range addresses() {
		bits := strconv.Itoa(address.BitLen())
		put := func(life int) {
			all[0].do(func() error {
				eth, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				left := parse(t, address.String()+"/"+bits)
				left.ValidLft = life
				return netlink.AddrReplace(eth, left)
			})
		}
		put(1000)
		newMaster(all[0], address)
		if all[0].has(address) {
			t.Errorf("%s is still there", address)
		}
		put(0)
		third := newMaster(all[0], address)
		third.lead(true)
		within(t, time.Second, "the holder says that it cannot", func() bool { return third.holder.Status()[0].Failure != nil })
		third.lead(false)
		within(t, time.Second, "the holder has given up", func() bool { return third.holder.Status()[0].Failure == nil })
		if !all[0].has(address) {
			t.Errorf("%s, which somebody configured, is gone", address)
		}
	}
}

// A machine that is no master and has the address is noticed and contradicted.
func TestConflict(t *testing.T) {
	t.Parallel()
	all := machines(t, 3)
	both := addresses()
	rival, client := all[1], all[2]
	rival.do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(eth, parse(t, both[0].String()+"/24")), netlink.AddrAdd(eth, parse(t, both[1].String()+"/64")))
	})
	leader := newMaster(all[0], both...)
	leader.lead(true)
	within(t, 20*time.Second, "both conflicts are counted", func() bool {
		s := leader.holder.Status()
		return s[0].Conflicts > 0 && s[1].Conflicts > 0
	})
	for _, address := range both {
		_, _ = client.dial(netip.AddrPortFrom(address, 9).String())
	}
	within(t, 12*time.Second, "the client follows the leader", func() bool {
		return bytes.Equal(client.knows(both[0]), leader.mac) && bytes.Equal(client.knows(both[1]), leader.mac)
	})
}
