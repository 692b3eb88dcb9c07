// Package host makes a machine's network look as a plan says: routes, tunnel,
// masquerading and kernel settings, all by netlink and /proc.
//
// It only touches what is its own: routes that carry its protocol number, the tunnel
// device and the table of its name.
package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"kijabi.dev/addons/internal/network/cni"
	"kijabi.dev/addons/internal/network/plan"
)

const (
	// RouteProtocol marks our routes; `ip route show proto 75` lists them.
	RouteProtocol netlink.RouteProtocol = 75
	// TunnelDevice is the VXLAN device.
	TunnelDevice = "kijabi-vxlan"
	tunnelID     = 75
	tunnelPort   = 8472
	// unreachableMetric is worse than that of any real route of the same range.
	unreachableMetric = 4000
)

// Config of a Host; every field is required.
type Config struct {
	// Address of this machine, which the link to the other machines has.
	Address netip.Addr
	// PodRange and ServiceRange are the cluster's.
	PodRange, ServiceRange netip.Prefix
	Log                    *zap.Logger
}

// Host is this machine's network. It is not safe for concurrent use, and works on
// the network namespace of the thread that calls it.
type Host struct {
	cfg    Config
	warned string // the last warning about the firewall, so that it is given once
}

// New returns the Host.
func New(cfg Config) *Host { return &Host{cfg: cfg} }

// Underlay returns the link that has the machine's address.
func (h *Host) Underlay() (netlink.Link, error) {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if ip, _ := netip.AddrFromSlice(a.IP.To4()); ip == h.cfg.Address {
			return netlink.LinkByIndex(a.LinkIndex)
		}
	}
	return nil, fmt.Errorf("no interface has the node's address %s: correct nodeIP in the configuration or the interface", h.cfg.Address)
}

// OnLink reports whether an address is reached without a router.
func (h *Host) OnLink(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return false
	}
	return routes[0].Gw == nil || routes[0].Gw.IsUnspecified()
}

// Apply makes the machine look like the plan. It may be called at any time and
// changes nothing that is right already. What one step cannot do does not keep the
// others from being done.
func (h *Host) Apply(p plan.Plan) error {
	underlay, err := h.Underlay()
	if err != nil {
		return err
	}
	errs := h.applyMasquerade()
	var tunnel netlink.Link
	if p.Tunnel {
		tunnel, err = h.applyTunnel(p, underlay)
	} else {
		err = removeLink(TunnelDevice)
	}
	errs = errors.Join(errs, err)
	if p.Tunnel && tunnel == nil {
		p.Peers = nil // their routes would lead nowhere
	}
	return errors.Join(errs, h.applyRoutes(p, underlay, tunnel), h.applySettings(underlay), h.checkFirewall())
}

// Clean removes everything of ours, pods' bridge and network configuration included.
func Clean(cniDir string) error {
	routes, err := ownRoutes()
	for i := range routes {
		err = errors.Join(err, deleteRoute(&routes[i]))
	}
	return errors.Join(err, removeLink(TunnelDevice), removeLink(cni.Bridge), removeMasquerade(), cni.Remove(cniDir))
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

// applySettings turns on what forwarding needs. A container may have /proc/sys
// read-only, so a value that is right is not written.
func (h *Host) applySettings(underlay netlink.Link) error {
	errs := setting("net/ipv4/ip_forward", "1")
	// A packet may leave by the tunnel and its answer come over the underlay: strict
	// checks of the source would drop it, loose ones keep out forged sources.
	all, err := readSetting("net/ipv4/conf/all/rp_filter")
	errs = errors.Join(errs, err)
	for _, dev := range []string{underlay.Attrs().Name, TunnelDevice} {
		name := "net/ipv4/conf/" + dev + "/rp_filter"
		own, err := readSetting(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if errs = errors.Join(errs, err); max(own, all) == "1" { // the greater of both counts
			errs = errors.Join(errs, setting(name, "2"))
		}
	}
	return errs
}

func (h *Host) applyRoutes(p plan.Plan, underlay, tunnel netlink.Link) error {
	existing, errs := ownRoutes()
	var wanted []netlink.Route
	if p.Range.IsValid() {
		// Pods that no route leads to are nowhere: not behind the default route.
		wanted = append(wanted, netlink.Route{Dst: ipNet(h.cfg.PodRange), Type: typeUnreachable, Priority: unreachableMetric, Protocol: RouteProtocol})
	}
	// Programs on this machine reach services by their addresses even without a default
	// route: the packet filter sees a packet only once it has a route. It then goes to an
	// endpoint or is refused; to the link it never gets.
	wanted = append(wanted, netlink.Route{
		Dst: ipNet(h.cfg.ServiceRange), LinkIndex: underlay.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Src: h.cfg.Address.AsSlice(), Protocol: RouteProtocol,
	})
	for _, r := range p.Routes {
		wanted = append(wanted, netlink.Route{Dst: ipNet(r.To), Gw: r.Via.AsSlice(), LinkIndex: underlay.Attrs().Index, Protocol: RouteProtocol})
	}
	for _, peer := range p.Peers {
		wanted = append(wanted, netlink.Route{
			Dst: ipNet(peer.To), Gw: peer.Endpoint.AsSlice(), LinkIndex: tunnel.Attrs().Index,
			Flags: int(netlink.FLAG_ONLINK), Protocol: RouteProtocol,
		})
	}
	// By their keys: a cluster may have thousands of machines.
	kept := make(map[routeKey]bool, len(wanted))
	have := make(map[routeKey][]*netlink.Route, len(existing))
	for i := range existing {
		key := keyOf(&existing[i])
		have[key] = append(have[key], &existing[i])
	}
	for i := range wanted {
		key := keyOf(&wanted[i])
		kept[key] = true
		if !containsRoute(have[key], &wanted[i]) {
			if err := netlink.RouteReplace(&wanted[i]); err != nil {
				errs = errors.Join(errs, fmt.Errorf("set route to %s: %w", wanted[i].Dst, err))
			}
		}
	}
	for i := range existing {
		// Replacing has removed the others of the same destination.
		if !kept[keyOf(&existing[i])] {
			errs = errors.Join(errs, deleteRoute(&existing[i]))
		}
	}
	return errs
}

func ownRoutes() ([]netlink.Route, error) {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return list, nil
}

func deleteRoute(r *netlink.Route) error {
	if err := netlink.RouteDel(r); err != nil && !errors.Is(err, errNoRoute) {
		return fmt.Errorf("remove route to %s: %w", r.Dst, err)
	}
	return nil
}

func containsRoute(list []*netlink.Route, r *netlink.Route) bool {
	return slices.ContainsFunc(list, func(x *netlink.Route) bool {
		return x.Gw.Equal(r.Gw) && (r.Type == typeUnreachable || x.LinkIndex == r.LinkIndex)
	})
}

// routeKey is what makes the kernel replace one route by another.
type routeKey struct {
	to       netip.Prefix // invalid: everywhere
	priority int
}

func keyOf(r *netlink.Route) routeKey {
	key := routeKey{priority: r.Priority}
	if r.Dst != nil {
		address, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		key.to = netip.PrefixFrom(address.Unmap(), bits)
	}
	return key
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// MTU returns that of the link to the other machines.
func (h *Host) MTU() (int, error) {
	link, err := h.Underlay()
	if err != nil {
		return 0, err
	}
	return link.Attrs().MTU, nil
}
