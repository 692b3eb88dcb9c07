package host

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kijabi.dev/addons/internal/network/plan"
)

const (
	typeUnreachable = unix.RTN_UNREACHABLE
	errNoRoute      = syscall.ESRCH
)

// applyTunnel makes the device, its address, and what it must know of each peer:
// nothing is learned from packets, so nobody can be told lies by them.
func (h *Host) applyTunnel(p plan.Plan, underlay netlink.Link) (netlink.Link, error) {
	hardware, err := net.ParseMAC(p.Hardware)
	if err != nil {
		return nil, fmt.Errorf("tunnel's hardware address: %w", err)
	}
	wanted := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: TunnelDevice, MTU: p.MTU, HardwareAddr: hardware},
		VxlanId:   tunnelID, Port: tunnelPort, SrcAddr: h.cfg.Address.AsSlice(), VtepDevIndex: underlay.Attrs().Index, Learning: false,
	}
	link, err := netlink.LinkByName(TunnelDevice)
	if err == nil && !sameTunnel(link, wanted) {
		if err := netlink.LinkDel(link); err != nil {
			return nil, fmt.Errorf("replace device %s: %w", TunnelDevice, err)
		}
		link, err = nil, netlink.LinkNotFoundError{}
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if err := netlink.LinkAdd(wanted); err != nil {
			return nil, fmt.Errorf("make device %s: %w", TunnelDevice, err)
		}
		link, err = netlink.LinkByName(TunnelDevice)
	}
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", TunnelDevice, err)
	}
	if link.Attrs().MTU != p.MTU {
		if err := netlink.LinkSetMTU(link, p.MTU); err != nil {
			return nil, fmt.Errorf("set MTU of %s to %d: %w", TunnelDevice, p.MTU, err)
		}
	}
	if err := h.applyTunnelAddress(link, p); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bring up %s: %w", TunnelDevice, err)
	}
	return link, errors.Join(applyPeers(link, p.Peers, unix.AF_BRIDGE), applyPeers(link, p.Peers, unix.AF_INET))
}

func sameTunnel(link netlink.Link, wanted *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == wanted.VxlanId && have.Port == wanted.Port && have.SrcAddr.Equal(wanted.SrcAddr) &&
		have.VtepDevIndex == wanted.VtepDevIndex && have.Learning == wanted.Learning &&
		have.HardwareAddr.String() == wanted.HardwareAddr.String()
}

func (h *Host) applyTunnelAddress(link netlink.Link, p plan.Plan) error {
	wanted := &netlink.Addr{IPNet: &net.IPNet{IP: p.Endpoint.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", TunnelDevice, err)
	}
	found := false
	for i := range have {
		if have[i].IPNet.String() == wanted.IPNet.String() {
			found = true
		} else if err := netlink.AddrDel(link, &have[i]); err != nil {
			return fmt.Errorf("remove address %s of %s: %w", have[i].IPNet, TunnelDevice, err)
		}
	}
	if found {
		return nil
	}
	if err := netlink.AddrAdd(link, wanted); err != nil {
		return fmt.Errorf("give %s address %s: %w", TunnelDevice, wanted.IPNet, err)
	}
	return nil
}

// applyPeers sets, by family, either which machine has a hardware address (AF_BRIDGE)
// or which hardware address an endpoint has (AF_INET).
func applyPeers(link netlink.Link, peers []plan.Peer, family int) error {
	have, err := netlink.NeighList(link.Attrs().Index, family)
	if err != nil {
		return fmt.Errorf("list neighbours of %s: %w", TunnelDevice, err)
	}
	wanted := map[string]netlink.Neigh{}
	for _, peer := range peers {
		n := netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: peer.Endpoint.AsSlice()}
		if n.HardwareAddr, err = net.ParseMAC(peer.Hardware); err != nil {
			return fmt.Errorf("hardware address of peer %s: %w", peer.Machine, err)
		}
		if family == unix.AF_BRIDGE {
			n.Flags, n.IP = netlink.NTF_SELF, peer.Machine.AsSlice()
		}
		wanted[neighbourKey(n)] = n
	}
	var errs error
	for i := range have {
		key := neighbourKey(have[i])
		if _, ok := wanted[key]; ok && have[i].State&netlink.NUD_PERMANENT != 0 {
			delete(wanted, key)
		} else if have[i].State&(netlink.NUD_PERMANENT|netlink.NUD_REACHABLE|netlink.NUD_STALE) != 0 && !ok {
			if err := netlink.NeighDel(&have[i]); err != nil && !errors.Is(err, syscall.ENOENT) {
				errs = errors.Join(errs, fmt.Errorf("forget neighbour %s of %s: %w", have[i].IP, TunnelDevice, err))
			}
		}
	}
	for _, n := range wanted {
		if err := netlink.NeighSet(&n); err != nil {
			errs = errors.Join(errs, fmt.Errorf("set neighbour %s of %s: %w", n.IP, TunnelDevice, err))
		}
	}
	return errs
}

func neighbourKey(n netlink.Neigh) string { return n.IP.String() + " " + n.HardwareAddr.String() }
