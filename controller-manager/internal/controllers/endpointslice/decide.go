package endpointslice

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/controller-manager/internal/portset"
	"kijabi.dev/platform/kube/object"
)

// managedBy marks the slices this loop keeps.
const managedBy = "endpointslice-controller.k8s.io"

// sliceSize is the greatest number of endpoints of one slice, as in Kubernetes.
const sliceSize = 100

// plan is what a Service's slices need done.
type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// decide compares the pods a Service selects with its slices. zone names the zone of a node,
// empty if none is known. It is pure.
//
// Pods with the same resolved ports share slices. An endpoint stays in the slice
// it is in, so that one pod's change touches one slice; slices are numbered within their
// group of ports, which makes a repeated create meet its own slice.
func decide(svc *corev1.Service, pods []*corev1.Pod, zone func(node string) string, slicesNow []*discoveryv1.EndpointSlice) plan {
	groups := map[string]*group{}
	for _, pod := range pods {
		if podstate.Finished(pod) || pod.Status.PodIP == "" || pod.Spec.NodeName == "" {
			continue
		}
		ports := resolve(svc, pod)
		for _, family := range families(svc) {
			addresses := addressesOf(pod, family)
			if len(addresses) == 0 {
				continue
			}
			key := portset.Key(family, ports)
			g := groups[key]
			if g == nil {
				g = &group{family: family, ports: ports, endpoints: map[string]member{}}
				groups[key] = g
			}
			g.endpoints[string(pod.UID)] = member{endpoint(svc, pod, addresses, zone(pod.Spec.NodeName)), changedAt(pod)}
		}
	}
	if len(groups) == 0 { // consumers see that the service is known and has nobody
		family := families(svc)[0]
		groups[portset.Key(family, nil)] = &group{family: family, endpoints: map[string]member{}}
	}

	var p plan
	existing := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range slicesNow {
		key := portset.Key(slice.AddressType, slice.Ports)
		if groups[key] == nil {
			p.remove = append(p.remove, slice)
			continue
		}
		existing[key] = append(existing[key], slice)
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		groups[key].place(svc, key, existing[key], &p)
	}
	return p
}

// families are those of a Service's addresses, the first one first.
func families(svc *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	for _, family := range svc.Spec.IPFamilies {
		out = append(out, discoveryv1.AddressType(family)) // both are called IPv4 and IPv6
	}
	if len(out) == 0 {
		out = append(out, discoveryv1.AddressTypeIPv4)
	}
	return out
}

func addressesOf(pod *corev1.Pod, family discoveryv1.AddressType) []string {
	all := pod.Status.PodIPs
	if len(all) == 0 {
		all = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	var out []string
	for _, one := range all {
		ip, err := netip.ParseAddr(one.IP)
		if err == nil && ip.Unmap().Is4() == (family == discoveryv1.AddressTypeIPv4) {
			out = append(out, ip.Unmap().String())
		}
	}
	return out
}

// group is the endpoints that share ports, by pod uid.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints map[string]member
}

// member is an endpoint and when its pod last became what it is.
type member struct {
	discoveryv1.Endpoint
	since time.Time
}

