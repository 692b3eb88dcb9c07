package server_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/addons/internal/dns/records"
	"kijabi.dev/addons/internal/dns/server"
)

// source holds services alone; names in it are of the namespace shop.
type source map[string]corev1.ServiceSpec

func (s source) Service(namespace, name string) (*corev1.Service, bool) {
	spec, ok := s[name]
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}, ok && namespace == "shop"
}

// Slices gives the headless service "many" 300 endpoints, too many for a datagram.
func (s source) Slices(_, service string) []*discoveryv1.EndpointSlice {
	if service != "many" {
		return nil
	}
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	for i := range 300 {
		address := netip.AddrFrom4([4]byte{10, 244, byte(i / 250), byte(i%250 + 1)})
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address.String()}})
	}
	return []*discoveryv1.EndpointSlice{slice}
}

func (s source) HasNamespace(namespace string) bool           { return namespace == "shop" }
func (s source) ServicesAt(string) []*corev1.Service          { return nil }
func (s source) SlicesAt(string) []*discoveryv1.EndpointSlice { return nil }
func external(name string) corev1.ServiceSpec {
	return corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: name}
}

var _ records.Source = source{}

// start runs a server on a loopback port until the test ends.
func start(t *testing.T, ready func() bool, upstream ...netip.AddrPort) netip.AddrPort {
	t.Helper()
	return startServer(t, ready, upstream...).Address()
}

func startServer(t *testing.T, ready func() bool, upstream ...netip.AddrPort) *server.Server {
	t.Helper()
	s := newServer(t, ready, upstream...)
	run(t, s.Run)
	return s
}

