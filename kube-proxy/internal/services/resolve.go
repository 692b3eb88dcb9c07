package services

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Resolve returns the frontends of one service on the node called nodeName.
//
// Headless and ExternalName services have none. Endpoints are the ready ones; when
// none is ready, those that terminate but still serve, so that the last pods of a
// rolling update lose no connection. Both arguments are only read.
func Resolve(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, nodeName string) []Frontend {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	external, balanced := externalAddresses(svc), balancerAddresses(svc)
	var out []Frontend
	for _, clusterIP := range clusterAddresses(svc) {
		for i := range svc.Spec.Ports {
			port := &svc.Spec.Ports[i]
			protocol, ok := protocolOf(port.Protocol)
			if !ok || port.Port < 1 || port.Port > 65535 {
				continue
			}
			all := endpointsFor(endpointSlices, clusterIP.Is6(), port.Name, protocol, nodeName)
			base := Frontend{
				Front:   Front{Address: clusterIP, Protocol: protocol, Port: uint16(port.Port)},
				Service: types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, PortName: port.Name,
				Sticky: svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
			}

			cluster := base
			cluster.Endpoints = usable(all)
			if p := svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
				cluster.Endpoints = usable(localOnly(all))
			}
			out = append(out, cluster)

			outside := base
			outside.Endpoints = usable(all)
			if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
				outside.Inside, outside.SplitInside = outside.Endpoints, true
				outside.Endpoints = usable(localOnly(all))
				if len(outside.Inside) > 0 {
					outside.Otherwise = Drop
				}
			}
			for _, address := range slices.Concat(external, balanced) {
				if address.Is6() == clusterIP.Is6() {
					f := outside
					f.Address = address
					out = append(out, f)
				}
			}
			if port.NodePort > 0 && port.NodePort <= 65535 {
				f := outside
				f.Address, f.Port = netip.IPv4Unspecified(), uint16(port.NodePort)
				if clusterIP.Is6() {
					f.Address = netip.IPv6Unspecified()
				}
				out = append(out, f)
			}
		}
	}
	return out
}

// candidate is an endpoint with its conditions.
type candidate struct {
	Endpoint
	ready, serving, terminating bool
}

// endpointsFor collects what the slices of one family say about one port.
func endpointsFor(list []*discoveryv1.EndpointSlice, ipv6 bool, name string, protocol Protocol, nodeName string) []candidate {
	family := discoveryv1.AddressTypeIPv4
	if ipv6 {
		family = discoveryv1.AddressTypeIPv6
	}
	var out []candidate
	for _, slice := range list {
		if slice.AddressType != family {
			continue
		}
		number, ok := portNumber(slice.Ports, name, protocol)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			ep := &slice.Endpoints[i]
			c := candidate{
				ready:       ep.Conditions.Ready == nil || *ep.Conditions.Ready,
				terminating: ep.Conditions.Terminating != nil && *ep.Conditions.Terminating,
			}
			c.serving = c.ready
			if ep.Conditions.Serving != nil {
				c.serving = *ep.Conditions.Serving
			}
			c.Local = ep.NodeName != nil && *ep.NodeName == nodeName
			for _, text := range ep.Addresses {
				address, err := netip.ParseAddr(text)
				if err != nil || address.Is6() != ipv6 || address.IsLoopback() || address.IsUnspecified() {
					continue // validation keeps these out; a bad one must not stop the others
				}
				c.Target = netip.AddrPortFrom(address, number)
				out = append(out, c)
			}
		}
	}
	return out
}

// usable picks the ready candidates or, if there are none, the terminating ones that
// still serve; sorted, and each target once even if two slices name it.
func usable(all []candidate) []Endpoint {
	pick := func(want func(candidate) bool) []Endpoint {
		var out []Endpoint
		for _, c := range all {
			if want(c) {
				out = append(out, c.Endpoint)
			}
		}
		slices.SortFunc(out, compareEndpoints)
		return slices.CompactFunc(out, func(a, b Endpoint) bool { return a.Target == b.Target })
	}
	if ready := pick(func(c candidate) bool { return c.ready }); len(ready) > 0 {
		return ready
	}
	return pick(func(c candidate) bool { return c.serving && c.terminating })
}

func localOnly(all []candidate) []candidate {
	var out []candidate
	for _, c := range all {
		if c.Local {
			out = append(out, c)
		}
	}
	return out
}

func portNumber(ports []discoveryv1.EndpointPort, name string, protocol Protocol) (uint16, bool) {
	for i := range ports {
		p := &ports[i]
		slicePort, sliceProtocol := "", corev1.ProtocolTCP
		if p.Name != nil {
			slicePort = *p.Name
		}
		if p.Protocol != nil {
			sliceProtocol = *p.Protocol
		}
		number, ok := protocolOf(sliceProtocol)
		if ok && number == protocol && slicePort == name && p.Port != nil && *p.Port > 0 && *p.Port <= 65535 {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func clusterAddresses(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	return parseAll(texts)
}

func externalAddresses(svc *corev1.Service) []netip.Addr { return parseAll(svc.Spec.ExternalIPs) }

// balancerAddresses are those that arrive here unchanged; with mode Proxy the
// balancer rewrites them, and taking them over would bypass it.
func balancerAddresses(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var texts []string
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if ingress.IP != "" && (ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP) {
			texts = append(texts, ingress.IP)
		}
	}
	return parseAll(texts)
}

func parseAll(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && !a.IsUnspecified() && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}

func protocolOf(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return SCTP, true
	default:
		return 0, false
	}
}
