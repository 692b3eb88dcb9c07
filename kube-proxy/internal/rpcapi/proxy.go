// Package rpcapi serves kube-proxy's own gRPC service.
package rpcapi

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/kube-proxy/internal/services"
	proxyv1pb "kijabi.dev/proto/gen/kijabi/proxy/v1"
)

// State is what the handlers ask.
type State interface {
	// Lookup finds the frontend of an address.
	Lookup(front services.Front) (services.Frontend, bool)
	// Programmed says when the data plane last took an update; zero means never.
	Programmed() time.Time
}

// ProxyService serves kijabi.proxy.v1.ProxyService.
type ProxyService struct {
	proxyv1pb.UnsafeProxyServiceServer // a new RPC must not compile without a handler

	cfg Config
}

var _ proxyv1pb.ProxyServiceServer = (*ProxyService)(nil)

// Config configures the service; every field is required.
type Config struct {
	State State
	// ServiceCIDRs are the ranges whose unmatched addresses are refused.
	ServiceCIDRs []netip.Prefix
	// LocalAddresses lists the machine's addresses; net.InterfaceAddrs outside tests.
	LocalAddresses func() ([]net.Addr, error)
}

// NewProxyService returns the handlers.
func NewProxyService(cfg Config) *ProxyService { return &ProxyService{cfg: cfg} }

// What happens to a connection.
const (
	actionForward = "forward"
	actionReject  = "reject"
	actionNone    = "none"
)

// Trace says where a connection from outside the cluster, or to a cluster address from
// anywhere, would go.
func (s *ProxyService) Trace(_ context.Context, req *proxyv1pb.TraceRequest) (*proxyv1pb.TraceResponse, error) {
	front, err := frontOf(req)
	if err != nil {
		return nil, err
	}
	local, err := s.isLocal(front.Address)
	if err != nil {
		return nil, err
	}
	out := &proxyv1pb.TraceResponse{Action: actionNone}
	if at := s.cfg.State.Programmed(); !at.IsZero() {
		out.Programmed = timestamppb.New(at)
	}
	cluster := s.inServiceRange(front.Address)
	if local && cluster {
		return out, nil // the machine serves it itself
	}
	found, ok := s.cfg.State.Lookup(front)
	if !ok && local && !front.Address.IsLoopback() {
		nodePort := netip.IPv4Unspecified()
		if front.Address.Is6() {
			nodePort = netip.IPv6Unspecified()
		}
		front.Address = nodePort
		found, ok = s.cfg.State.Lookup(front)
	}
	switch {
	case !ok && cluster:
		out.Action = actionReject
	case ok:
		out.Service = found.Service.String() + ":" + found.PortName
		out.Action = actionForward
		for _, ep := range found.Endpoints {
			out.Endpoints = append(out.Endpoints, ep.Target.String())
		}
		if len(found.Endpoints) == 0 {
			out.Action = actionReject
		}
	}
	return out, nil
}

func frontOf(req *proxyv1pb.TraceRequest) (services.Front, error) {
	address, err := netip.ParseAddr(req.GetAddress())
	if err != nil || address.IsUnspecified() {
		return services.Front{}, apierrors.NewBadRequest(fmt.Sprintf("address %q is not an IP address of a destination", req.GetAddress()))
	}
	if req.GetPort() < 1 || req.GetPort() > 65535 {
		return services.Front{}, apierrors.NewBadRequest(fmt.Sprintf("port %d is not between 1 and 65535", req.GetPort()))
	}
	for _, p := range []services.Protocol{services.TCP, services.UDP, services.SCTP} {
		if p.String() == req.GetProtocol() {
			return services.Front{Address: address.Unmap(), Protocol: p, Port: uint16(req.GetPort())}, nil
		}
	}
	return services.Front{}, apierrors.NewBadRequest(fmt.Sprintf("protocol %q is none of TCP, UDP, SCTP", req.GetProtocol()))
}

func (s *ProxyService) inServiceRange(a netip.Addr) bool {
	for _, p := range s.cfg.ServiceCIDRs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (s *ProxyService) isLocal(a netip.Addr) (bool, error) {
	list, err := s.cfg.LocalAddresses()
	if err != nil {
		return false, fmt.Errorf("list this machine's addresses: %w", err)
	}
	for _, item := range list {
		if n, ok := item.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == a {
				return true, nil
			}
		}
	}
	return false, nil
}
