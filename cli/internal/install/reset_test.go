package install

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	configv1 "kijabi.dev/platform/config/v1"
)

// TestResetRemovesTheDNSAddress runs in a network namespace of its own, which needs root.
func TestResetRemovesTheDNSAddress(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	host := func(text string) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(text).To4(), Mask: net.CIDRMask(32, 32)}, Scope: int(netlink.SCOPE_HOST)}
	}
	for _, text := range []string{"10.97.0.10", "10.96.0.10"} {
		if err := netlink.AddrAdd(lo, host(text)); err != nil {
			t.Fatal(err)
		}
	}
	addresses := func() (texts []string) {
		list, err := netlink.AddrList(lo, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range list {
			texts = append(texts, address.IP.String())
		}
		return texts
	}
	dir := t.TempDir()
	layout := Layout{ConfigDir: dir, StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run")}
	if err := removeDNSAddress(layout); err != nil || len(addresses()) != 2 {
		t.Errorf("a machine that is no member: %v, addresses %v", err, addresses())
	}
	member := settings{layout: layout, name: "node-1", masters: []string{"192.0.2.2"}, address: "192.0.2.1", network: configv1.DefaultNetwork()}
	member.network.DNSAddress = "10.97.0.10"
	for _, c := range components(false) {
		if c.program != dns {
			continue
		}
		content, err := yaml.Marshal(member.value(c))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(layout.config(dns), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time it is gone already
		if err := removeDNSAddress(layout); err != nil {
			t.Error(err)
		}
		if got := addresses(); len(got) != 1 || got[0] != "10.96.0.10" {
			t.Errorf("addresses left: %v, want another's 10.96.0.10 alone", got)
		}
	}
}
