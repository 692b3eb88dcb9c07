package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/portset"
)

// These kinds are old, but programs that read them live on.
type (
	endpointsObject = corev1.Endpoints       //nolint:staticcheck // clients still have it
	subset          = corev1.EndpointSubset  //nolint:staticcheck // clients still have it
	address         = corev1.EndpointAddress //nolint:staticcheck // clients still have it
	port            = corev1.EndpointPort
)

const (
	// capacity is the greatest number of addresses of one object.
	capacity = 1000
	// truncated is the value of the annotation that says there are more.
	truncated = "truncated"
	// managedByLabel marks the objects that this loop made, with managedBy.
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// decide returns the Endpoints of a Service as they must be, given its slices and the
// Endpoints that there are, which may be nil; nil if they are so already. It is pure.
func decide(svc *corev1.Service, published []*discoveryv1.EndpointSlice, now *endpointsObject) *endpointsObject {
	want := &endpointsObject{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name}}
	if now != nil {
		want = now.DeepCopy()
	}
	want.Labels = maps.Clone(svc.Labels)
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[managedByLabel] = managedBy
	delete(want.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		want.Labels[corev1.IsHeadlessService] = ""
	}
	subsets, since := collect(svc, published)
	subsets, more := truncate(subsets)
	want.Subsets = subsets
	if more {
		annotate(want, corev1.EndpointsOverCapacity, truncated)
	} else {
		delete(want.Annotations, corev1.EndpointsOverCapacity)
	}
	if now != nil && equality.Semantic.DeepEqual(now.Subsets, want.Subsets) && maps.Equal(now.Labels, want.Labels) && maps.Equal(now.Annotations, want.Annotations) {
		return nil
	}
	if since != "" {
		annotate(want, corev1.EndpointsLastChangeTriggerTime, since)
	} else {
		delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	}
	return want
}

func annotate(obj *endpointsObject, key, value string) {
	if obj.Annotations == nil {
		obj.Annotations = map[string]string{}
	}
	obj.Annotations[key] = value
}

// collect makes subsets of the slices of a Service's first family, and returns also when the
// last change of them happened, as they say it. Who terminates and serves nobody is left out:
// these objects have no word for it.
func collect(svc *corev1.Service, published []*discoveryv1.EndpointSlice) (subsets []subset, since string) {
	family := discoveryv1.AddressTypeIPv4
	if len(svc.Spec.IPFamilies) > 0 {
		family = discoveryv1.AddressType(svc.Spec.IPFamilies[0]) // both are called IPv4 and IPv6
	}
	byPorts := map[string]*subset{}
	for _, slice := range published {
		if slice.AddressType != family {
			continue
		}
		since = max(since, slice.Annotations[corev1.EndpointsLastChangeTriggerTime])
		key := portset.Key(family, slice.Ports)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			ready := ptr.Deref(e.Conditions.Ready, true)
			if len(e.Addresses) == 0 || !ready && ptr.Deref(e.Conditions.Terminating, false) {
				continue
			}
			s := byPorts[key]
			if s == nil {
				s = &subset{Ports: portsOf(slice.Ports)}
				byPorts[key] = s
			}
			one := address{IP: e.Addresses[0], Hostname: ptr.Deref(e.Hostname, ""), NodeName: e.NodeName, TargetRef: e.TargetRef}
			if ready {
				s.Addresses = append(s.Addresses, one)
			} else {
				s.NotReadyAddresses = append(s.NotReadyAddresses, one)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		s := byPorts[key]
		order := func(a, b address) int {
			return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(uidOf(a), uidOf(b)))
		}
		slices.SortFunc(s.Addresses, order)
		slices.SortFunc(s.NotReadyAddresses, order)
		subsets = append(subsets, *s)
	}
	return subsets, since
}

func uidOf(a address) string {
	if a.TargetRef == nil {
		return ""
	}
	return string(a.TargetRef.UID)
}

func portsOf(ports []discoveryv1.EndpointPort) []port {
	var out []port
	for _, p := range ports {
		out = append(out, port{
			Name: ptr.Deref(p.Name, ""), Port: ptr.Deref(p.Port, 0), Protocol: cmp.Or(ptr.Deref(p.Protocol, ""), corev1.ProtocolTCP), AppProtocol: p.AppProtocol,
		})
	}
	return out
}

// truncate leaves as many addresses as one object may have, ready ones first and of each
// subset in proportion, and tells whether there were more.
func truncate(subsets []subset) ([]subset, bool) {
	ready, unready := 0, 0
	for i := range subsets {
		ready, unready = ready+len(subsets[i].Addresses), unready+len(subsets[i].NotReadyAddresses)
	}
	if ready+unready <= capacity {
		return subsets, false
	}
	readyRoom := share(ready, min(ready, capacity))
	unreadyRoom := share(unready, max(0, capacity-ready))
	var out []subset
	for _, s := range subsets {
		s.Addresses = s.Addresses[:readyRoom(len(s.Addresses))]
		s.NotReadyAddresses = s.NotReadyAddresses[:unreadyRoom(len(s.NotReadyAddresses))]
		if len(s.Addresses)+len(s.NotReadyAddresses) > 0 {
			out = append(out, s)
		}
	}
	return out, true
}

// share divides room for `most` among parts of a whole, in proportion and rounded up while
// there is room.
func share(whole, most int) func(part int) int {
	left := most
	return func(part int) int {
		if whole == 0 {
			return 0
		}
		take := min((part*most+whole-1)/whole, left, part)
		left -= take
		return take
	}
}

// count is the number of addresses of an object.
func count(e *endpointsObject) int {
	n := 0
	for i := range e.Subsets {
		n += len(e.Subsets[i].Addresses) + len(e.Subsets[i].NotReadyAddresses)
	}
	return n
}
