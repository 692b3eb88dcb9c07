package rpcapi

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kube-proxy/internal/services"
	proxyv1pb "kijabi.dev/proto/gen/kijabi/proxy/v1"
)

type state map[services.Front]services.Frontend

func (s state) Lookup(f services.Front) (services.Frontend, bool) {
	found, ok := s[f]
	return found, ok
}
func (state) Programmed() time.Time { return time.Unix(1000, 0) }

func TestTrace(t *testing.T) {
	front := func(address string, endpoints ...string) services.Frontend {
		ap := netip.MustParseAddrPort(address)
		f := services.Frontend{
			Front:   services.Front{Address: ap.Addr(), Protocol: services.TCP, Port: ap.Port()},
			Service: types.NamespacedName{Namespace: "default", Name: "web"}, PortName: "http",
		}
		for _, ep := range endpoints {
			f.Endpoints = append(f.Endpoints, services.Endpoint{Target: netip.MustParseAddrPort(ep)})
		}
		return f
	}
	known := state{}
	for _, f := range []services.Frontend{
		front("10.96.0.20:80", "10.244.1.2:8080", "10.244.2.2:8080"), front("10.96.0.21:80"),
		front("0.0.0.0:30080", "10.244.1.2:8080"), front("10.96.0.10:53", "10.244.1.9:53"),
	} {
		known[f.Front] = f
	}
	s := NewProxyService(Config{
		State: known, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		LocalAddresses: func() ([]net.Addr, error) {
			var out []net.Addr
			for _, ip := range []string{"127.0.0.1", "192.168.50.1", "10.96.0.10"} {
				out = append(out, &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(32, 32)})
			}
			return out, nil
		},
	})
	for name, test := range map[string]struct {
		address string
		port    uint32
		want    *proxyv1pb.TraceResponse
	}{
		"service": {"10.96.0.20", 80, &proxyv1pb.TraceResponse{
			Service: "default/web:http", Endpoints: []string{"10.244.1.2:8080", "10.244.2.2:8080"}, Action: "forward"}},
		"no endpoints": {"10.96.0.21", 80, &proxyv1pb.TraceResponse{Service: "default/web:http", Action: "reject"}},
		"no service":   {"10.96.0.20", 81, &proxyv1pb.TraceResponse{Action: "reject"}},
		"node port": {"192.168.50.1", 30080, &proxyv1pb.TraceResponse{
			Service: "default/web:http", Endpoints: []string{"10.244.1.2:8080"}, Action: "forward"}},
		"loopback":        {"127.0.0.1", 30080, &proxyv1pb.TraceResponse{Action: "none"}},
		"other machine":   {"192.168.50.2", 30080, &proxyv1pb.TraceResponse{Action: "none"}},
		"served by lo":    {"10.96.0.10", 53, &proxyv1pb.TraceResponse{Action: "none"}},
		"somewhere else":  {"198.51.100.1", 80, &proxyv1pb.TraceResponse{Action: "none"}},
		"mapped into ip6": {"::ffff:10.96.0.21", 80, &proxyv1pb.TraceResponse{Service: "default/web:http", Action: "reject"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.want.Programmed = timestamppb.New(time.Unix(1000, 0))
			got, err := s.Trace(t.Context(), &proxyv1pb.TraceRequest{Address: test.address, Protocol: "TCP", Port: test.port})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
	for name, req := range map[string]*proxyv1pb.TraceRequest{
		"address": {Address: "web", Protocol: "TCP", Port: 80}, "protocol": {Address: "10.96.0.20", Protocol: "tcp", Port: 80},
		"port": {Address: "10.96.0.20", Protocol: "TCP", Port: 65536},
	} {
		if _, err := s.Trace(t.Context(), req); !apierrors.IsBadRequest(err) {
			t.Errorf("bad %s: got %v, want a bad request", name, err)
		}
	}
}
