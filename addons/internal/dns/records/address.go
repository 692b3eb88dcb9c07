package records

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// pod answers for address.namespace below pod, such as 10-244-1-7.default. The
// answer is computed from the name; whether such a pod runs is not checked.
func pod(q question, labels []string) Answer {
	switch len(labels) {
	case 0, 1:
		return empty()
	case 2:
		address, ok := undashed(labels[0])
		if !ok {
			return missing()
		}
		return addresses(q, []netip.Addr{address})
	default:
		return missing()
	}
}

// dashed makes a label of an address: 10-244-1-7, fd00--7.
func dashed(address netip.Addr) string {
	text := address.String()
	if address.Is4() {
		return strings.ReplaceAll(text, ".", "-")
	}
	text = strings.ReplaceAll(text, ":", "-")
	// A label neither begins nor ends with a dash.
	if strings.HasPrefix(text, "-") {
		text = "0" + text
	}
	if strings.HasSuffix(text, "-") {
		text += "0"
	}
	return text
}

func undashed(label string) (netip.Addr, bool) {
	separator := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		separator = "."
	}
	address, err := netip.ParseAddr(strings.ReplaceAll(label, "-", separator))
	return address, err == nil && address.Zone() == "" && !address.Is4In6()
}

// reverse answers for a name below in-addr.arpa or ip6.arpa.
func (z *Zone) reverse(source Source, name, lower string, qtype uint16) Answer {
	address, _ := reverseAddress(lower)
	apex := lower
	if prefix := z.rangeOf(address); prefix.IsValid() {
		apex = reverseApex(prefix)
	}
	names := z.pointers(source, address)
	answer := missing()
	if len(names) > 0 {
		answer = empty()
	}
	if qtype == dns.TypePTR {
		for _, target := range names {
			answer.Records = append(answer.Records, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: target})
		}
	}
	answer.Authority = soa(apex, z.domain)
	return answer
}

// pointers returns the names of an address: those of services that have it, else
// those of ready endpoints of headless services.
func (z *Zone) pointers(source Source, address netip.Addr) []string {
	var names []string
	for _, service := range source.ServicesAt(address.String()) {
		names = append(names, strings.Join([]string{service.Name, service.Namespace, "svc", z.domain}, "."))
	}
	if len(names) == 0 {
		for _, slice := range source.SlicesAt(address.String()) {
			owner := slice.Labels[serviceLabel]
			service, found := source.Service(slice.Namespace, owner)
			if !found || !headless(service) {
				continue
			}
			for _, e := range endpointsOf(source.Slices(slice.Namespace, owner)) {
				if e.address == address {
					names = append(names, strings.Join([]string{e.hostname, owner, slice.Namespace, "svc", z.domain}, "."))
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// serviceLabel on an endpoint slice names its service.
const serviceLabel = "kubernetes.io/service-name"

func (z *Zone) rangeOf(address netip.Addr) netip.Prefix {
	for _, prefix := range z.ranges {
		if prefix.Contains(address) {
			return prefix
		}
	}
	return netip.Prefix{}
}

// reverseApex is the smallest reverse name above every address of prefix.
func reverseApex(prefix netip.Prefix) string {
	address := prefix.Masked().Addr()
	name, err := dns.ReverseAddr(address.String())
	if err != nil {
		return "." // never: it was parsed before
	}
	perLabel := 8
	if address.Is6() {
		perLabel = 4
	}
	drop := (address.BitLen() - prefix.Bits() + perLabel - 1) / perLabel
	return strings.Join(dns.SplitDomainName(name)[drop:], ".") + "."
}

// reverseAddress reads the address of a complete reverse name.
func reverseAddress(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		address, err := netip.ParseAddr(strings.Join(parts, "."))
		return address, err == nil && address.Is4()
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	nibbles := strings.Split(labels, ".")
	if len(nibbles) != 32 {
		return netip.Addr{}, false
	}
	var bytes [16]byte
	for i, nibble := range nibbles {
		value, err := strconv.ParseUint(nibble, 16, 4)
		if err != nil || len(nibble) != 1 {
			return netip.Addr{}, false
		}
		at := 31 - i
		bytes[at/2] |= byte(value) << (4 * (1 - at%2))
	}
	return netip.AddrFrom16(bytes), true
}
