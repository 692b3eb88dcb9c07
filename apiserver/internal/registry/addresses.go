package registry

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
)

// addresses knows which service addresses and node ports are taken. As an observer of
// the store it follows every committed change; what a Decide function reserves holds until
// the next batch is formed, by when the commit has confirmed it. So allocation is exact.
type addresses struct {
	prefix netip.Prefix
	// reserved addresses are given only to who asks for them by name.
	reserved    map[netip.Addr]bool
	first, last int32

	mu      sync.Mutex
	ips     map[netip.Addr]store.Key
	ports   map[int32]store.Key
	newIPs  map[netip.Addr]store.Key // of the batch that is being formed
	newPort map[int32]store.Key
}

var _ store.Observer = (*addresses)(nil)

func newAddresses(network configv1.Network) (*addresses, error) {
	prefix, err := netip.ParsePrefix(network.ServiceCIDR)
	if err != nil {
		return nil, fmt.Errorf("network.serviceCIDR %q: %w", network.ServiceCIDR, err)
	}
	if !prefix.Addr().Is4() || prefix.Bits() > 29 {
		return nil, fmt.Errorf("network.serviceCIDR %q: must be an IPv4 range of at least 8 addresses", network.ServiceCIDR)
	}
	if network.NodePortFirst < 1 || network.NodePortLast > 65535 || network.NodePortFirst > network.NodePortLast {
		return nil, fmt.Errorf("network.nodePortFirst %d and nodePortLast %d are no range of ports", network.NodePortFirst, network.NodePortLast)
	}
	a := &addresses{prefix: prefix.Masked(), first: network.NodePortFirst, last: network.NodePortLast, reserved: map[netip.Addr]bool{}}
	a.reserved[a.prefix.Addr().Next()] = true
	if dns, err := netip.ParseAddr(network.DNSAddress); err == nil {
		a.reserved[dns] = true
	}
	a.Reset(func(func(*store.Record) bool) {})
	return a, nil
}

// Services are the addresses that services have.
func (e *Engine) Services() netip.Prefix { return e.addresses.prefix }

// kubernetesAddress is the address of the service that leads to the masters.
func (a *addresses) kubernetesAddress() netip.Addr { return a.prefix.Addr().Next() }

const servicesResource = "services"

// Reset starts over from all objects.
func (a *addresses) Reset(all iter.Seq[*store.Record]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ips, a.ports = map[netip.Addr]store.Key{}, map[int32]store.Key{}
	a.newIPs, a.newPort = map[netip.Addr]store.Key{}, map[int32]store.Key{}
	for record := range all {
		if record.Key.Resource == servicesResource {
			a.take(record)
		}
	}
}

// Begin forgets reservations that no commit confirmed.
func (a *addresses) Begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.newIPs)
	clear(a.newPort)
}

// Apply follows committed changes.
func (a *addresses) Apply(events []store.Event) {
	for i := range events {
		event := &events[i]
		if event.Record.Key.Resource != servicesResource {
			continue
		}
		a.mu.Lock()
		if event.Previous != nil {
			a.release(event.Previous)
		}
		if event.Type != store.Deleted {
			a.take(event.Record)
		}
		a.mu.Unlock()
	}
}

// held lists what a stored service occupies. An undecodable one occupies nothing.
func held(record *store.Record) (ips []netip.Addr, ports []int32) {
	var service corev1.Service
	if err := service.Unmarshal(record.Value); err != nil {
		return nil, nil
	}
	for _, text := range service.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			ips = append(ips, ip)
		}
	}
	for i := range service.Spec.Ports {
		if port := service.Spec.Ports[i].NodePort; port != 0 {
			ports = append(ports, port)
		}
	}
	if port := service.Spec.HealthCheckNodePort; port != 0 {
		ports = append(ports, port)
	}
	return ips, ports
}

func (a *addresses) take(record *store.Record) {
	ips, ports := held(record)
	for _, ip := range ips {
		a.ips[ip] = record.Key
	}
	for _, port := range ports {
		a.ports[port] = record.Key
	}
}

func (a *addresses) release(record *store.Record) {
	ips, ports := held(record)
	for _, ip := range ips {
		if a.ips[ip] == record.Key {
			delete(a.ips, ip)
		}
	}
	for _, port := range ports {
		if a.ports[port] == record.Key {
			delete(a.ports, port)
		}
	}
}

func (a *addresses) ipTaken(ip netip.Addr, by store.Key) bool {
	if owner, ok := a.ips[ip]; ok && owner != by {
		return true
	}
	owner, ok := a.newIPs[ip]
	return ok && owner != by
}

func (a *addresses) portTaken(port int32, by store.Key) bool {
	if owner, ok := a.ports[port]; ok && owner != by {
		return true
	}
	owner, ok := a.newPort[port]
	return ok && owner != by
}

// allocate gives a service the address and ports it needs and lacks, and checks those it
// asks for. It is called while a batch is formed.
func (a *addresses) allocate(kind *Kind, key store.Key, service *corev1.Service) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.allocateIP(kind, key, service); err != nil {
		return err
	}
	return a.allocatePorts(kind, key, service)
}

