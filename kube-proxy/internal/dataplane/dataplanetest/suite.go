package dataplanetest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/services"
)

// Ranges that the plane under test must be made for.
const (
	PodCIDR     = "10.244.0.0/16"
	ServiceCIDR = "10.96.0.0/16"
)

// World is a node under test with its neighbours:
//
//	pod-a, pod-b ─ bridge kijabi0 ─ node ─ LAN ─ node-2 ─ pod-c
//	                                        └─── client, whose way out is node
type World struct {
	Node, Node2, Client, PodA, PodB, PodC *Machine
}

// Addresses in a World.
const (
	NodeIP   = "192.168.50.1"
	ClientIP = "192.168.50.2"
	Node2IP  = "192.168.50.3"
	PodAIP   = "10.244.1.2"
	PodBIP   = "10.244.1.3"
	PodCIP   = "10.244.2.2"
)

// NewWorld makes a world whose pods answer on TCP and UDP port 8080.
func NewWorld(t *testing.T) *World {
	t.Helper()
	w := &World{
		Node: NewMachine(t, "node"), Node2: NewMachine(t, "node-2"), Client: NewMachine(t, "client"),
		PodA: NewMachine(t, "pod-a"), PodB: NewMachine(t, "pod-b"), PodC: NewMachine(t, "pod-c"),
	}
	lan := NewMachine(t, "lan")
	lan.AddBridge(t, "lan0", "")
	Connect(t, w.Node, "eth0", NodeIP+"/24", lan, "p1", "bridge lan0")
	Connect(t, w.Client, "eth0", ClientIP+"/24", lan, "p2", "bridge lan0")
	Connect(t, w.Node2, "eth0", Node2IP+"/24", lan, "p3", "bridge lan0")
	w.Node.AddBridge(t, "kijabi0", "10.244.1.1/24")
	Connect(t, w.PodA, "eth0", PodAIP+"/24", w.Node, "va", "bridge kijabi0")
	Connect(t, w.PodB, "eth0", PodBIP+"/24", w.Node, "vb", "bridge kijabi0")
	Connect(t, w.PodC, "eth0", PodCIP+"/24", w.Node2, "vc", "10.244.2.1/24")
	w.PodA.AddRoute(t, "0.0.0.0/0", "10.244.1.1")
	w.PodB.AddRoute(t, "0.0.0.0/0", "10.244.1.1")
	w.PodC.AddRoute(t, "0.0.0.0/0", "10.244.2.1")
	w.Node.AddRoute(t, "10.244.2.0/24", Node2IP)
	w.Node.AddRoute(t, "0.0.0.0/0", Node2IP) // a machine reaches services by its default route
	w.Node2.AddRoute(t, "10.244.1.0/24", NodeIP)
	w.Client.AddRoute(t, "0.0.0.0/0", NodeIP)
	for pod, ip := range map[*Machine]string{w.PodA: PodAIP, w.PodB: PodBIP, w.PodC: PodCIP} {
		pod.Serve(t, "tcp4", ip+":8080")
		pod.Serve(t, "udp4", ip+":8080")
	}
	return w
}

// Frontend is a shorthand: address:port, protocol, endpoints as address:port. Those in
// node's pod range are local.
func Frontend(address string, protocol services.Protocol, endpoints ...string) services.Frontend {
	ap := netip.MustParseAddrPort(address)
	return services.Frontend{
		Front:     services.Front{Address: ap.Addr(), Protocol: protocol, Port: ap.Port()},
		Endpoints: Endpoints(endpoints...),
	}
}

// Endpoints parses address:port.
func Endpoints(list ...string) []services.Endpoint {
	own := netip.MustParsePrefix("10.244.1.0/24")
	var out []services.Endpoint
	for _, text := range list {
		target := netip.MustParseAddrPort(text)
		out = append(out, services.Endpoint{Target: target, Local: own.Contains(target.Addr())})
	}
	slices.SortFunc(out, func(a, b services.Endpoint) int {
		return a.Target.Compare(b.Target)
	})
	return out
}

// Service names a service for an Update.
func Service(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: name}
}

// Full is an update with everything in one service.
func Full(list ...services.Frontend) dataplane.Update {
	return dataplane.Update{Full: true, Services: map[types.NamespacedName][]services.Frontend{Service("all"): list}}
}

