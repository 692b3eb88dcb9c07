package records_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/miekg/dns"

	"kijabi.dev/addons/internal/dns/records"
)

// fixture is a Source over plain lists.
type fixture struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

var _ records.Source = fixture{}

func (f fixture) Service(namespace, name string) (*corev1.Service, bool) {
	for _, s := range f.services {
		if s.Namespace == namespace && s.Name == name {
			return s, true
		}
	}
	return nil, false
}

func (f fixture) Slices(namespace, service string) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, s := range f.slices {
		if s.Namespace == namespace && s.Labels[discoveryv1.LabelServiceName] == service {
			out = append(out, s)
		}
	}
	return out
}

func (f fixture) HasNamespace(namespace string) bool {
	return slices.ContainsFunc(f.services, func(s *corev1.Service) bool { return s.Namespace == namespace })
}

func (f fixture) ServicesAt(address string) []*corev1.Service {
	var out []*corev1.Service
	for _, s := range f.services {
		if slices.Contains(s.Spec.ClusterIPs, address) {
			out = append(out, s)
		}
	}
	return out
}

func (f fixture) SlicesAt(address string) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, s := range f.slices {
		for _, e := range s.Endpoints {
			if slices.Contains(e.Addresses, address) {
				out = append(out, s)
			}
		}
	}
	return out
}

func service(name string, ips []string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips, Ports: ports},
	}
}

func slice(service string, family discoveryv1.AddressType, port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	name, protocol := "peer", corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: service + "-" + string(family),
			Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}},
		Endpoints:   endpoints,
	}
}

func endpoint(address, hostname string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

// cluster holds one service of each sort.
func cluster() fixture {
	return fixture{
		services: []*corev1.Service{
			service("web", []string{"10.96.1.2", "fd00::1:2"},
				corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80},
				corev1.ServicePort{Protocol: corev1.ProtocolUDP, Port: 53}),
			service("db", []string{"None"}),
			service("idle", []string{"None"}),
			{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "away"},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com"},
			},
		},
		slices: []*discoveryv1.EndpointSlice{
			slice("web", discoveryv1.AddressTypeIPv4, 8080, endpoint("10.244.1.9", "", true)),
			slice("db", discoveryv1.AddressTypeIPv4, 5432,
				endpoint("10.244.2.4", "", true), endpoint("10.244.1.3", "db-0", true),
				endpoint("10.244.1.4", "db-1", false), endpoint("192.168.7.7", "db-2", true)),
			slice("db", discoveryv1.AddressTypeIPv6, 5433, endpoint("fd00:244::3", "db-0", true)),
			slice("idle", discoveryv1.AddressTypeIPv4, 1, endpoint("10.244.3.3", "", false)),
		},
	}
}

func zone() *records.Zone {
	return records.NewZone(records.Config{
		Domain: "cluster.local",
		Server: netip.MustParseAddr("10.96.0.10"),
		Ranges: []netip.Prefix{
			netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/108"),
		},
	})
}

// text spells a record on one line without its TTL and class.
func text(list []dns.RR) []string {
	var out []string
	for _, record := range list {
		fields := strings.Fields(record.String())
		out = append(out, strings.Join(append([]string{fields[0]}, fields[3:]...), " "))
	}
	return out
}

