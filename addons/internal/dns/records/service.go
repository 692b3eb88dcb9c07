package records

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/miekg/dns"
)

// service answers for [[port.proto | hostname].name.]namespace below svc.
func (z *Zone) service(source Source, q question, labels []string) Answer {
	n := len(labels)
	switch n {
	case 0:
		return empty()
	case 1:
		if source.HasNamespace(labels[0]) {
			return empty()
		}
		return missing()
	}
	name, namespace := labels[n-2], labels[n-1]
	service, found := source.Service(namespace, name)
	if !found || n > 4 {
		return missing()
	}
	fqdn := strings.Join([]string{name, namespace, "svc", z.domain}, ".")
	switch {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		return alias(q, service, n-2)
	case headless(service):
		return headlessAnswer(q, labels[:n-2], fqdn, endpointsOf(source.Slices(namespace, name)))
	default:
		return clusterAnswer(q, labels[:n-2], fqdn, service)
	}
}

func headless(service *corev1.Service) bool {
	return service.Spec.ClusterIP == corev1.ClusterIPNone
}

// alias answers for an ExternalName service: its name is a CNAME whatever is asked for.
func alias(q question, service *corev1.Service, below int) Answer {
	if below > 0 || service.Spec.ExternalName == "" {
		return missing()
	}
	target := dns.Fqdn(service.Spec.ExternalName)
	answer := Answer{Records: []dns.RR{&dns.CNAME{Hdr: header(q.name, dns.TypeCNAME), Target: target}}}
	if q.qtype != dns.TypeCNAME {
		answer.Alias = target
	}
	return answer
}

// clusterAnswer answers for a service with addresses of its own; below are the
// labels left of its name.
func clusterAnswer(q question, below []string, fqdn string, service *corev1.Service) Answer {
	list := clusterAddresses(service)
	if len(below) == 0 {
		return addresses(q, list)
	}
	ports := make([]port, 0, len(service.Spec.Ports))
	for _, p := range service.Spec.Ports {
		ports = append(ports, port{name: p.Name, protocol: p.Protocol, number: p.Port})
	}
	return portAnswer(q, below, ports, func(p port) []target {
		return []target{{name: fqdn, port: p.number, addresses: list}}
	})
}

func clusterAddresses(service *corev1.Service) []netip.Addr {
	texts := service.Spec.ClusterIPs
	if len(texts) == 0 && service.Spec.ClusterIP != "" {
		texts = []string{service.Spec.ClusterIP}
	}
	return parseAddresses(texts)
}

// headlessAnswer answers for a service that is its ready endpoints.
func headlessAnswer(q question, below []string, fqdn string, endpoints []endpoint) Answer {
	if len(endpoints) == 0 {
		return missing() // the specification wants it so
	}
	switch {
	case len(below) == 0:
		return addresses(q, addressesOf(endpoints))
	case len(below) == 1 && !strings.HasPrefix(below[0], "_"):
		named := slices.DeleteFunc(slices.Clone(endpoints), func(e endpoint) bool { return e.hostname != below[0] })
		if len(named) == 0 {
			return missing()
		}
		return addresses(q, addressesOf(named))
	}
	var ports []port
	for _, e := range endpoints {
		ports = append(ports, e.ports...)
	}
	return portAnswer(q, below, ports, func(p port) []target {
		var targets []target
		for _, e := range endpoints {
			if slices.Contains(e.ports, p) {
				targets = append(targets, target{name: e.hostname + "." + fqdn, port: p.number, addresses: []netip.Addr{e.address}})
			}
		}
		return targets
	})
}

// port is a named port of a service or of some of its endpoints. Endpoints of one
// service may serve the same named port at different numbers.
type port struct {
	name     string
	protocol corev1.Protocol
	number   int32
}

// target is where an SRV record points.
type target struct {
	name      string
	port      int32
	addresses []netip.Addr
}

// portAnswer answers for [_port.]_proto, the one or two labels of below. Ports without a name have no SRV record.
func portAnswer(q question, below []string, ports []port, targetsOf func(port) []target) Answer {
	protocol := below[len(below)-1]
	var matching []port
	for _, p := range ports {
		fits := p.name != "" && "_"+strings.ToLower(string(p.protocol)) == protocol &&
			(len(below) == 1 || "_"+p.name == below[0])
		if fits && !slices.Contains(matching, p) {
			matching = append(matching, p)
		}
	}
	if len(matching) == 0 {
		return missing()
	}
	if len(below) == 1 || q.qtype != dns.TypeSRV {
		return empty()
	}
	var targets []target
	for _, p := range matching {
		targets = append(targets, targetsOf(p)...)
	}
	answer, seen := empty(), map[string]bool{}
	weight := uint16(max(1, 100/len(targets)))
	for _, t := range targets {
		answer.Records = append(answer.Records, &dns.SRV{
			Hdr: header(q.name, dns.TypeSRV), Weight: weight, Port: uint16(t.port), Target: t.name,
		})
		for _, address := range t.addresses {
			if key := t.name + " " + address.String(); !seen[key] {
				seen[key] = true
				answer.Extra = append(answer.Extra, addressRecord(t.name, address))
			}
		}
	}
	return answer
}

// endpoint is one ready address of a headless service.
type endpoint struct {
	address  netip.Addr
	hostname string // lower case; made from the address when the pod has none
	ports    []port
}

// endpointsOf collects the ready endpoints of slices, in the order of their addresses.
func endpointsOf(list []*discoveryv1.EndpointSlice) []endpoint {
	byAddress := map[netip.Addr]endpoint{}
	for _, slice := range list {
		ports := slicePorts(slice)
		for i := range slice.Endpoints {
			from := &slice.Endpoints[i]
			if from.Conditions.Ready != nil && !*from.Conditions.Ready {
				continue
			}
			for _, address := range parseAddresses(from.Addresses) {
				e := byAddress[address]
				e.address, e.ports = address, append(e.ports, ports...)
				switch {
				case from.Hostname != nil && *from.Hostname != "":
					e.hostname = strings.ToLower(*from.Hostname)
				case e.hostname == "":
					e.hostname = dashed(address)
				}
				byAddress[address] = e
			}
		}
	}
	endpoints := make([]endpoint, 0, len(byAddress))
	for _, e := range byAddress {
		endpoints = append(endpoints, e)
	}
	slices.SortFunc(endpoints, func(a, b endpoint) int {
		return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.hostname, b.hostname))
	})
	return endpoints
}

func slicePorts(slice *discoveryv1.EndpointSlice) []port {
	var ports []port
	for _, p := range slice.Ports {
		if p.Port == nil {
			continue
		}
		out := port{number: *p.Port, protocol: corev1.ProtocolTCP}
		if p.Name != nil {
			out.name = *p.Name
		}
		if p.Protocol != nil {
			out.protocol = *p.Protocol
		}
		ports = append(ports, out)
	}
	return ports
}

func addressesOf(endpoints []endpoint) []netip.Addr {
	list := make([]netip.Addr, 0, len(endpoints))
	for _, e := range endpoints {
		list = append(list, e.address)
	}
	return list
}

// parseAddresses leaves out what is not an address: a slice may hold names.
func parseAddresses(texts []string) []netip.Addr {
	list := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		if address, err := netip.ParseAddr(text); err == nil {
			list = append(list, address.Unmap())
		}
	}
	return list
}
