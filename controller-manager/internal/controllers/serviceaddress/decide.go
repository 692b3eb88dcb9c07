package serviceaddress

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/object"
)

// problem is what is wrong with an address or port of a service.
type problem struct{ reason, message string }

// ranges are those that service addresses and node ports are given from.
type ranges struct {
	services    netip.Prefix
	first, last int32
}

// addresses lists the cluster addresses of a service.
func addresses(svc *corev1.Service) []string {
	var out []string
	for _, ip := range svc.Spec.ClusterIPs {
		if ip != "" && ip != corev1.ClusterIPNone && svc.Spec.Type != corev1.ServiceTypeExternalName {
			out = append(out, ip)
		}
	}
	return out
}

// ports lists the node ports of a service, each once: two protocols may share one.
func ports(svc *corev1.Service) []int32 {
	var out []int32
	add := func(port int32) {
		if port != 0 && !slices.Contains(out, port) {
			out = append(out, port)
		}
	}
	for i := range svc.Spec.Ports {
		add(svc.Spec.Ports[i].NodePort)
	}
	add(svc.Spec.HealthCheckNodePort)
	return out
}

// decide finds what is wrong with a service's addresses and ports, given the services that
// have one of them too. Of several that share one the oldest has it. It is pure.
func decide(svc *corev1.Service, sharing []*corev1.Service, r ranges) []problem {
	var out []problem
	others := slices.DeleteFunc(slices.Clone(sharing), func(o *corev1.Service) bool { return o.UID == svc.UID || !older(o, svc) })
	for _, text := range addresses(svc) {
		ip, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			out = append(out, problem{"ClusterIPNotValid", fmt.Sprintf("Cluster IP %s is not a valid IP; please recreate service", text)})
		case !r.services.Contains(ip):
			out = append(out, problem{"ClusterIPOutOfRange", fmt.Sprintf("Cluster IP %s is not within any configured Service CIDR; please recreate service", text)})
		case slices.ContainsFunc(others, func(o *corev1.Service) bool { return slices.Contains(addresses(o), text) }):
			out = append(out, problem{"ClusterIPAlreadyAllocated", fmt.Sprintf("Cluster IP %s was assigned to multiple services; please recreate service", text)})
		}
	}
	for _, port := range ports(svc) {
		switch {
		case port < r.first || port > r.last:
			out = append(out, problem{"PortOutOfRange", fmt.Sprintf("Port %d is not within the port range %d-%d; please recreate service", port, r.first, r.last)})
		case slices.ContainsFunc(others, func(o *corev1.Service) bool { return slices.Contains(ports(o), port) }):
			out = append(out, problem{"PortAlreadyAllocated", fmt.Sprintf("Port %d was assigned to multiple services; please recreate service", port)})
		}
	}
	return out
}

// older tells whether a has its addresses rather than b.
func older(a, b *corev1.Service) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return object.KeyOf(a).String() < object.KeyOf(b).String()
}