func TestAnswers(t *testing.T) {
	const nx, ok = dns.RcodeNameError, dns.RcodeSuccess
	for _, test := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
		extra []string
	}{
		// The domain itself.
		{"dns-version.cluster.local.", dns.TypeTXT, ok, []string{`dns-version.cluster.local. TXT "1.1.0"`}, nil},
		{"dns-version.cluster.local.", dns.TypeA, ok, nil, nil},
		{"cluster.local.", dns.TypeSOA, ok, []string{"cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"}, nil},
		{"cluster.local.", dns.TypeNS, ok, []string{"cluster.local. NS ns.dns.cluster.local."}, []string{"ns.dns.cluster.local. A 10.96.0.10"}},
		{"cluster.local.", dns.TypeA, ok, nil, nil},
		{"ns.dns.cluster.local.", dns.TypeA, ok, []string{"ns.dns.cluster.local. A 10.96.0.10"}, nil},
		{"dns.cluster.local.", dns.TypeA, ok, nil, nil},
		{"nothing.cluster.local.", dns.TypeA, nx, nil, nil},
		{"svc.cluster.local.", dns.TypeA, ok, nil, nil},
		{"shop.svc.cluster.local.", dns.TypeA, ok, nil, nil},
		{"void.svc.cluster.local.", dns.TypeA, nx, nil, nil},

		// A service with cluster addresses.
		{"web.shop.svc.cluster.local.", dns.TypeA, ok, []string{"web.shop.svc.cluster.local. A 10.96.1.2"}, nil},
		{"WEB.Shop.svc.cluster.LOCAL.", dns.TypeA, ok, []string{"WEB.Shop.svc.cluster.LOCAL. A 10.96.1.2"}, nil},
		{"web.shop.svc.cluster.local.", dns.TypeAAAA, ok, []string{"web.shop.svc.cluster.local. AAAA fd00::1:2"}, nil},
		{"web.shop.svc.cluster.local.", dns.TypeMX, ok, nil, nil},
		{"web.void.svc.cluster.local.", dns.TypeA, nx, nil, nil},
		{"gone.shop.svc.cluster.local.", dns.TypeA, nx, nil, nil},
		{"host.web.shop.svc.cluster.local.", dns.TypeA, nx, nil, nil},
		{
			"_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, ok,
			[]string{"_http._tcp.web.shop.svc.cluster.local. SRV 0 100 80 web.shop.svc.cluster.local."},
			[]string{"web.shop.svc.cluster.local. A 10.96.1.2", "web.shop.svc.cluster.local. AAAA fd00::1:2"},
		},
		{"_http._tcp.web.shop.svc.cluster.local.", dns.TypeA, ok, nil, nil},
		{"_tcp.web.shop.svc.cluster.local.", dns.TypeSRV, ok, nil, nil},
		{"_udp.web.shop.svc.cluster.local.", dns.TypeSRV, nx, nil, nil}, // its only port has no name
		{"_http._udp.web.shop.svc.cluster.local.", dns.TypeSRV, nx, nil, nil},
		{"_x._http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, nx, nil, nil},

		// A headless service: its ready endpoints.
		{
			"db.shop.svc.cluster.local.", dns.TypeA, ok,
			[]string{"db.shop.svc.cluster.local. A 10.244.1.3", "db.shop.svc.cluster.local. A 10.244.2.4", "db.shop.svc.cluster.local. A 192.168.7.7"}, nil,
		},
		{"db.shop.svc.cluster.local.", dns.TypeAAAA, ok, []string{"db.shop.svc.cluster.local. AAAA fd00:244::3"}, nil},
		{"db-0.db.shop.svc.cluster.local.", dns.TypeA, ok, []string{"db-0.db.shop.svc.cluster.local. A 10.244.1.3"}, nil},
		{"db-1.db.shop.svc.cluster.local.", dns.TypeA, nx, nil, nil}, // not ready
		{"10-244-2-4.db.shop.svc.cluster.local.", dns.TypeA, ok, []string{"10-244-2-4.db.shop.svc.cluster.local. A 10.244.2.4"}, nil},
		{"10-244-2-4.db.shop.svc.cluster.local.", dns.TypeAAAA, ok, nil, nil},
		{
			"_peer._tcp.db.shop.svc.cluster.local.", dns.TypeSRV, ok,
			[]string{
				"_peer._tcp.db.shop.svc.cluster.local. SRV 0 25 5432 db-0.db.shop.svc.cluster.local.",
				"_peer._tcp.db.shop.svc.cluster.local. SRV 0 25 5432 10-244-2-4.db.shop.svc.cluster.local.",
				"_peer._tcp.db.shop.svc.cluster.local. SRV 0 25 5432 db-2.db.shop.svc.cluster.local.",
				"_peer._tcp.db.shop.svc.cluster.local. SRV 0 25 5433 db-0.db.shop.svc.cluster.local.",
			},
			[]string{
				"db-0.db.shop.svc.cluster.local. A 10.244.1.3", "10-244-2-4.db.shop.svc.cluster.local. A 10.244.2.4",
				"db-2.db.shop.svc.cluster.local. A 192.168.7.7", "db-0.db.shop.svc.cluster.local. AAAA fd00:244::3",
			},
		},
		{"idle.shop.svc.cluster.local.", dns.TypeA, nx, nil, nil}, // no endpoint is ready

		// An external name.
		{"away.shop.svc.cluster.local.", dns.TypeA, ok, []string{"away.shop.svc.cluster.local. CNAME db.example.com."}, nil},
		{"away.shop.svc.cluster.local.", dns.TypeCNAME, ok, []string{"away.shop.svc.cluster.local. CNAME db.example.com."}, nil},
		{"x.away.shop.svc.cluster.local.", dns.TypeA, nx, nil, nil},

		// Pods.
		{"10-244-1-7.shop.pod.cluster.local.", dns.TypeA, ok, []string{"10-244-1-7.shop.pod.cluster.local. A 10.244.1.7"}, nil},
		{"10-244-1-7.shop.pod.cluster.local.", dns.TypeAAAA, ok, nil, nil},
		{"fd00--7.shop.pod.cluster.local.", dns.TypeAAAA, ok, []string{"fd00--7.shop.pod.cluster.local. AAAA fd00::7"}, nil},
		{"10-244-1-777.shop.pod.cluster.local.", dns.TypeA, nx, nil, nil},
		{"shop.pod.cluster.local.", dns.TypeA, ok, nil, nil},
		{"x.10-244-1-7.shop.pod.cluster.local.", dns.TypeA, nx, nil, nil},

		// Reverse names.
		{"2.1.96.10.in-addr.arpa.", dns.TypePTR, ok, []string{"2.1.96.10.in-addr.arpa. PTR web.shop.svc.cluster.local."}, nil},
		{"2.1.96.10.in-addr.arpa.", dns.TypeA, ok, nil, nil},
		{"3.1.96.10.in-addr.arpa.", dns.TypePTR, nx, nil, nil},
		{"3.1.244.10.in-addr.arpa.", dns.TypePTR, ok, []string{"3.1.244.10.in-addr.arpa. PTR db-0.db.shop.svc.cluster.local."}, nil},
		{"9.1.244.10.in-addr.arpa.", dns.TypePTR, nx, nil, nil}, // behind a cluster address, so it has no name
		{"7.7.168.192.in-addr.arpa.", dns.TypePTR, ok, []string{"7.7.168.192.in-addr.arpa. PTR db-2.db.shop.svc.cluster.local."}, nil},
		{
			"2.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, ok,
			[]string{"2.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR web.shop.svc.cluster.local."}, nil,
		},
	} {
		t.Run(test.name+dns.TypeToString[test.qtype], func(t *testing.T) {
			if !zone().Owns(cluster(), test.name) {
				t.Fatal("the zone does not own the name")
			}
			got := zone().Answer(cluster(), test.name, test.qtype)
			if got.Rcode != test.rcode {
				t.Errorf("rcode %s, want %s", dns.RcodeToString[got.Rcode], dns.RcodeToString[test.rcode])
			}
			if diff := cmp.Diff(test.want, text(got.Records)); diff != "" {
				t.Errorf("records: %s", diff)
			}
			if diff := cmp.Diff(test.extra, text(got.Extra)); diff != "" {
				t.Errorf("extra: %s", diff)
			}
			for _, record := range slices.Concat(got.Records, got.Extra, []dns.RR{got.Authority}) {
				if record.Header().Ttl != records.TTL {
					t.Errorf("%s: ttl is not %d", record, records.TTL)
				}
			}
			if !dns.IsSubDomain(got.Authority.Header().Name, test.name) {
				t.Errorf("authority %s is not above the name", got.Authority.Header().Name)
			}
		})
	}
}