func (a *addresses) allocateIP(kind *Kind, key store.Key, service *corev1.Service) error {
	if !kinds.NeedsClusterIP(service) {
		return nil
	}
	spec := &service.Spec
	if spec.ClusterIP == "" {
		ip, ok := a.freeIP(key)
		if !ok {
			return apierrors.NewInternalError(errors.New("failed to allocate a serviceIP: range is full"))
		}
		a.newIPs[ip] = key
		spec.ClusterIP = ip.String()
		spec.ClusterIPs = []string{spec.ClusterIP}
		return nil
	}
	path := field.NewPath("spec", "clusterIPs").Index(0)
	ip, err := netip.ParseAddr(spec.ClusterIP)
	switch {
	case err != nil:
		return invalid(kind, service.Name, field.ErrorList{field.Invalid(path, spec.ClusterIP, "must be a valid IP address")})
	case a.ips[ip] == key:
		return nil // has it already
	case !a.usable(ip):
		return invalid(kind, service.Name, field.ErrorList{field.Invalid(path, spec.ClusterIPs, fmt.Sprintf(
			"failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, ip, a.prefix))})
	case a.ipTaken(ip, key):
		return invalid(kind, service.Name, field.ErrorList{field.Invalid(path, spec.ClusterIPs, fmt.Sprintf(
			"failed to allocate IP %s: provided IP is already allocated", ip))})
	}
	a.newIPs[ip] = key
	return nil
}

// usable leaves out the range's first and last address.
func (a *addresses) usable(ip netip.Addr) bool {
	return a.prefix.Contains(ip) && ip != a.prefix.Addr() && ip != a.at(a.size()-1)
}

func (a *addresses) size() uint32 { return 1 << (32 - a.prefix.Bits()) }

// at returns the n-th address of the range.
func (a *addresses) at(n uint32) netip.Addr {
	b := a.prefix.Addr().As4()
	base := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	base += n
	return netip.AddrFrom4([4]byte{byte(base >> 24), byte(base >> 16), byte(base >> 8), byte(base)})
}

// freeIP looks from a random place on, so that a freed address is not reused at once.
func (a *addresses) freeIP(key store.Key) (netip.Addr, bool) {
	size := a.size()
	start := rand.Uint32N(size)
	for i := range size {
		ip := a.at((start + i) % size)
		if a.usable(ip) && !a.reserved[ip] && !a.ipTaken(ip, key) && a.ips[ip] == (store.Key{}) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (a *addresses) allocatePorts(kind *Kind, key store.Key, service *corev1.Service) error {
	var errs field.ErrorList
	path := field.NewPath("spec", "ports")
	mine := map[int32]bool{}
	want := func(port int32, at *field.Path) {
		switch {
		case port < a.first || port > a.last:
			errs = append(errs, field.Invalid(at, port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", a.first, a.last)))
		case a.portTaken(port, key):
			errs = append(errs, field.Invalid(at, port, "provided port is already allocated"))
		default:
			a.newPort[port], mine[port] = key, true
		}
	}
	ports := service.Spec.Ports
	for i := range ports {
		if ports[i].NodePort != 0 {
			want(ports[i].NodePort, path.Index(i).Child("nodePort"))
		}
	}
	health := kinds.NeedsHealthCheckNodePort(service)
	if health && service.Spec.HealthCheckNodePort != 0 {
		want(service.Spec.HealthCheckNodePort, field.NewPath("spec", "healthCheckNodePort"))
	}
	if len(errs) > 0 {
		return invalid(kind, service.Name, errs)
	}
	if kinds.NeedsNodePorts(service) {
		for i := range ports {
			// The same port over another protocol shares its node port.
			for j := range i {
				if ports[i].NodePort == 0 && ports[j].Port == ports[i].Port && ports[j].Protocol != ports[i].Protocol {
					ports[i].NodePort = ports[j].NodePort
				}
			}
			if err := a.fill(key, &ports[i].NodePort, mine); err != nil {
				return err
			}
		}
	}
	if health {
		return a.fill(key, &service.Spec.HealthCheckNodePort, mine)
	}
	return nil
}

// fill gives a port that is 0 a free number.
func (a *addresses) fill(key store.Key, port *int32, mine map[int32]bool) error {
	if *port != 0 {
		return nil
	}
	free, ok := a.freePort(mine, key)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort for %s: range %d-%d is full", key, a.first, a.last))
	}
	a.newPort[free], mine[free], *port = key, true, free
	return nil
}

func (a *addresses) freePort(mine map[int32]bool, key store.Key) (int32, bool) {
	size := a.last - a.first + 1
	start := rand.Int32N(size)
	for i := range size {
		port := a.first + (start+i)%size
		if !mine[port] && !a.portTaken(port, key) && a.ports[port] == (store.Key{}) {
			return port, true
		}
	}
	return 0, false
}
