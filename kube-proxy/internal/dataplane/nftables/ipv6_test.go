package nftables

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/dataplane/dataplanetest"
	"kijabi.dev/kube-proxy/internal/services"
)

// TestIPv6 sends a few connections through the other family's rules.
func TestIPv6(t *testing.T) {
	node, client, pod := dataplanetest.NewMachine(t, "node"), dataplanetest.NewMachine(t, "client"), dataplanetest.NewMachine(t, "pod")
	node.Must(t, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) })
	dataplanetest.Connect(t, node, "eth0", "fd50::1/64", client, "eth0", "fd50::2/64")
	dataplanetest.Connect(t, node, "veth0", "fd44::1/64", pod, "eth0", "fd44::2/64")
	client.AddRoute(t, "::/0", "fd50::1")
	pod.AddRoute(t, "::/0", "fd44::1")
	node.AddRoute(t, "::/0", "fd50::2") // what has no route is never filtered
	pod.Serve(t, "tcp6", "[fd44::2]:8080")
	pod.Serve(t, "udp6", "[fd44::2]:8080")

	var p *Plane
	node.Must(t, func() (err error) {
		p, err = New(Config{PodCIDR: netip.MustParsePrefix("fd44::/48"), ServiceCIDR: netip.MustParsePrefix("fd96::/112"), Log: zaptest.NewLogger(t)})
		return err
	})
	defer func() { _ = p.Close() }()
	front := func(address string, protocol services.Protocol, endpoints ...string) services.Frontend {
		f := dataplanetest.Frontend(address, protocol, endpoints...)
		for i := range f.Endpoints {
			f.Endpoints[i].Local = true
		}
		return f
	}
	sticky := front("[fd96::22]:80", services.TCP, "[fd44::2]:8080")
	sticky.Sticky = true
	if err := p.Sync(dataplanetest.Full(sticky,
		front("[fd96::20]:80", services.TCP, "[fd44::2]:8080"), front("[fd96::20]:53", services.UDP, "[fd44::2]:8080"),
		front("[::]:30080", services.TCP, "[fd44::2]:8080"), front("[fd96::21]:80", services.TCP),
		dataplanetest.Frontend("10.96.0.20:80", services.TCP, "10.244.1.2:80"), // the other family's
	)); err != nil {
		t.Fatalf("sync: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; { // until the links' own addresses have been probed
		if _, err := client.Ask("tcp6", "[fd44::2]:8080"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("no network: %v", err)
		}
	}
	for _, to := range []struct{ network, address string }{
		{"tcp6", "[fd96::20]:80"}, {"tcp6", "[fd96::22]:80"}, {"tcp6", "[fd96::22]:80"}, {"udp6", "[fd96::20]:53"}, {"tcp6", "[fd50::1]:30080"},
	} {
		if got, err := client.Ask(to.network, to.address); err != nil || got != (dataplanetest.Answer{Server: "pod", Client: "fd50::2"}) {
			t.Errorf("client asks %s: got %+v, %v", to.address, got, err)
		}
	}
	if got, err := pod.Ask("tcp6", "[fd96::20]:80"); err != nil || got.Server != "pod" || got.Client == "fd44::2" {
		t.Errorf("pod asks itself: got %+v, %v", got, err)
	}
	for _, address := range []string{"[fd96::21]:80", "[fd96::23]:80"} {
		if _, err := client.Ask("tcp6", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("client asks %s: got %v, want it refused", address, err)
		}
	}
	if same, err := p.verifyElements(); err != nil || !same {
		t.Errorf("verify: %v, %v", same, err)
	}
	if err := p.Sync(dataplane.Update{Full: true}); err != nil {
		t.Errorf("sync of nothing: %v", err)
	}
	if _, err := p.cleanFlows(); err != nil {
		t.Errorf("clean flows: %v", err)
	}
}