func newServer(t *testing.T, ready func() bool, upstream ...netip.AddrPort) *server.Server {
	t.Helper()
	s, err := server.New(t.Context(), server.Config{
		Address: netip.MustParseAddrPort("127.0.0.1:0"),
		Zone: records.NewZone(records.Config{
			Domain: "cluster.local", Server: netip.MustParseAddr("10.96.0.10"),
			Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		}),
		Source: source{
			"web":  {ClusterIP: "10.96.1.2", ClusterIPs: []string{"10.96.1.2"}},
			"many": {ClusterIP: corev1.ClusterIPNone},
			"away": external("db.example.com"), "near": external("web.shop.svc.cluster.local"),
			"tick": external("tock.shop.svc.cluster.local"), "tock": external("tick.shop.svc.cluster.local"),
		},
		Ready: ready, Upstream: upstream, Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs task until the test ends, and expects that it ends well.
func run(t *testing.T, task func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- task(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

// resolver is an upstream that knows example.com alone; asked counts questions.
func resolver(t *testing.T) (address netip.AddrPort, asked *atomic.Int64) {
	t.Helper()
	stream, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's own socket
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", stream.Addr().String()) //nolint:noctx // a test's own socket
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int64)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		reply := new(dns.Msg).SetRcode(r, dns.RcodeNameError)
		if name := r.Question[0].Name; dns.IsSubDomain("example.com.", name) {
			asked.Add(1)
			record, err := dns.NewRR(name + " 300 IN A 192.0.2.7")
			if err != nil {
				t.Error(err)
			}
			reply = new(dns.Msg).SetReply(r)
			reply.Answer = []dns.RR{record}
		}
		if err := w.WriteMsg(reply); err != nil {
			t.Error(err)
		}
	})
	for _, upstream := range []*dns.Server{{PacketConn: packets}, {Listener: stream}} {
		upstream.Handler = handler
		// The forwarder keeps connections open; the end of the test need not wait for them.
		upstream.IdleTimeout = func() time.Duration { return 50 * time.Millisecond }
		run(t, func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _, _ = packets.Close(), stream.Close() })()
			if err := upstream.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	return netip.MustParseAddrPort(packets.LocalAddr().String()), asked
}

func ask(t *testing.T, network string, at netip.AddrPort, name string, qtype uint16) *dns.Msg {
	t.Helper()
	client := &dns.Client{Net: network, Timeout: 10 * time.Second}
	reply, _, err := client.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion(name, qtype), at.String())
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return reply
}

func data(records []dns.RR) []string {
	var out []string
	for _, record := range records {
		out = append(out, dns.Field(record, 1))
	}
	return out
}

func yes() bool { return true }

func TestServerAnswers(t *testing.T) {
	upstream, asked := resolver(t)
	at := start(t, yes, upstream)
	for _, test := range []struct {
		name  string
		rcode int
		want  []string
	}{
		{"web.shop.svc.cluster.local.", dns.RcodeSuccess, []string{"10.96.1.2"}},
		{"gone.shop.svc.cluster.local.", dns.RcodeNameError, nil},
		{"near.shop.svc.cluster.local.", dns.RcodeSuccess, []string{"web.shop.svc.cluster.local.", "10.96.1.2"}},
		{"away.shop.svc.cluster.local.", dns.RcodeSuccess, []string{"db.example.com.", "192.0.2.7"}},
		{"www.example.com.", dns.RcodeSuccess, []string{"192.0.2.7"}},
		{"example.org.", dns.RcodeNameError, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			reply := ask(t, network, at, test.name, dns.TypeA)
			if reply.Rcode != test.rcode {
				t.Errorf("%s over %s: %s, want %s", test.name, network, dns.RcodeToString[reply.Rcode], dns.RcodeToString[test.rcode])
			}
			if diff := cmp.Diff(test.want, data(reply.Answer)); diff != "" {
				t.Errorf("%s over %s: %s", test.name, network, diff)
			}
			inside := dns.IsSubDomain("cluster.local.", test.name)
			if inside && test.rcode == dns.RcodeNameError && len(reply.Ns) != 1 {
				t.Errorf("%s over %s: a negative answer without its SOA", test.name, network)
			}
			if reply.Authoritative != inside {
				t.Errorf("%s over %s: authoritative is %t", test.name, network, reply.Authoritative)
			}
		}
	}
	if got := asked.Load(); got != 2 {
		t.Errorf("upstream was asked %d times for 4 questions about 2 names, want 2", got)
	}
}

func TestLongAnswersGoOverTCP(t *testing.T) {
	at := start(t, yes)
	const name = "many.shop.svc.cluster.local."
	if reply := ask(t, "udp", at, name, dns.TypeA); !reply.Truncated {
		t.Errorf("%d records in a datagram, not marked as truncated", len(reply.Answer))
	}
	reply := ask(t, "tcp", at, name, dns.TypeA)
	if len(reply.Answer) != 300 {
		t.Errorf("%d records over TCP, want 300", len(reply.Answer))
	}
	addresses := data(reply.Answer)
	slices.Sort(addresses)
	if got := len(slices.Compact(addresses)); got != 300 {
		t.Errorf("%d different addresses, want 300", got)
	}
}

func TestAliasCirclesEnd(t *testing.T) {
	reply := ask(t, "udp", start(t, yes), "tick.shop.svc.cluster.local.", dns.TypeA)
	if reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %s", dns.RcodeToString[reply.Rcode])
	}
}

func TestWithoutUpstreamNamesOutsideAreRefused(t *testing.T) {
	at := start(t, yes)
	if reply := ask(t, "udp", at, "example.com.", dns.TypeA); reply.Rcode != dns.RcodeRefused {
		t.Errorf("rcode %s", dns.RcodeToString[reply.Rcode])
	}
	reply := ask(t, "udp", at, "away.shop.svc.cluster.local.", dns.TypeA)
	if diff := cmp.Diff([]string{"db.example.com."}, data(reply.Answer)); diff != "" || reply.Rcode != dns.RcodeSuccess {
		t.Errorf("alias: %s, rcode %s", diff, dns.RcodeToString[reply.Rcode])
	}
}