func TestAliasIsToBeFollowed(t *testing.T) {
	for qtype, want := range map[uint16]string{dns.TypeA: "db.example.com.", dns.TypeAAAA: "db.example.com.", dns.TypeCNAME: ""} {
		if got := zone().Answer(cluster(), "away.shop.svc.cluster.local.", qtype).Alias; got != want {
			t.Errorf("%s: alias %q, want %q", dns.TypeToString[qtype], got, want)
		}
	}
}

func TestOthersNamesAreNotOwned(t *testing.T) {
	for _, name := range []string{
		"example.com.", "local.", "xcluster.local.", "8.8.8.8.in-addr.arpa.", "96.10.in-addr.arpa.",
		"1.2.3.4.5.in-addr.arpa.", "x.1.96.10.in-addr.arpa.", "7.ip6.arpa.",
	} {
		if zone().Owns(cluster(), name) {
			t.Errorf("%s is owned", name)
		}
	}
}

// FuzzAnswer sees that no name makes the zone panic or answer without authority.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.shop.svc.cluster.local.", "_a._tcp.db.shop.svc.cluster.local.", "1-2-3-4.x.pod.cluster.local.", "4.3.96.10.in-addr.arpa."} {
		f.Add(name, dns.TypeA)
	}
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		name = dns.Fqdn(name)
		if _, valid := dns.IsDomainName(name); !valid || !zone().Owns(cluster(), name) {
			return
		}
		answer := zone().Answer(cluster(), name, qtype)
		if answer.Authority == nil || (answer.Rcode != dns.RcodeSuccess && len(answer.Records) > 0) {
			t.Errorf("%q: %+v", name, answer)
		}
	})
}
