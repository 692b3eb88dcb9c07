package dataplanetest

import (
	"net"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/services"
)

// testStaleUDP keeps one flow going while its service changes below it.
func testStaleUDP(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	front := func(endpoints ...string) []services.Frontend {
		var out []services.Frontend
		for _, address := range []string{"10.96.0.20:53", "0.0.0.0:30053"} {
			out = append(out, Frontend(address, services.UDP, endpoints...))
		}
		return out
	}
	change := func(list []services.Frontend) {
		t.Helper()
		sync(t, p, dataplane.Update{Services: map[types.NamespacedName][]services.Frontend{Service("dns"): list}})
	}
	sync(t, p, dataplane.Update{Full: true})
	for _, flow := range []struct {
		from    *Machine
		address string
	}{{w.PodB, "10.96.0.20:53"}, {w.Client, NodeIP + ":30053"}} {
		change(front(PodAIP + ":8080"))
		c, err := flow.from.Dial("udp4", flow.address)
		if err != nil {
			t.Fatalf("dial: %v", err)
		}
		t.Cleanup(func() { _ = c.Close() })
		until := func(what string, ok func(Answer, error) bool) {
			t.Helper()
			deadline := time.Now().Add(10 * time.Second)
			var got Answer
			var err error
			for time.Now().Before(deadline) {
				if got, err = AskOn(c); ok(got, err) {
					return
				}
			}
			t.Fatalf("flow from %s to %s, %s: last answer %+v, %v", flow.from.Name, flow.address, what, got, err)
		}
		from := func(server string) func(Answer, error) bool {
			return func(a Answer, err error) bool { return err == nil && a.Server == server }
		}
		nobody := func(_ Answer, err error) bool { return err != nil }
		until("first endpoint", from("pod-a"))
		change(front(PodCIP + ":8080"))
		until("moved", from("pod-c"))
		change(front())
		until("no endpoint", nobody)
		change(front(PodAIP + ":8080"))
		until("endpoint again", from("pod-a"))
		change(nil)
		until("service deleted", nobody)
		change(front(PodCIP + ":8080"))
		until("service again", from("pod-c"))
	}
}

// testStaleTCP connects again from a port from which a connection to an endpoint that is dead
// was tried; connections that are open stay where they are.
func testStaleTCP(t *testing.T, w *World, p dataplane.Plane) {
	t.Helper()
	const dead = "10.244.1.77:8080" // nobody has the address
	for i, flow := range []struct {
		from    *Machine
		address string
	}{{w.PodB, "10.96.0.20:80"}, {w.Client, NodeIP + ":30080"}} {
		change := func(endpoints ...string) {
			t.Helper()
			sync(t, p, Full(Frontend("10.96.0.20:80", services.TCP, endpoints...), Frontend("0.0.0.0:30080", services.TCP, endpoints...)))
		}
		change(PodAIP + ":8080")
		open, err := flow.from.Dial("tcp4", flow.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = open.Close() })
		if a, err := AskOn(open); err != nil || a.Server != "pod-a" {
			t.Fatalf("from %s: %+v, %v", flow.from.Name, a, err)
		}
		port := 41000 + i
		ask := func(limit time.Duration) (answer Answer, err error) {
			err = flow.from.Do(func() error {
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Timeout: limit}
				c, err := dialer.DialContext(t.Context(), "tcp4", flow.address)
				if err != nil {
					return err
				}
				defer func() { _ = c.Close() }()
				answer, err = AskOn(c)
				return err
			})
			return answer, err
		}
		change(dead)
		if a, err := ask(300 * time.Millisecond); err == nil {
			t.Fatalf("from %s: %+v answers in place of a dead endpoint", flow.from.Name, a)
		}
		change(PodCIP + ":8080")
		deadline := time.Now().Add(10 * time.Second)
		for {
			a, err := ask(500 * time.Millisecond)
			if err == nil && a.Server == "pod-c" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("from %s to %s, again from port %d: %+v, %v", flow.from.Name, flow.address, port, a, err)
			}
		}
		if a, err := AskOn(open); err != nil || a.Server != "pod-a" {
			t.Errorf("open connection from %s, after its endpoint left the service: %+v, %v", flow.from.Name, a, err)
		}
	}
}
