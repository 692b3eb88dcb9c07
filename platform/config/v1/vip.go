package v1

import (
	"net/netip"
)

// VIP is a virtual address by which clients reach whichever master leads.
type VIP struct {
	// Addresses are one IPv4, one IPv6, or one of each. They must be the same on all masters and
	// belong to no machine.
	Addresses []string `json:"addresses,omitempty"`
	// Interface of this machine to hold them on, default that whose subnet contains them.
	Interface string `json:"interface,omitempty"`
}

// Parsed returns the addresses. They must be valid.
func (v VIP) Parsed() []netip.Addr {
	var all []netip.Addr
	for _, text := range v.Addresses {
		if address, err := netip.ParseAddr(text); err == nil {
			all = append(all, address.Unmap())
		}
	}
	return all
}

func (v VIP) check(f *faults, n Network) {
	families := map[bool]string{}
	for _, text := range v.Addresses {
		address, err := netip.ParseAddr(text)
		address = address.Unmap()
		if err != nil || address.Zone() != "" || !address.IsGlobalUnicast() {
			f.add("vip.addresses", "%q is no address of a network: give an unused one of the masters' subnet", text)
			continue
		}
		if other := families[address.Is4()]; other != "" {
			f.add("vip.addresses", "%s and %s are of the same family: give at most one IPv4 and one IPv6", other, text)
		}
		families[address.Is4()] = text
		for field, given := range map[string]string{"network.podCIDR": n.PodCIDR, "network.serviceCIDR": n.ServiceCIDR} {
			if prefix, err := netip.ParsePrefix(given); err == nil && prefix.Contains(address) {
				f.add("vip.addresses", "%s lies in %s %s: give an unused one of the masters' subnet", text, field, given)
			}
		}
	}
}
