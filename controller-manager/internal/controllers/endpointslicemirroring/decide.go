package endpointslicemirroring

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/portset"
	"kijabi.dev/platform/kube/object"
)

// These kinds are old, but programs that write them live on.
type (
	endpointsObject = corev1.Endpoints       //nolint:staticcheck // clients still have it
	address         = corev1.EndpointAddress //nolint:staticcheck // clients still have it
	port            = corev1.EndpointPort
)

const (
	// managedBy marks the slices this loop keeps.
	managedBy = "endpointslicemirroring-controller.k8s.io"
	// leaderAnnotation is on Endpoints that programs elect their leader by.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
	// most is the number of addresses of a subset that are mirrored, ready ones first, and
	// of those of a slice, as in Kubernetes.
	most = 1000
)

// plan is what the slices of Endpoints need done.
type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// mirrored tells whether Endpoints are somebody's word about where a service is: with a
// selector they follow from the slices.
func mirrored(e *endpointsObject, svc *corev1.Service) bool {
	_, election := e.Annotations[leaderAnnotation]
	return e.DeletionTimestamp == nil && e.Labels[discoveryv1.LabelSkipMirror] != "true" && !election && svc != nil && len(svc.Spec.Selector) == 0
}

// decide compares Endpoints, which are of the service svc if that is not nil, with the slices
// that were made of them. It is pure.
func decide(e *endpointsObject, svc *corev1.Service, now []*discoveryv1.EndpointSlice) plan {
	var p plan
	want := map[string]*discoveryv1.EndpointSlice{}
	if mirrored(e, svc) {
		want = wanted(e)
	}
	for _, slice := range now {
		fresh := want[slice.Name]
		if fresh == nil {
			p.remove = append(p.remove, slice)
			continue
		}
		delete(want, slice.Name)
		changed := slice.DeepCopy()
		changed.Labels, changed.Annotations, changed.Ports, changed.Endpoints = fresh.Labels, fresh.Annotations, fresh.Ports, fresh.Endpoints
		if !equality.Semantic.DeepEqual(changed, slice) {
			p.update = append(p.update, changed)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		p.create = append(p.create, want[name])
	}
	return p
}

// wanted makes slices by name: one for each set of ports and family of addresses.
func wanted(e *endpointsObject) map[string]*discoveryv1.EndpointSlice {
	out := map[string]*discoveryv1.EndpointSlice{}
	for i := range e.Subsets {
		subset := &e.Subsets[i]
		ports := portsOf(subset.Ports)
		left := most
		for _, some := range []struct {
			addresses []address
			ready     bool
		}{{subset.Addresses, true}, {subset.NotReadyAddresses, false}} {
			for j := range some.addresses {
				ip, err := netip.ParseAddr(some.addresses[j].IP)
				if err != nil || left == 0 {
					continue
				}
				left--
				family := discoveryv1.AddressTypeIPv4
				if ip = ip.Unmap(); !ip.Is4() {
					family = discoveryv1.AddressTypeIPv6
				}
				name := portset.Name(e, portset.Key(family, ports), 0)
				slice := out[name]
				if slice == nil {
					slice = newSlice(e, name, family, ports)
					out[name] = slice
				}
				if len(slice.Endpoints) < most {
					slice.Endpoints = append(slice.Endpoints, endpoint(&some.addresses[j], ip, some.ready))
				}
			}
		}
	}
	return out
}

func endpoint(a *address, ip netip.Addr, ready bool) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{
		Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: a.NodeName, TargetRef: a.TargetRef,
	}
	if a.Hostname != "" {
		out.Hostname = &a.Hostname
	}
	return out
}

func portsOf(ports []port) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for _, p := range ports {
		out = append(out, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol})
	}
	return out
}

func newSlice(e *endpointsObject, name string, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	labels := maps.Clone(e.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[discoveryv1.LabelServiceName], labels[discoveryv1.LabelManagedBy] = e.Name, managedBy
	annotations := maps.Clone(e.Annotations)
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, Name: name, Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(e, object.KindOf[*endpointsObject]().GVK)},
		},
		AddressType: family, Ports: ports,
	}
}
