// Package loopback gives the loopback interface an address, so that every machine
// answers itself at the cluster's one DNS address.
package loopback

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// name of the interface that every network namespace has.
const name = "lo"

// Add puts address on the loopback interface. It may be there already, from
// the last run: nothing takes it away but `kijabi reset`.
func Add(address netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("address %s on %s: %w", address, name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if err := netlink.AddrReplace(link, hostAddress(address)); err != nil {
		return fmt.Errorf("address %s on %s: %w", address, name, err)
	}
	return nil
}

// hostAddress is the address alone, /32 or /128, valid on this machine only.
func hostAddress(address netip.Addr) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen())},
		Scope: int(netlink.SCOPE_HOST),
	}
}
