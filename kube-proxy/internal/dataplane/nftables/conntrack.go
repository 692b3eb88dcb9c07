package nftables

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kijabi.dev/kube-proxy/internal/services"
)

// The kernel keeps sending a flow where its first packet went. UDP has no end of connection:
// that holds for as long as packets come. A TCP connection that an endpoint never took, or that
// is over, is remembered for up to two minutes, and one that begins anew from the same
// port follows it. So after a change the flows are compared with the frontends, all of them: a
// service without endpoints, a deleted service and a flow that began before its service
// existed leave stale flows, too. TCP connections that are open are left alone: they end
// when both sides say so.

// flowView is what the flows are compared with. It implements the filter's interface.
type flowView struct {
	targets map[services.Front]map[netip.AddrPort]struct{}
	svcs    netip.Prefix
	any     netip.Addr
	local   map[netip.Addr]struct{} // addresses of this machine
}

// cleanFlows deletes the stale flows and says how many there were.
func (p *Plane) cleanFlows() (uint, error) {
	v, gone := p.flowTargets()
	var h *netlink.Handle
	err := p.inside(func(enter netns.NsHandle) (err error) {
		h, err = netlink.NewHandleAt(enter, unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("open conntrack socket: %w", err)
	}
	defer h.Close()
	fam := netlink.InetFamily(unix.AF_INET)
	if p.ipv6 {
		fam = unix.AF_INET6
	}
	addresses, err := h.AddrList(nil, int(fam))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		v.local[addrOf(a.IP)] = struct{}{}
	}
	n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, fam, v)
	if err != nil {
		return n, fmt.Errorf("clean flows: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, front := range gone {
		delete(p.gone, front)
	}
	return n, nil
}

// flowTargets copies what the comparison needs, so that it runs without the lock. The
// fronts it also returns were removed since the last cleaning.
func (p *Plane) flowTargets() (*flowView, []services.Front) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := &flowView{
		targets: map[services.Front]map[netip.AddrPort]struct{}{}, svcs: p.cfg.ServiceCIDR, any: p.rules.any,
		local: map[netip.Addr]struct{}{},
	}
	gone := make([]services.Front, 0, len(p.gone))
	for front := range p.gone {
		v.targets[front] = nil
		gone = append(gone, front)
	}
	for front, x := range p.have {
		set := map[netip.AddrPort]struct{}{}
		for _, slots := range x.slots {
			for _, target := range slots {
				set[target] = struct{}{}
			}
		}
		v.targets[front] = set
	}
	return v, gone
}

// MatchConntrackFlow reports whether a flow is stale.
func (v *flowView) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	protocol := services.Protocol(flow.Forward.Protocol)
	if protocol != services.UDP && (protocol != services.TCP || isOpen(flow)) {
		return false
	}
	destination := addrOf(flow.Forward.DstIP)
	went := netip.AddrPortFrom(addrOf(flow.Reverse.SrcIP), flow.Reverse.SrcPort)
	translated := went != netip.AddrPortFrom(destination, flow.Forward.DstPort)
	front := services.Front{Address: destination, Protocol: protocol, Port: flow.Forward.DstPort}

	_, here := v.local[destination]
	if here && v.svcs.Contains(destination) && !translated {
		return false // a service this machine serves itself
	}
	targets, known := v.targets[front]
	if !known && here {
		front.Address = v.any
		targets, known = v.targets[front]
	}
	if known {
		_, good := targets[went]
		// Without endpoints an untranslated flow is being refused, which is as it should be;
		// but it would go on once there are some.
		return !good && (translated || len(targets) > 0)
	}
	// The service is gone. Translations of others in its range there are none.
	return translated && v.svcs.Contains(destination)
}

// Connections in states from one to the other of the kernel's enum tcp_conntrack are open on one
// side at least.
const (
	tcpEstablished = 3
	tcpCloseWait   = 5
)

// isOpen says whether a TCP connection was taken and is not over.
func isOpen(flow *netlink.ConntrackFlow) bool {
	info, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
	return !ok || info.State >= tcpEstablished && info.State <= tcpCloseWait
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