// Run checks that the planes which open makes satisfy dataplane.Plane. open is called
// inside the node's network namespace; the suite runs and closes the plane.
func Run(t *testing.T, open func(t *testing.T) dataplane.Plane) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *World, dataplane.Plane){
		"cluster address": testClusterAddress, "node port": testNodePort, "policy local": testPolicyLocal,
		"refusals": testRefusals, "own service address": testOwnServiceAddress, "hairpin": testHairpin,
		"spread": testSpread, "many endpoints": testManyEndpoints, "one of many": testOneOfMany, "stale udp": testStaleUDP, "stale tcp": testStaleTCP,
		"affinity": testAffinity,
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWorld(t)
			test(t, w, Start(t, w, open))
		})
	}
	t.Run("restart", func(t *testing.T) { testRestart(t, open) })
}

// Start opens a plane on the world's node and runs it until the test ends.
func Start(t *testing.T, w *World, open func(t *testing.T) dataplane.Plane) dataplane.Plane {
	t.Helper()
	var p dataplane.Plane
	w.Node.Must(t, func() error { p = open(t); return nil })
	done := make(chan error, 1)
	go func() { done <- p.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := errors.Join(<-done, p.Close()); err != nil {
			t.Errorf("end of the plane: %v", err)
		}
	})
	return p
}

func sync(t *testing.T, p dataplane.Plane, u dataplane.Update) {
	t.Helper()
	if err := p.Sync(u); err != nil {
		t.Fatalf("sync: %v", err)
	}
}

func wantAnswer(t *testing.T, m *Machine, network, address string, want Answer) {
	t.Helper()
	got, err := m.Ask(network, address)
	if err != nil || got != want {
		t.Errorf("%s asks %s %s: got %+v, %v, want %+v", m.Name, network, address, got, err, want)
	}
}

func wantRefused(t *testing.T, m *Machine, network, address string) {
	t.Helper()
	begin := time.Now()
	_, err := m.Ask(network, address)
	// A datagram refused on its way out of the machine itself fails as not permitted.
	own := strings.HasPrefix(network, "udp") && errors.Is(err, syscall.EPERM)
	if !errors.Is(err, syscall.ECONNREFUSED) && !own {
		t.Errorf("%s asks %s %s: got %v after %v, want it refused", m.Name, network, address, err, time.Since(begin))
	}
}

func wantSilence(t *testing.T, m *Machine, network, address string) {
	t.Helper()
	var timeout interface{ Timeout() bool }
	if _, err := m.Ask(network, address); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%s asks %s %s: got %v, want no answer at all", m.Name, network, address, err)
	}
}

func testClusterAddress(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	sync(t, p, Full(
		Frontend("10.96.0.20:80", services.TCP, PodAIP+":8080"), Frontend("10.96.0.20:53", services.UDP, PodAIP+":8080"),
		Frontend("10.96.0.21:80", services.TCP, PodCIP+":8080"), Frontend("10.96.0.21:53", services.UDP, PodCIP+":8080"),
		Frontend("10.96.0.22:80", services.TCP, Node2IP+":9090")))
	w.Node2.Serve(t, "tcp4", ":9090")
	for network, port := range map[string]string{"tcp4": ":80", "udp4": ":53"} {
		wantAnswer(t, w.PodB, network, "10.96.0.20"+port, Answer{"pod-a", PodBIP})
		wantAnswer(t, w.PodB, network, "10.96.0.21"+port, Answer{"pod-c", PodBIP})
		wantAnswer(t, w.Node, network, "10.96.0.21"+port, Answer{"pod-c", NodeIP})
		// A client of this node's own pod keeps its address; one sent away cannot.
		wantAnswer(t, w.Client, network, "10.96.0.20"+port, Answer{"pod-a", ClientIP})
		wantAnswer(t, w.Client, network, "10.96.0.21"+port, Answer{"pod-c", NodeIP})
	}
	if got, err := w.Node.Ask("tcp4", "10.96.0.20:80"); err != nil || got.Server != "pod-a" {
		t.Errorf("node asks its own pod: got %+v, %v", got, err)
	}
	wantAnswer(t, w.PodA, "tcp4", "10.96.0.22:80", Answer{"node-2", PodAIP})
}

