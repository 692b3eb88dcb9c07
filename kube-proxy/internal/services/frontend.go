// Package services turns Services and EndpointSlices into what one node's data plane
// must do: a list of frontends, each with the endpoints its connections go to.
//
// Everything here is pure: no kernel, no network, no clock. The package knows the
// rules of Kubernetes (policies, readiness, which service wins an address that two
// claim) so that a data plane only has to know packets.
package services

import (
	"cmp"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
)

// Protocol is an IP protocol number, as it stands in the packet.
type Protocol uint8

// The protocols a Service can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name that Kubernetes uses.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	default:
		return "unknown"
	}
}

// Front is where clients connect to. It is comparable and is the identity of a Frontend.
type Front struct {
	// Address is the service's address; the unspecified address of its family means
	// a node port: every address of this machine except loopback.
	Address netip.Addr
	// Protocol of the port.
	Protocol Protocol
	// Port number.
	Port uint16
}

// NodePort reports whether the front is a port on every address of the machine.
func (f Front) NodePort() bool { return f.Address.IsUnspecified() }

// Endpoint is one place where connections may go.
type Endpoint struct {
	// Target is the endpoint's address and port.
	Target netip.AddrPort
	// Local says that the endpoint runs on this node.
	Local bool
}

func compareEndpoints(a, b Endpoint) int {
	return cmp.Or(a.Target.Addr().Compare(b.Target.Addr()), cmp.Compare(a.Target.Port(), b.Target.Port()))
}

// Fallback is what happens to a connection when there is no endpoint for it.
type Fallback uint8

const (
	// Reject answers at once that nobody is there.
	Reject Fallback = iota
	// Drop stays silent. It is for policy Local on a node without an endpoint: the
	// client's next try, sent by the load balancer to another node, must still work.
	Drop
)

// Frontend is one service port as this node must serve it.
type Frontend struct {
	Front
	// Service and PortName say whose it is.
	Service  types.NamespacedName
	PortName string
	// Endpoints, sorted by address and without duplicates.
	Endpoints []Endpoint
	// Otherwise is what happens while Endpoints is empty.
	Otherwise Fallback
	// Inside, when SplitInside is set, replaces Endpoints for connections from pods
	// and from this machine: policy Local restricts only traffic from outside.
	Inside      []Endpoint
	SplitInside bool
	// Sticky sends all connections of a client to one endpoint.
	Sticky bool
}