// place distributes the group over its existing slices and new ones.
func (g *group) place(svc *corev1.Service, key string, existing []*discoveryv1.EndpointSlice, p *plan) {
	slices.SortFunc(existing, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	left := maps.Clone(g.endpoints)
	kept := make([][]member, len(existing))
	for i, slice := range existing {
		for _, e := range slice.Endpoints {
			if e.TargetRef == nil {
				continue
			}
			uid := string(e.TargetRef.UID)
			if fresh, ok := left[uid]; ok {
				kept[i] = append(kept[i], fresh)
				delete(left, uid)
			}
		}
	}
	rest := slices.SortedFunc(maps.Values(left), func(a, b member) int {
		return cmp.Compare(a.TargetRef.Name, b.TargetRef.Name)
	})
	for i := range existing {
		n := min(len(rest), max(0, sliceSize-len(kept[i])))
		kept[i] = append(kept[i], rest[:n]...)
		rest = rest[n:]
	}
	names := map[string]bool{}
	for i, slice := range existing {
		names[slice.Name] = true
		if len(kept[i]) == 0 && i > 0 {
			p.remove = append(p.remove, slice)
			continue
		}
		if changed := g.revise(svc, slice, kept[i]); changed != nil {
			p.update = append(p.update, changed)
		}
	}
	for n := 0; len(rest) > 0 || len(existing) == 0 && n == 0; n++ {
		name := portset.Name(svc, key, n)
		if names[name] {
			continue
		}
		names[name] = true
		take := min(len(rest), sliceSize)
		p.create = append(p.create, g.newSlice(svc, name, rest[:take]))
		rest = rest[take:]
		if len(existing) == 0 && len(rest) == 0 {
			break
		}
	}
}

// revise returns a slice as it must be; nil if it is so already.
func (g *group) revise(svc *corev1.Service, slice *discoveryv1.EndpointSlice, members []member) *discoveryv1.EndpointSlice {
	before := make(map[string]*discoveryv1.Endpoint, len(slice.Endpoints))
	for i := range slice.Endpoints {
		if ref := slice.Endpoints[i].TargetRef; ref != nil {
			before[string(ref.UID)] = &slice.Endpoints[i]
		}
	}
	changed := len(members) != len(slice.Endpoints)
	var since time.Time // the first of the changes that have not been published
	for i := range members {
		have := before[string(members[i].TargetRef.UID)]
		if have != nil && equality.Semantic.DeepEqual(*have, members[i].Endpoint) {
			continue
		}
		changed = true
		if at := members[i].since; since.IsZero() || at.Before(since) {
			since = at
		}
	}
	labels := labelsOf(svc)
	if !changed && maps.Equal(labels, slice.Labels) && equality.Semantic.DeepEqual(g.ports, slice.Ports) {
		return nil
	}
	out := slice.DeepCopy()
	out.Labels, out.Ports, out.Endpoints = labels, g.ports, endpointsOf(members)
	trigger(out, since)
	return out
}

func endpointsOf(members []member) []discoveryv1.Endpoint {
	out := make([]discoveryv1.Endpoint, len(members))
	for i := range members {
		out[i] = members[i].Endpoint
	}
	return out
}

// trigger notes on a slice when what it publishes happened, by which proxies measure how
// long it took them to hear of it; nothing if that is not known.
func trigger(slice *discoveryv1.EndpointSlice, since time.Time) {
	if since.IsZero() {
		delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
		return
	}
	if slice.Annotations == nil {
		slice.Annotations = map[string]string{}
	}
	slice.Annotations[corev1.EndpointsLastChangeTriggerTime] = since.UTC().Format(time.RFC3339Nano)
}

// labelsOf are a Service's own, and those by which consumers find its slices.
func labelsOf(svc *corev1.Service) map[string]string {
	labels := maps.Clone(svc.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[discoveryv1.LabelServiceName] = svc.Name
	labels[discoveryv1.LabelManagedBy] = managedBy
	delete(labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return labels
}

func (g *group) newSlice(svc *corev1.Service, name string, members []member) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: name, Labels: labelsOf(svc),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, object.KindOf[*corev1.Service]().GVK)},
		},
		AddressType: g.family, Ports: g.ports, Endpoints: endpointsOf(members),
	}
	since := svc.CreationTimestamp.Time
	for i := range members {
		if at := members[i].since; at.After(svc.CreationTimestamp.Time) && (since.Equal(svc.CreationTimestamp.Time) || at.Before(since)) {
			since = at
		}
	}
	trigger(slice, since)
	return slice
}

// resolve finds the numbers behind the Service's target ports in a pod. A named
// port the pod does not have is left out.
func resolve(svc *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		number, ok := targetPort(port, pod)
		if !ok {
			continue
		}
		protocol := cmp.Or(port.Protocol, corev1.ProtocolTCP)
		out = append(out, discoveryv1.EndpointPort{
			Name: ptr.To(port.Name), Port: ptr.To(number), Protocol: &protocol, AppProtocol: port.AppProtocol,
		})
	}
	return out
}

func targetPort(port *corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		if n := port.TargetPort.IntVal; n != 0 {
			return n, true
		}
		return port.Port, true
	}
	called := func(c *corev1.Container) (int32, bool) {
		for _, p := range c.Ports {
			if p.Name == port.TargetPort.StrVal && cmp.Or(p.Protocol, corev1.ProtocolTCP) == cmp.Or(port.Protocol, corev1.ProtocolTCP) {
				return p.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range pod.Spec.Containers {
		if number, ok := called(&pod.Spec.Containers[i]); ok {
			return number, true
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if ptr.Deref(c.RestartPolicy, "") != corev1.ContainerRestartPolicyAlways {
			continue // it is over when the pod serves
		}
		if number, ok := called(c); ok {
			return number, true
		}
	}
	return 0, false
}

func endpoint(svc *corev1.Service, pod *corev1.Pod, addresses []string, zone string) discoveryv1.Endpoint {
	serving := podstate.Ready(pod)
	terminating := pod.DeletionTimestamp != nil
	ready := svc.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  addresses,
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		NodeName:   ptr.To(pod.Spec.NodeName),
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if zone != "" {
		e.Zone = &zone
	}
	if ready {
		e.Hints = hints(svc, pod.Spec.NodeName, zone)
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == svc.Name {
		e.Hostname = ptr.To(pod.Spec.Hostname)
	}
	return e
}

// hints say for whom an endpoint is near, where the Service prefers near ones.
func hints(svc *corev1.Service, node, zone string) *discoveryv1.EndpointHints {
	var out discoveryv1.EndpointHints
	switch ptr.Deref(svc.Spec.TrafficDistribution, "") {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		out.ForNodes = []discoveryv1.ForNode{{Name: node}}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if zone != "" {
		out.ForZones = []discoveryv1.ForZone{{Name: zone}}
	}
	if out.ForZones == nil && out.ForNodes == nil {
		return nil
	}
	return &out
}

// changedAt is when a pod last became ready, unready or terminating.
func changedAt(pod *corev1.Pod) time.Time {
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	if ready := podstate.Condition(pod, corev1.PodReady); ready != nil {
		return ready.LastTransitionTime.Time
	}
	return time.Time{}
}