func testNodePort(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	sync(t, p, Full(
		Frontend("0.0.0.0:30080", services.TCP, PodAIP+":8080"), Frontend("0.0.0.0:30080", services.UDP, PodAIP+":8080"),
		Frontend("0.0.0.0:30081", services.TCP, PodCIP+":8080"), Frontend("0.0.0.0:30081", services.UDP, PodCIP+":8080"),
		Frontend("0.0.0.0:30082", services.TCP)))
	for _, network := range []string{"tcp4", "udp4"} {
		wantAnswer(t, w.Client, network, NodeIP+":30080", Answer{"pod-a", ClientIP})
		wantAnswer(t, w.Client, network, NodeIP+":30081", Answer{"pod-c", NodeIP})
		wantAnswer(t, w.PodB, network, NodeIP+":30081", Answer{"pod-c", PodBIP})
		wantAnswer(t, w.PodB, network, "10.244.1.1:30080", Answer{"pod-a", PodBIP})
		wantAnswer(t, w.Node, network, NodeIP+":30081", Answer{"pod-c", NodeIP})
	}
	wantRefused(t, w.Client, "tcp4", NodeIP+":30082")
	wantRefused(t, w.PodA, "tcp4", NodeIP+":30082")

	// Loopback is nobody's node port: what listens there is left alone.
	w.Node.Serve(t, "tcp4", "127.0.0.1:30080")
	wantAnswer(t, w.Node, "tcp4", "127.0.0.1:30080", Answer{"node", "127.0.0.1"})
	// Another machine's port of that number, seen from here, is none of ours.
	w.Node2.Serve(t, "tcp4", ":30080")
	wantAnswer(t, w.PodA, "tcp4", Node2IP+":30080", Answer{"node-2", PodAIP})
}

func testPolicyLocal(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	here := Frontend("0.0.0.0:30080", services.TCP, PodAIP+":8080")
	here.Inside, here.SplitInside = Endpoints(PodAIP+":8080", PodCIP+":8080"), true
	away := Frontend("0.0.0.0:30081", services.TCP)
	away.Inside, away.SplitInside, away.Otherwise = Endpoints(PodCIP+":8080"), true, services.Drop
	balanced := away
	balanced.Front = services.Front{Address: netip.MustParseAddr("203.0.113.7"), Protocol: services.TCP, Port: 80}
	sync(t, p, Full(here, away, balanced))
	for range 8 {
		wantAnswer(t, w.Client, "tcp4", NodeIP+":30080", Answer{"pod-a", ClientIP})
	}
	wantSilence(t, w.Client, "tcp4", NodeIP+":30081")
	wantSilence(t, w.Client, "tcp4", "203.0.113.7:80")
	wantAnswer(t, w.PodB, "tcp4", NodeIP+":30081", Answer{"pod-c", PodBIP})
	wantAnswer(t, w.PodB, "tcp4", "203.0.113.7:80", Answer{"pod-c", PodBIP})
	wantAnswer(t, w.Node, "tcp4", NodeIP+":30081", Answer{"pod-c", NodeIP})
	seen := map[string]bool{}
	for range 40 {
		if got, err := w.PodB.Ask("tcp4", NodeIP+":30080"); err == nil {
			seen[got.Server] = true
		}
	}
	if len(seen) != 2 {
		t.Errorf("from inside, all endpoints are there: got %v, want pod-a and pod-c", seen)
	}
}

func testRefusals(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	// Whoever stands on the default route must not answer for services.
	w.Node2.AddAddress(t, "lo", "10.96.7.7/32")
	w.Node2.Serve(t, "tcp4", "10.96.7.7:80")
	sync(t, p, Full(Frontend("10.96.0.20:80", services.TCP), Frontend("10.96.0.20:53", services.UDP),
		Frontend("10.96.0.21:80", services.TCP, PodAIP+":8080"), Frontend("203.0.113.9:80", services.TCP)))
	for _, from := range []*Machine{w.PodA, w.Node, w.Client} {
		wantRefused(t, from, "tcp4", "10.96.0.20:80")  // no endpoints
		wantRefused(t, from, "udp4", "10.96.0.20:53")  // no endpoints
		wantRefused(t, from, "tcp4", "10.96.0.21:81")  // no such port
		wantRefused(t, from, "tcp4", "10.96.7.7:80")   // no such service
		wantRefused(t, from, "tcp4", "203.0.113.9:80") // external address without endpoints
	}
	sync(t, p, dataplane.Update{Services: map[types.NamespacedName][]services.Frontend{Service("all"): {
		Frontend("10.96.0.20:80", services.TCP, PodAIP+":8080")}}})
	wantAnswer(t, w.PodB, "tcp4", "10.96.0.20:80", Answer{"pod-a", PodBIP})
	wantRefused(t, w.PodB, "tcp4", "10.96.0.21:80")
}

