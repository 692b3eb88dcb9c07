package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const bridgeName = "kijabi"

// hostLink names the host's end of the cable into the bridge.
func (f *Fleet) hostLink() string {
	sum := sha256.Sum256([]byte(f.Dir))
	return "kj" + hex.EncodeToString(sum[:4])
}

// portLink names a machine's port of the bridge.
func portLink(m Machine) string { return "m" + hex.EncodeToString(m.Address.AsSlice()) }

// CheckSubnet reports an address or route of the host that the fleet's subnet would
// hide.
func (f *Fleet) CheckSubnet() error {
	subnet := f.State.Subnet.Masked()
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, address := range addresses {
		name := names[address.LinkIndex]
		if used, ok := prefixOf(address.IPNet); ok && name != f.hostLink() && used.Overlaps(subnet) {
			return fmt.Errorf("subnet %s is busy: interface %s has %s; choose another with --subnet", subnet, name, used)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, route := range routes {
		name := names[route.LinkIndex]
		if used, ok := prefixOf(route.Dst); ok && used.Bits() > 0 && name != f.hostLink() && used.Overlaps(subnet) {
			return fmt.Errorf("subnet %s is busy: the host routes %s to %s; choose another with --subnet", subnet, used, name)
		}
	}
	return nil
}

func prefixOf(network *net.IPNet) (netip.Prefix, bool) {
	if network == nil {
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(network.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := network.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), ones), true
}

// EnsureNetwork makes what is missing of the bridge's namespace, the bridge and the
// host's cable into it.
func (f *Fleet) EnsureNetwork() error {
	space, err := f.openNetwork()
	if err != nil {
		return err
	}
	defer func() { _ = space.Close() }()
	handle, err := netlink.NewHandleAt(space)
	if err != nil {
		return fmt.Errorf("network of cluster %q: %w", f.State.Name, err)
	}
	defer handle.Close()
	bridge, err := ensureBridge(handle)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(f.hostLink())
	if isNotFound(err) {
		if link, err = f.plugHost(handle, bridge); err != nil {
			return fmt.Errorf("connect the host to cluster %q: %w", f.State.Name, err)
		}
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", f.hostLink(), err)
	}
	address := &netlink.Addr{IPNet: ipNet(f.HostAddress(), f.State.Subnet.Bits())}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("address %s on %s: %w", address.IPNet, f.hostLink(), err)
	}
	return netlink.LinkSetUp(link)
}

func ensureBridge(handle *netlink.Handle) (netlink.Link, error) {
	bridge, err := handle.LinkByName(bridgeName)
	if isNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("make bridge: %w", err)
		}
		bridge, err = handle.LinkByName(bridgeName)
	}
	if err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	return bridge, handle.LinkSetUp(bridge)
}

func (f *Fleet) plugHost(handle *netlink.Handle, bridge netlink.Link) (netlink.Link, error) {
	own, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer func() { _ = own.Close() }()
	if err := plug(handle, bridge, "host", f.hostLink(), int(own)); err != nil {
		return nil, err
	}
	return netlink.LinkByName(f.hostLink())
}

// plug makes a cable between a bridge port and an interface of another namespace.
// The peer's hardware address follows from its port's name, so that a machine that
// comes back is still the one that its neighbours remember.
func plug(handle *netlink.Handle, bridge netlink.Link, port, peer string, peerSpace int) error {
	if stale, err := handle.LinkByName(port); err == nil {
		// The namespace of a machine that was killed may still be on its way out.
		if err := handle.LinkDel(stale); err != nil && !isNotFound(err) {
			return fmt.Errorf("remove old port %s: %w", port, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = port, bridge.Attrs().Index
	sum := sha256.Sum256([]byte(port))
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(peerSpace),
		PeerHardwareAddr: net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]},
	}
	if err := handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("make port %s: %w", port, err)
	}
	link, err := handle.LinkByName(port)
	if err != nil {
		return fmt.Errorf("port %s: %w", port, err)
	}
	return handle.LinkSetUp(link)
}

// connect gives a machine whose process 1 is pid its interface, address and route.
func (f *Fleet) connect(m Machine, pid int) error {
	space, err := f.openNetwork()
	if err != nil {
		return err
	}
	defer func() { _ = space.Close() }()
	handle, err := netlink.NewHandleAt(space)
	if err != nil {
		return err
	}
	defer handle.Close()
	bridge, err := handle.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	target, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	defer func() { _ = target.Close() }()
	if err := plug(handle, bridge, portLink(m), "eth0", int(target)); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(target)
	if err != nil {
		return err
	}
	defer inside.Close()
	loopback, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := inside.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	link, err := inside.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	if err := inside.AddrReplace(link, &netlink.Addr{IPNet: ipNet(m.Address, f.State.Subnet.Bits())}); err != nil {
		return fmt.Errorf("address %s: %w", m.Address, err)
	}
	if err := inside.LinkSetUp(link); err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	return inside.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: f.HostAddress().AsSlice()})
}

// openNetwork opens the bridge's namespace and makes it if there is none. A bind mount
// keeps it alive.
func (f *Fleet) openNetwork() (netns.NsHandle, error) {
	space, err := netns.GetFromPath(f.networkPath())
	if err == nil {
		var info unix.Statfs_t
		if unix.Fstatfs(int(space), &info) == nil && info.Type == unix.NSFS_MAGIC {
			return space, nil
		}
		_ = space.Close() // the mount is gone, after a reboot of the host
	}
	if err := f.makeNetwork(); err != nil {
		return netns.None(), fmt.Errorf("make the network of cluster %q: %w", f.State.Name, err)
	}
	return netns.GetFromPath(f.networkPath())
}

func (f *Fleet) makeNetwork() error {
	file, err := os.OpenFile(f.networkPath(), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	_ = file.Close()
	result := make(chan error)
	//nolint:forbidigo // the thread belongs to another namespace for a moment and must be thrown away
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("new network namespace: %w", err)
			return
		}
		result <- unix.Mount("/proc/thread-self/ns/net", f.networkPath(), "", unix.MS_BIND, "")
	}()
	return <-result
}

// removeNetwork removes the host's cable and the bridge's namespace.
func (f *Fleet) removeNetwork() error {
	var errs []error
	if link, err := netlink.LinkByName(f.hostLink()); err == nil {
		if err := netlink.LinkDel(link); err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("remove interface %s: %w", f.hostLink(), err))
		}
	}
	// One mount for each time the path was mounted; normally one.
	for {
		if err := unix.Unmount(f.networkPath(), unix.MNT_DETACH); err != nil {
			if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", f.networkPath(), err))
			}
			break
		}
	}
	return errors.Join(errs...)
}

func ipNet(address netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, address.BitLen())}
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
