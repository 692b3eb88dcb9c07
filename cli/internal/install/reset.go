package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/output"
	"kijabi.dev/cli/internal/packetfilter"
)

// ResetOptions of Reset.
type ResetOptions struct {
	// Layout of the machine's files. Required.
	Layout Layout
	// Services is the machine's service manager. Required.
	Services Services
	// Progress is told each step. May be nil.
	Progress *output.Progress
	// Local leaves the cluster alone: the machine is not taken off the roster.
	Local bool
	// Force goes on when the cluster does not let the machine go.
	Force bool
}

// Reset takes the machine out of its cluster and removes everything that an
// installation has made. It works on a machine that was half installed, too.
func Reset(ctx context.Context, o ResetOptions) error {
	member, ok, err := ReadMember(o.Layout)
	if err != nil {
		return err
	}
	if ok && member.Master && !o.Local {
		if err := leaveMasters(ctx, o.Layout, member.Name); err != nil && !o.Force {
			return fmt.Errorf("take %s off the masters: %w; --force resets this machine anyway", member.Name, err)
		}
		o.Progress.Say("%s: off the roster of masters", member.Name)
	}
	names := unitNames(true)
	var errs []error
	for _, name := range slices.Backward(names) {
		errs = append(errs, o.Services.Stop(ctx, name))
	}
	o.Progress.Say("programs stopped")
	errs = append(errs, killContainers(ctx, o.Layout))
	if err := unmountBelow(o.Layout); err != nil {
		// What is mounted in pods' directories may be data that shall stay.
		return joinLine(append(errs, err))
	}
	errs = append(errs, o.Services.Remove(ctx, names), removeLinks(), removeDNSAddress(o.Layout), removeLeftovers(o.Layout), removeFiles(o.Layout))
	if err := joinLine(errs); err != nil {
		return err
	}
	o.Progress.Say("containers, network and files removed")
	return nil
}

// leaveMasters has this master taken off the roster.
func leaveMasters(ctx context.Context, layout Layout, name string) error {
	admin, err := layout.admin()
	if err != nil {
		return err
	}
	members, err := rosterOf(ctx, admin)
	if err != nil {
		return err
	}
	if len(members) <= 1 {
		return nil // the last one takes the cluster with it
	}
	if !onRoster(members, name) {
		return nil // somebody has removed it already
	}
	_, err = RemoveMaster(ctx, admin, &mastersv1pb.RemoveRequest{Name: name})
	return err
}

// killContainers ends the shims of our containerd and what runs below them.
func killContainers(ctx context.Context, layout Layout) error {
	socket := layout.containerdSocket()
	deadline := time.Now().Add(10 * time.Second)
	for {
		shims := shimsOf(socket)
		if len(shims) == 0 {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%d containers do not end", len(shims))
		}
		for _, pid := range shims {
			for _, child := range childrenOf(pid) {
				_ = unix.Kill(child, unix.SIGKILL)
			}
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shimsOf returns the container shims that were started by the containerd at socket.
func shimsOf(socket string) []int {
	var found []int
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		content, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		args := strings.Split(string(content), "\x00")
		if filepath.Base(args[0]) == "containerd-shim-runc-v2" && slices.Contains(args, socket) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}

func childrenOf(pid int) []int {
	var children []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range lists {
		content, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(content)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// unmountBelow unmounts what containers and pods have mounted, innermost first, and fails if
// any of it stays. A disk that somebody mounted for persistent volumes stays.
func unmountBelow(layout Layout) error {
	points, err := mountsBelow(layout)
	if err != nil {
		return err
	}
	for _, point := range points {
		// Unmounting something on a mount that others share would take it from them, too.
		if err := unix.Mount("", point, "", unix.MS_PRIVATE, ""); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("part with mount %s: %w", point, err)
		}
	}
	var errs []error
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
		if strings.Contains(point, "/netns/cni-") {
			_ = os.Remove(point)
		}
	}
	left, err := mountsBelow(layout)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("still mounted: %s", strings.Join(left, " "))
	}
	return joinLine(append(errs, err))
}

// mountsBelow lists what unmountBelow is for, outermost first.
func mountsBelow(layout Layout) ([]string, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	// The kernel knows mounts by the paths that links lead to.
	resolved := func(dir string) string {
		if path, err := filepath.EvalSymlinks(dir); err == nil {
			return path
		}
		return strings.TrimSuffix(dir, "/")
	}
	volumes := resolved(filepath.Join(layout.StateDir, "volumes"))
	dirs := []string{resolved(layout.StateDir), resolved(layout.containerdDir()), resolved(layout.RunDir)}
	var points []string
	for line := range strings.Lines(string(content)) {
		point := strings.Fields(line)[4]
		below := slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(point, dir+"/") })
		network := strings.HasPrefix(point, "/run/netns/cni-") || strings.HasPrefix(point, "/var/run/netns/cni-")
		if (below || network) && point != volumes && !strings.HasPrefix(point, volumes+"/") {
			points = append(points, point)
		}
	}
	return points, nil
}

// removeLinks removes our network interfaces, with them the routes that lead there, and
// our packet filter tables.
func removeLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	var errs []error
	for _, link := range links {
		name := link.Attrs().Name
		if strings.HasPrefix(name, "kijabi") {
			if err := netlink.LinkDel(link); err != nil {
				errs = append(errs, fmt.Errorf("remove interface %s: %w", name, err))
			}
		}
	}
	for _, table := range []string{"kijabi-proxy", "kijabi-network"} {
		if err := packetfilter.DeleteTable(table); err != nil {
			errs = append(errs, err)
		}
	}
	return joinLine(errs)
}

// removeDNSAddress takes the cluster's DNS address off the loopback interface, where the
// dns program has left it. A machine without that program's configuration has none.
func removeDNSAddress(layout Layout) error {
	cfg := configv1.DNSConfiguration{Network: configv1.DefaultNetwork()}
	if err := config.Load(layout.config(dns), &cfg); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove the DNS address: %w", err)
	}
	address, err := netip.ParseAddr(cfg.Network.DNSAddress)
	if err != nil {
		return fmt.Errorf("remove the DNS address: network.dnsAddress of %s: %w", layout.config(dns), err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("remove address %s from lo: %w", address, err)
	}
	err = netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{
		IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen()),
	}})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %s from lo: %w", address, err)
	}
	return nil
}

// removeFiles removes state and configuration that an installation has made. The
// directories themselves stay when they are mount points, or hold something else.
func removeFiles(layout Layout) error {
	own := []string{
		layout.AdminDir(), filepath.Join(layout.ConfigDir, "units"), layout.member(), layout.pki(""),
		filepath.Join(layout.StateDir, "identity"), filepath.Join(layout.StateDir, "cni"),
		filepath.Dir(layout.containerdSocket()), filepath.Join(layout.RunDir, "cni"),
	}
	for _, dir := range []string{layout.ContainerdDir, layout.EtcdDir} {
		entries, _ := os.ReadDir(dir) // it may have been taken away, or not been made
		for _, entry := range entries {
			if !keep(entry.Name()) {
				own = append(own, filepath.Join(dir, entry.Name()))
			}
		}
	}
	for _, name := range unitNames(true) {
		own = append(own, layout.config(name), filepath.Join(layout.StateDir, name))
	}
	var errs []error
	for _, path := range own {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := joinLine(errs); err != nil {
		return err
	}
	if err := os.RemoveAll(layout.directories()); err != nil { // last: it says where the rest is
		return err
	}
	for _, dir := range []string{layout.ConfigDir, layout.StateDir, layout.RunDir} {
		_ = os.Remove(dir) // fails when it is to stay
	}
	return nil
}