func testOwnServiceAddress(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	w.Node.AddAddress(t, "lo", "10.96.0.10/32")
	w.Node.Serve(t, "tcp4", "10.96.0.10:53")
	w.Node.Serve(t, "udp4", "10.96.0.10:53")
	check := func() {
		t.Helper()
		for _, network := range []string{"tcp4", "udp4"} {
			wantAnswer(t, w.PodA, network, "10.96.0.10:53", Answer{"node", PodAIP})
			wantAnswer(t, w.Node, network, "10.96.0.10:53", Answer{"node", "10.96.0.10"})
		}
	}
	sync(t, p, Full(Frontend("10.96.0.20:80", services.TCP, PodAIP+":8080")))
	check()
	sync(t, p, Full(Frontend("10.96.0.10:53", services.TCP), Frontend("10.96.0.10:53", services.UDP)))
	check()
	sync(t, p, Full(Frontend("10.96.0.10:53", services.TCP, PodCIP+":8080"), Frontend("10.96.0.10:53", services.UDP, PodCIP+":8080")))
	check()
}

func testHairpin(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	sync(t, p, Full(Frontend("10.96.0.20:80", services.TCP, PodAIP+":8080"), Frontend("0.0.0.0:30080", services.TCP, PodAIP+":8080")))
	for _, address := range []string{"10.96.0.20:80", NodeIP + ":30080"} {
		got, err := w.PodA.Ask("tcp4", address)
		if err != nil || got.Server != "pod-a" || got.Client == PodAIP {
			t.Errorf("pod-a asks itself by %s: got %+v, %v", address, got, err)
		}
	}
}

func testSpread(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	sync(t, p, Full(Frontend("10.96.0.20:80", services.TCP, PodAIP+":8080", PodBIP+":8080", PodCIP+":8080")))
	count := map[string]int{}
	const rounds = 300
	for range rounds {
		got, err := w.Client.Ask("tcp4", "10.96.0.20:80")
		if err != nil {
			t.Fatalf("ask: %v", err)
		}
		count[got.Server]++
	}
	for _, pod := range []string{"pod-a", "pod-b", "pod-c"} {
		if count[pod] < rounds/6 { // six standard deviations below the mean
			t.Errorf("%d connections went to %s of %v", count[pod], pod, count)
		}
	}
}

// testManyEndpoints puts more endpoints behind a service than have a rule of their own.
func testManyEndpoints(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	var targets []string
	for i := range 100 {
		targets = append(targets, fmt.Sprintf("%s:%d", PodAIP, 9000+i))
		w.PodA.Serve(t, "tcp4", targets[i])
	}
	for _, n := range []int{100, 66, 64, 65, 100} {
		sync(t, p, Full(Frontend("10.96.0.20:80", services.TCP, targets[:n]...)))
		for range 40 {
			if _, err := w.PodB.Ask("tcp4", "10.96.0.20:80"); err != nil {
				t.Fatalf("with %d endpoints: %v", n, err)
			}
		}
	}
}

func testOneOfMany(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	u := dataplane.Update{Full: true, Services: map[types.NamespacedName][]services.Frontend{}}
	address := func(i int) string { return fmt.Sprintf("10.96.%d.%d:80", 1+i/200, 1+i%200) }
	for i := range 2000 {
		u.Services[Service(fmt.Sprint(i))] = []services.Frontend{Frontend(address(i), services.TCP, PodAIP+":8080", PodBIP+":8080")}
	}
	sync(t, p, u)
	change := func(i int, endpoints ...string) {
		t.Helper()
		sync(t, p, dataplane.Update{Services: map[types.NamespacedName][]services.Frontend{
			Service(fmt.Sprint(i)): {Frontend(address(i), services.TCP, endpoints...)}}})
	}
	change(700, PodCIP+":8080")
	wantAnswer(t, w.Client, "tcp4", address(700), Answer{"pod-c", NodeIP})
	change(700)
	wantRefused(t, w.Client, "tcp4", address(700))
	change(700, PodCIP+":8080", PodAIP+":8080", PodBIP+":8080")
	if _, err := w.Client.Ask("tcp4", address(700)); err != nil {
		t.Errorf("service with three endpoints: %v", err)
	}
	sync(t, p, dataplane.Update{Services: map[types.NamespacedName][]services.Frontend{Service("700"): nil}})
	wantRefused(t, w.Client, "tcp4", address(700))
	for _, i := range []int{0, 699, 701, 1999} {
		if got, err := w.Client.Ask("tcp4", address(i)); err != nil || !strings.HasPrefix(got.Server, "pod-") {
			t.Errorf("untouched service %d: got %+v, %v", i, got, err)
		}
	}
}

