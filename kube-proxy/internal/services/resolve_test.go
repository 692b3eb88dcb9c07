package services

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pointer[T any](v T) *T { return &v }

func service(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	for _, c := range change {
		c(svc)
	}
	return svc
}

func slice(name, svc string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: pointer("http"), Protocol: pointer(corev1.ProtocolTCP), Port: pointer(int32(8080))}},
		Endpoints:   endpoints,
	}
}

// endpoint takes states such as "ready", "not ready", "draining" (terminating, still
// serving) and "dead" (terminating, not serving).
func endpoint(ip, node, state string) discoveryv1.Endpoint {
	ep := discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node}
	switch state {
	case "ready":
		ep.Conditions = discoveryv1.EndpointConditions{Ready: pointer(true)}
	case "unknown":
	case "not ready":
		ep.Conditions = discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(false)}
	case "draining":
		ep.Conditions = discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(true), Terminating: pointer(true)}
	case "dead":
		ep.Conditions = discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(false), Terminating: pointer(true)}
	default:
		panic(state)
	}
	return ep
}

func nodePort(p int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, p
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// describe prints frontends so that a table can hold them.
func describe(list []Frontend) []string {
	var out []string
	for _, f := range list {
		text := fmt.Sprintf("%s/%s:%d", f.Protocol, f.Address, f.Port)
		show := func(eps []Endpoint) {
			for _, ep := range eps {
				text += " " + ep.Target.String()
				if ep.Local {
					text += "(local)"
				}
			}
		}
		show(f.Endpoints)
		if f.Otherwise == Drop {
			text += " else drop"
		}
		if f.SplitInside {
			text += " inside"
			show(f.Inside)
		}
		if f.Sticky {
			text += " sticky"
		}
		out = append(out, text)
	}
	return out
}

func TestResolve(t *testing.T) {
	here, there := endpoint("10.244.1.2", "me", "ready"), endpoint("10.244.2.2", "other", "ready")
	for name, test := range map[string]struct {
		svc    *corev1.Service
		slices []*discoveryv1.EndpointSlice
		want   []string
	}{
		"cluster address": {
			service("a", "10.96.0.20"), []*discoveryv1.EndpointSlice{slice("a-1", "a", there, here)},
			[]string{"TCP/10.96.0.20:80 10.244.1.2:8080(local) 10.244.2.2:8080"},
		},
		"headless":      {service("a", corev1.ClusterIPNone), []*discoveryv1.EndpointSlice{slice("a-1", "a", here)}, nil},
		"no address":    {service("a", ""), []*discoveryv1.EndpointSlice{slice("a-1", "a", here)}, nil},
		"external name": {service("a", "", func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "x.org" }), nil, nil},
		"no endpoints":  {service("a", "10.96.0.20"), nil, []string{"TCP/10.96.0.20:80"}},
		"readiness": {
			service("a", "10.96.0.20"), []*discoveryv1.EndpointSlice{slice("a-1", "a", endpoint("10.244.1.2", "me", "not ready"),
				endpoint("10.244.1.3", "me", "draining"), endpoint("10.244.1.4", "me", "unknown"))},
			[]string{"TCP/10.96.0.20:80 10.244.1.4:8080(local)"},
		},
		"only draining ones left": {
			service("a", "10.96.0.20"), []*discoveryv1.EndpointSlice{slice("a-1", "a", endpoint("10.244.1.2", "me", "not ready"),
				endpoint("10.244.1.3", "me", "draining"), endpoint("10.244.1.4", "me", "dead"))},
			[]string{"TCP/10.96.0.20:80 10.244.1.3:8080(local)"},
		},
		"two slices, one endpoint twice": {
			service("a", "10.96.0.20"), []*discoveryv1.EndpointSlice{slice("a-1", "a", here), slice("a-2", "a", here, there)},
			[]string{"TCP/10.96.0.20:80 10.244.1.2:8080(local) 10.244.2.2:8080"},
		},
		"other port name": {
			service("a", "10.96.0.20", func(s *corev1.Service) { s.Spec.Ports[0].Name = "admin" }),
			[]*discoveryv1.EndpointSlice{slice("a-1", "a", here)}, []string{"TCP/10.96.0.20:80"},
		},
		"two protocols on one port": {
			service("a", "10.96.0.20", func(s *corev1.Service) {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolUDP, Port: 80})
			}),
			[]*discoveryv1.EndpointSlice{slice("a-1", "a", here)}, []string{"TCP/10.96.0.20:80 10.244.1.2:8080(local)", "UDP/10.96.0.20:80"},
		},
		"node port": {
			service("a", "10.96.0.20", nodePort(30080)), []*discoveryv1.EndpointSlice{slice("a-1", "a", there)},
			[]string{"TCP/10.96.0.20:80 10.244.2.2:8080", "TCP/0.0.0.0:30080 10.244.2.2:8080"},
		},
		"node port, policy local": {
			service("a", "10.96.0.20", nodePort(30080), externalLocal), []*discoveryv1.EndpointSlice{slice("a-1", "a", here, there)},
			[]string{
				"TCP/10.96.0.20:80 10.244.1.2:8080(local) 10.244.2.2:8080",
				"TCP/0.0.0.0:30080 10.244.1.2:8080(local) else drop inside 10.244.1.2:8080(local) 10.244.2.2:8080",
			},
		},
		"policy local, a draining local one beside ready ones elsewhere": {
			service("a", "10.96.0.20", nodePort(30080), externalLocal),
			[]*discoveryv1.EndpointSlice{slice("a-1", "a", endpoint("10.244.1.2", "me", "draining"), there)},
			[]string{
				"TCP/10.96.0.20:80 10.244.2.2:8080",
				"TCP/0.0.0.0:30080 10.244.1.2:8080(local) else drop inside 10.244.2.2:8080",
			},
		},
		"policy local, nobody anywhere": {
			service("a", "10.96.0.20", nodePort(30080), externalLocal), nil,
			[]string{"TCP/10.96.0.20:80", "TCP/0.0.0.0:30080 inside"},
		},
		"internal policy local": {
			service("a", "10.96.0.20", nodePort(30080), func(s *corev1.Service) {
				s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
			}), []*discoveryv1.EndpointSlice{slice("a-1", "a", here, there)},
			[]string{"TCP/10.96.0.20:80 10.244.1.2:8080(local)", "TCP/0.0.0.0:30080 10.244.1.2:8080(local) 10.244.2.2:8080"},
		},
		"external and balancer addresses": {
			service("a", "10.96.0.20", func(s *corev1.Service) {
				s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeLoadBalancer, []string{"203.0.113.1"}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"},
					{IP: "203.0.113.3", IPMode: pointer(corev1.LoadBalancerIPModeProxy)}, {Hostname: "x.org"}}
			}), []*discoveryv1.EndpointSlice{slice("a-1", "a", there)},
			[]string{"TCP/10.96.0.20:80 10.244.2.2:8080", "TCP/203.0.113.1:80 10.244.2.2:8080", "TCP/203.0.113.2:80 10.244.2.2:8080"},
		},
		"session affinity": {
			service("a", "10.96.0.20", nodePort(30080), func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }),
			nil, []string{"TCP/10.96.0.20:80 sticky", "TCP/0.0.0.0:30080 sticky"},
		},
		"both families": {
			service("a", "10.96.0.20", nodePort(30080), func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.20", "fd00::20"} }),
			[]*discoveryv1.EndpointSlice{slice("a-1", "a", there), func() *discoveryv1.EndpointSlice {
				s := slice("a-2", "a", endpoint("fd01::2", "me", "ready"))
				s.AddressType = discoveryv1.AddressTypeIPv6
				return s
			}()},
			[]string{
				"TCP/10.96.0.20:80 10.244.2.2:8080", "TCP/0.0.0.0:30080 10.244.2.2:8080",
				"TCP/fd00::20:80 [fd01::2]:8080(local)", "TCP/:::30080 [fd01::2]:8080(local)",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, describe(Resolve(test.svc, test.slices, "me"))); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

func TestTable(t *testing.T) {
	table := NewTable("me")
	key := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "default", Name: name} }
	want := func(expected map[string][]string) {
		t.Helper()
		got := map[string][]string{}
		for k, list := range table.Changes() {
			got[k.Name] = describe(list)
		}
		if diff := cmp.Diff(expected, got); diff != "" {
			t.Errorf("want -, got +\n%s", diff)
		}
	}

	first := slice("a-1", "a", endpoint("10.244.1.2", "me", "ready"))
	table.SetSlice(nil, first) // before its service is known
	table.SetService(service("b", "10.96.0.21"))
	want(map[string][]string{"a": nil, "b": {"TCP/10.96.0.21:80"}})
	table.SetService(service("a", "10.96.0.20"))
	want(map[string][]string{"a": {"TCP/10.96.0.20:80 10.244.1.2:8080(local)"}})
	want(map[string][]string{})

	moved := first.DeepCopy()
	moved.Labels[discoveryv1.LabelServiceName] = "b"
	table.SetSlice(first, moved) // a slice that changes its service touches both
	want(map[string][]string{"a": {"TCP/10.96.0.20:80"}, "b": {"TCP/10.96.0.21:80 10.244.1.2:8080(local)"}})
	table.SetSlice(moved, nil)
	want(map[string][]string{"b": {"TCP/10.96.0.21:80"}})

	// An address that two services claim belongs to the first until it lets go.
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.1"} }
	table.SetService(service("c", "10.96.0.22", external))
	want(map[string][]string{"c": {"TCP/10.96.0.22:80", "TCP/203.0.113.1:80"}})
	table.SetService(service("a", "10.96.0.20", external))
	want(map[string][]string{"a": {"TCP/10.96.0.20:80"}})
	table.DeleteService(key("c"))
	want(map[string][]string{"a": {"TCP/10.96.0.20:80", "TCP/203.0.113.1:80"}, "c": nil})

	if f, ok := table.Lookup(Front{Address: table.All()[key("a")][1].Address, Protocol: TCP, Port: 80}); !ok || f.Service != key("a") {
		t.Errorf("lookup: got %+v, %v", f, ok)
	}
	if _, ok := table.Lookup(Front{Protocol: TCP, Port: 80}); ok {
		t.Error("lookup finds what is not there")
	}
}
