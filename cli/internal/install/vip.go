package install

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	configv1 "kijabi.dev/platform/config/v1"
)

// adoptVIP takes over the virtual addresses of the masters, which what was said must not contradict.
func (s *settings) adoptVIP(told []string) error {
	if said := s.said.VIP.Addresses; len(said) > 0 && !slices.Equal(said, told) {
		return fmt.Errorf("options: vip.addresses is %s, the cluster's %q: take it out of this machine's file", strings.Join(said, ", "), strings.Join(told, ", "))
	}
	if s.said.VIP.Addresses = told; len(told) == 0 {
		s.said.VIP = configv1.VIP{} // an interface for nothing
	}
	return s.checkVIP()
}

// checkVIP refuses virtual addresses that this machine cannot hold.
func (s *settings) checkVIP() error {
	vip := s.said.VIP
	if vip.Interface != "" && len(vip.Addresses) > 0 {
		if _, err := net.InterfaceByName(vip.Interface); err != nil {
			return fmt.Errorf("vip.interface %s: %w: choose one of `ip link` with --vip-interface", vip.Interface, err)
		}
	}
	local, err := localPrefixes()
	if err != nil {
		return err
	}
	for _, address := range vip.Parsed() {
		inside := func(p netip.Prefix) bool { return !p.IsSingleIP() && p.Contains(address) }
		switch {
		case slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Addr() == address && !p.IsSingleIP() }):
			return fmt.Errorf("vip.addresses: %s is this machine's own: give one that no machine has", address)
		case vip.Interface == "" && !slices.ContainsFunc(local, inside):
			return fmt.Errorf("vip.addresses: no interface of this machine has a subnet that contains %s: choose one with --vip-interface, or another address", address)
		}
	}
	return nil
}

// localPrefixes are the addresses of this machine with their subnets.
func localPrefixes() ([]netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this machine: %w", err)
	}
	var all []netip.Prefix
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			all = append(all, prefix)
		}
	}
	return all, nil
}