// testAffinity has clients come back.
func testAffinity(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	front := func(sticky bool, endpoints ...string) []services.Frontend {
		var out []services.Frontend
		for _, address := range []string{"10.96.0.20:80", "0.0.0.0:30080"} {
			f := Frontend(address, services.TCP, endpoints...)
			f.Sticky = sticky
			out = append(out, f)
		}
		return out
	}
	a, b, c := PodAIP+":8080", PodBIP+":8080", PodCIP+":8080"
	servers := func(rounds int, address string) map[string]int {
		t.Helper()
		seen := map[string]int{}
		for range rounds {
			got, err := w.Client.Ask("tcp4", address)
			if err != nil {
				t.Fatalf("ask %s: %v", address, err)
			}
			seen[got.Server]++
		}
		return seen
	}
	other := Frontend("10.96.0.21:80", services.TCP, a, b, c)
	sync(t, p, dataplane.Update{Full: true, Services: map[types.NamespacedName][]services.Frontend{
		Service("sticky"): front(true, a, b, c), Service("other"): {other}}})
	first := map[string]string{}
	for _, address := range []string{"10.96.0.20:80", NodeIP + ":30080"} {
		seen := servers(30, address)
		if len(seen) != 1 {
			t.Errorf("%s with affinity: one client was sent to %v", address, seen)
		}
		for server := range seen {
			first[address] = server
		}
	}
	if seen := servers(60, "10.96.0.21:80"); len(seen) != 3 {
		t.Errorf("service without affinity: one client was sent to %v only", seen)
	}
	change := func(list []services.Frontend) {
		t.Helper()
		sync(t, p, dataplane.Update{Services: map[types.NamespacedName][]services.Frontend{Service("sticky"): list}})
	}
	// Its endpoint stays, however many others there are.
	all := map[string]string{"pod-a": a, "pod-b": b, "pod-c": c}
	const address = "10.96.0.20:80"
	kept := all[first[address]]
	delete(all, first[address])
	var rest []string
	for _, target := range all {
		rest = append(rest, target)
	}
	change(front(true, kept, rest[0]))
	if seen := servers(20, address); seen[first[address]] != 20 {
		t.Errorf("after another endpoint went: sent to %v, was at %s", seen, first[address])
	}
	change(front(true, rest...))
	moved := servers(20, address)
	if len(moved) != 1 || moved[first[address]] > 0 {
		t.Errorf("after its endpoint %s went: sent to %v, want one other", first[address], moved)
	}
	change(front(false, a, b, c))
	if seen := servers(60, address); len(seen) != 3 {
		t.Errorf("after affinity was turned off: sent to %v only", seen)
	}
}

// testRestart replaces the plane by a new one under open and new connections.
func testRestart(t *testing.T, open func(t *testing.T) dataplane.Plane) {
	t.Helper()
	w := NewWorld(t)
	var first dataplane.Plane
	w.Node.Must(t, func() error { first = open(t); return nil })
	state := Full(Frontend("10.96.0.20:80", services.TCP, PodCIP+":8080"))
	sync(t, first, state)
	c, err := w.Client.Dial("tcp4", "10.96.0.20:80")
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer func() { _ = c.Close() }()
	if err := first.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	wantAnswer(t, w.PodB, "tcp4", "10.96.0.20:80", Answer{"pod-c", PodBIP})
	if _, err := AskOn(c); err != nil {
		t.Errorf("open connection after the plane is gone: %v", err)
	}

	second := Start(t, w, open)
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() { // new connections all the while
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := w.PodB.Ask("tcp4", "10.96.0.20:80"); err != nil {
				failed <- err
				return
			}
		}
	}()
	for range 5 {
		sync(t, second, state)
	}
	for i := range 20 { // changes beside it
		sync(t, second, dataplane.Update{Services: map[types.NamespacedName][]services.Frontend{
			Service("other"): {Frontend(fmt.Sprintf("10.96.1.%d:80", i+1), services.TCP, PodAIP+":8080", PodBIP+":8080")}}})
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("connection during the restart: %v", err)
	}
	if _, err := AskOn(c); err != nil {
		t.Errorf("open connection after the restart: %v", err)
	}
	if err := second.Clean(); err != nil {
		t.Fatalf("clean: %v", err)
	}
	if _, err := w.PodB.Ask("tcp4", "10.96.0.20:80"); err == nil {
		t.Errorf("a cleaned plane still forwards")
	}
}
