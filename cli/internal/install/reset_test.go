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

// TestResetLeavesVolumes: what persistent volumes hold outlives the machine's membership, also
// where pods had it mounted and where the way to it leads over a link. Needs root.
func TestResetLeavesVolumes(t *testing.T) {
	dir := t.TempDir()
	behind, state := filepath.Join(dir, "disk"), filepath.Join(dir, "state")
	place := filepath.Join(behind, "volumes", "pvc-1")
	target := filepath.Join(behind, "kubelet", "pods", "u", "volumes", "v")
	for _, path := range []string{place, target} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(behind, state); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(place, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(behind, "volumes") // a disk of its own
	for _, mount := range []struct{ from, to string }{{disk, disk}, {place, target}} {
		if err := unix.Mount(mount.from, mount.to, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(mount.to, unix.MNT_DETACH) })
	}
	layout := Layout{ConfigDir: filepath.Join(dir, "etc"), StateDir: state, RunDir: filepath.Join(dir, "run")}
	if err := unmountBelow(layout); err != nil {
		t.Fatal(err)
	}
	if err := removeFiles(layout); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(behind, "kubelet")); !os.IsNotExist(err) {
		t.Errorf("files of the kubelet are left: %v", err)
	}
	if content, err := os.ReadFile(filepath.Join(place, "file")); err != nil || string(content) != "kept" {
		t.Errorf("the volume holds %q, %v", content, err)
	}
	if err := unix.Unmount(disk, 0); err != nil {
		t.Errorf("the disk of the volumes was unmounted: %v", err)
	}
}