func TestUpstreamCanChange(t *testing.T) {
	upstream, _ := resolver(t)
	s := startServer(t, yes)
	for _, test := range []struct {
		upstream []netip.AddrPort
		rcode    int
	}{{[]netip.AddrPort{upstream}, dns.RcodeSuccess}, {nil, dns.RcodeRefused}} {
		if err := s.SetUpstream(test.upstream); err != nil {
			t.Fatal(err)
		}
		if reply := ask(t, "udp", s.Address(), "www.example.com.", dns.TypeA); reply.Rcode != test.rcode {
			t.Errorf("rcode %s with %v", dns.RcodeToString[reply.Rcode], test.upstream)
		}
	}
}

func TestClusterNamesFailUntilReady(t *testing.T) {
	var ready atomic.Bool
	at := start(t, ready.Load)
	const name = "web.shop.svc.cluster.local."
	if reply := ask(t, "udp", at, name, dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %s before anything is known", dns.RcodeToString[reply.Rcode])
	}
	ready.Store(true)
	if reply := ask(t, "udp", at, name, dns.TypeA); reply.Rcode != dns.RcodeSuccess {
		t.Errorf("rcode %s when ready", dns.RcodeToString[reply.Rcode])
	}
}

// TestForwardingToItselfEnds points the server at its own address, as through a
// resolver on the host that asks us. The question must fail, not go round for ever.
func TestForwardingToItselfEnds(t *testing.T) {
	free, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // only to learn a free port
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(free.LocalAddr().String())
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), server.Config{
		Address: at, Upstream: []netip.AddrPort{at}, Ready: yes, Source: source{}, Log: zaptest.NewLogger(t),
		Zone: records.NewZone(records.Config{Domain: "cluster.local", Server: at.Addr()}),
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	if reply := ask(t, "udp", at, "example.com.", dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %s", dns.RcodeToString[reply.Rcode])
	}
}

// TestEndFinishesConnections ends the server while a question over TCP is half there.
func TestEndFinishesConnections(t *testing.T) {
	s := newServer(t, yes)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	conn, err := net.Dial("tcp", s.Address().String()) //nolint:noctx // a test's own socket
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	whole := &dns.Conn{Conn: conn}
	question := new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
	// The first question shows that the connection is accepted.
	if err := whole.WriteMsg(question); err != nil {
		t.Fatal(err)
	}
	if _, err := whole.ReadMsg(); err != nil {
		t.Fatal(err)
	}
	packed, err := question.Pack()
	if err != nil {
		t.Fatal(err)
	}
	framed := append([]byte{0, byte(len(packed))}, packed...)
	if _, err := conn.Write(framed[:10]); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := conn.Write(framed[10:]); err != nil {
		t.Fatal(err)
	}
	if reply, err := whole.ReadMsg(); err != nil || len(reply.Answer) != 1 {
		t.Errorf("answer %v, %v", reply, err)
	}
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestBusyPortIsAnError(t *testing.T) {
	at := start(t, yes)
	_, err := server.New(t.Context(), server.Config{
		Address: at, Ready: yes, Source: source{}, Log: zaptest.NewLogger(t),
		Zone: records.NewZone(records.Config{Domain: "cluster.local", Server: at.Addr()}),
	})
	if err == nil {
		t.Error("a second server on the same address was accepted")
	}
}

func TestUpstream(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	content := "# comment\nsearch example.com\nnameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n" +
		"nameserver 192.0.2.1\nnameserver nonsense\noptions ndots:5\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	own := netip.MustParseAddr("10.96.0.10")
	for _, test := range []struct {
		configured []string
		file       string
		want       []string
	}{
		{nil, file, []string{"192.0.2.1:53", "[2001:db8::1]:53"}},
		{nil, file + ".missing", nil},
		{[]string{"198.51.100.1:5353", "10.96.0.10"}, file, []string{"198.51.100.1:5353"}},
	} {
		list, err := server.Upstream(test.configured, test.file, own)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, address := range list {
			got = append(got, address.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%v: %s", test.configured, diff)
		}
	}
	if _, err := server.Upstream([]string{"dns.example.com"}, file, own); err == nil {
		t.Error("a name was accepted as a configured resolver")
	}
}
