package endpointslice

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podstate"
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

// decide compares the pods a Service selects with its slices. It is pure.
//
// Pods with the same resolved ports share slices. An endpoint stays in the slice
// it is in, so that one pod's change touches one slice; slices are numbered within their
// group of ports, which makes a repeated create meet its own slice.
func decide(svc *corev1.Service, pods []*corev1.Pod, slicesNow []*discoveryv1.EndpointSlice) plan {
	groups := map[string]*group{}
	for _, pod := range pods {
		if podstate.Finished(pod) || pod.Status.PodIP == "" || pod.Spec.NodeName == "" {
			continue
		}
		ports := resolve(svc, pod)
		key := portsKey(ports)
		g := groups[key]
		if g == nil {
			g = &group{ports: ports, endpoints: map[string]discoveryv1.Endpoint{}}
			groups[key] = g
		}
		g.endpoints[string(pod.UID)] = endpoint(svc, pod)
	}
	if len(groups) == 0 { // consumers see that the service is known and has nobody
		groups[""] = &group{endpoints: map[string]discoveryv1.Endpoint{}}
	}

	var p plan
	existing := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range slicesNow {
		key := portsKey(slice.Ports)
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

// group is the endpoints that share ports, by pod uid.
type group struct {
	ports     []discoveryv1.EndpointPort
	endpoints map[string]discoveryv1.Endpoint
}

// place distributes the group over its existing slices and new ones.
func (g *group) place(svc *corev1.Service, key string, existing []*discoveryv1.EndpointSlice, p *plan) {
	slices.SortFunc(existing, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	left := maps.Clone(g.endpoints)
	kept := make([][]discoveryv1.Endpoint, len(existing))
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
	rest := slices.SortedFunc(maps.Values(left), func(a, b discoveryv1.Endpoint) int {
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
		want := newSlice(svc, slice.Name, g.ports, kept[i])
		changed := slice.DeepCopy()
		changed.Labels, changed.Endpoints, changed.Ports = want.Labels, want.Endpoints, want.Ports
		if !equality.Semantic.DeepEqual(changed, slice) {
			p.update = append(p.update, changed)
		}
	}
	for n := 0; len(rest) > 0 || len(existing) == 0 && n == 0; n++ {
		name := sliceName(svc, key, n)
		if names[name] {
			continue
		}
		names[name] = true
		take := min(len(rest), sliceSize)
		p.create = append(p.create, newSlice(svc, name, g.ports, rest[:take]))
		rest = rest[take:]
		if len(existing) == 0 && len(rest) == 0 {
			break
		}
	}
}

func sliceName(svc *corev1.Service, key string, n int) string {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s/%s/%d", svc.UID, key, n)
	return svc.Name + "-" + rand.SafeEncodeString(fmt.Sprintf("%08x", h.Sum32()))[:5]
}

func newSlice(svc *corev1.Service, name string, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	labels := maps.Clone(svc.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[discoveryv1.LabelServiceName] = svc.Name
	labels[discoveryv1.LabelManagedBy] = managedBy
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: name, Labels: labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, object.KindOf[*corev1.Service]().GVK)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       ports,
		Endpoints:   endpoints,
	}
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
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.Name == port.TargetPort.StrVal && cmp.Or(p.Protocol, corev1.ProtocolTCP) == cmp.Or(port.Protocol, corev1.ProtocolTCP) {
					return p.ContainerPort, true
				}
			}
		}
	}
	return 0, false
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	parts := make([]string, 0, len(ports))
	for _, p := range ports {
		parts = append(parts, fmt.Sprintf("%s/%s/%d/%s", ptr.Deref(p.Name, ""), ptr.Deref(p.Protocol, corev1.ProtocolTCP), ptr.Deref(p.Port, 0), ptr.Deref(p.AppProtocol, "")))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func endpoint(svc *corev1.Service, pod *corev1.Pod) discoveryv1.Endpoint {
	serving := podstate.Ready(pod)
	terminating := pod.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: []string{pod.Status.PodIP},
		Conditions: discoveryv1.EndpointConditions{
			Ready:       ptr.To(svc.Spec.PublishNotReadyAddresses || serving && !terminating),
			Serving:     ptr.To(serving),
			Terminating: ptr.To(terminating),
		},
		NodeName:  ptr.To(pod.Spec.NodeName),
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == svc.Name {
		e.Hostname = ptr.To(pod.Spec.Hostname)
	}
	return e
}
