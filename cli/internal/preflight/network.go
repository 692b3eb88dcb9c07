package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	configv1 "kijabi.dev/platform/config/v1"
)

const chooseAddress = "choose one of `ip address` with --advertise-address"

func address(_ context.Context, m *Machine, t Target) Finding {
	if _, err := netip.ParseAddr(t.Address); err != nil {
		return fail(chooseAddress, "%q is no IP address", t.Address)
	}
	if err := m.Network.Bind(t.Address, 0); errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fail(chooseAddress, "address %s does not belong to this machine", t.Address)
	} else if err != nil {
		return fail(chooseAddress, "cannot listen on address %s: %v", t.Address, err)
	}
	return okay("%s belongs to this machine", t.Address)
}

func addressScope(_ context.Context, _ *Machine, t Target) Finding {
	own, err := netip.ParseAddr(t.Address)
	if err != nil {
		return okay("not judged: it is no address")
	}
	switch {
	case own.IsLoopback():
		return fail(chooseAddress, "%s is a loopback address: other machines and pods do not reach it", own)
	case own.IsLinkLocalUnicast(), own.IsMulticast(), own.IsUnspecified():
		return fail(chooseAddress, "%s is not an address that others can be told", own)
	}
	for name, prefix := range t.ranges() {
		if prefix.Contains(own) {
			return fail("give the machine another address, or the cluster another range", "%s lies in the range of %s, %s", own, name, prefix)
		}
	}
	return okay("%s can be told to others", own)
}

func ports(_ context.Context, m *Machine, t Target) Finding {
	if t.Member != "" {
		return okay("not tried: this member's own programs hold them")
	}
	var busy []string
	for _, port := range t.Ports {
		err := m.Network.Bind(t.Address, port)
		switch {
		case err == nil:
		case errors.Is(err, syscall.EADDRINUSE):
			busy = append(busy, strconv.Itoa(port))
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return okay("not tried: the address is not this machine's")
		default:
			return fail("look for what forbids it", "cannot listen on port %d of %s: %v", port, t.Address, err)
		}
	}
	if len(busy) > 0 {
		return fail("stop the program that listens there (find it with `ss -ltnp`)", "port %s of %s is busy", strings.Join(busy, ", "), t.Address)
	}
	return okay("the %d ports of a %s are free", len(t.Ports), t.role())
}

func ranges(_ context.Context, m *Machine, t Target) Finding {
	all := t.ranges()
	if len(all) < 2 {
		return fail("give ranges like 10.244.0.0/16", "the ranges of pods (%q) and services (%q) are no address ranges", t.Network.PodCIDR, t.Network.ServiceCIDR)
	}
	if all["pods"].Overlaps(all["services"]) {
		return fail("choose others", "the ranges of pods (%s) and services (%s) overlap", all["pods"], all["services"])
	}
	routes, err := m.Network.Routes()
	if err != nil {
		return warn("", "cannot list routes: %v", err)
	}
	for _, route := range routes {
		if route.Ours || route.To.Bits() == 0 {
			continue
		}
		for name, prefix := range all {
			if prefix.Overlaps(route.To) {
				if t.Join != "" { // that cluster may have other ranges; they are learnt from it later
					return warn("unless the cluster has other ranges, remove that network from the machine",
						"this machine routes %s to %s, which overlaps the usual range of %s, %s", route.To, route.Device, name, prefix)
				}
				return fail("remove that network from the machine, or choose another range for the cluster",
					"this machine routes %s to %s, which overlaps the range of %s, %s", route.To, route.Device, name, prefix)
			}
		}
	}
	return okay("pods (%s) and services (%s) overlap no route", all["pods"], all["services"])
}

// open lists what other machines must reach, as docs/operate.md says it.
func open(t Target) (tcp []int, text string) {
	if t.Master {
		tcp = []int{configv1.PortREST, configv1.PortGRPC, configv1.PortPeer, configv1.PortEtcdPeer}
	}
	parts := []string{"8472/udp (VXLAN)", fmt.Sprintf("%d-%d (node ports)", t.Network.NodePortFirst, t.Network.NodePortLast), "forwarding for " + t.Network.PodCIDR}
	for _, port := range slices.Backward(tcp) {
		parts = append([]string{strconv.Itoa(port) + "/tcp"}, parts...)
	}
	return tcp, strings.Join(parts, ", ")
}

func firewall(_ context.Context, m *Machine, t Target) Finding {
	tcp, needed := open(t)
	if _, err := fs.Stat(m.Files, "run/firewalld"); err == nil {
		fix := "firewall-cmd --permanent"
		for _, port := range tcp {
			fix += fmt.Sprintf(" --add-port=%d/tcp", port)
		}
		fix += " --add-port=8472/udp; firewall-cmd --permanent --zone=trusted --add-source=" + t.Network.PodCIDR + "; firewall-cmd --reload"
		return warn(fix, "firewalld is active: others must reach %s", needed)
	}
	if lines, err := m.lines("etc/ufw/ufw.conf"); err == nil && slices.Contains(lines, "ENABLED=yes") {
		fix := ""
		for _, port := range tcp {
			fix += fmt.Sprintf("ufw allow %d/tcp; ", port)
		}
		return warn(fix+"ufw allow 8472/udp; ufw route allow from "+t.Network.PodCIDR+"; ufw route allow to "+t.Network.PodCIDR,
			"ufw is active: others must reach %s", needed)
	}
	chains, err := m.Network.Chains()
	if err != nil {
		return warn("", "cannot see whether there is a packet filter: %v", err)
	}
	for _, chain := range chains {
		if chain.DropsForwarded && !strings.HasPrefix(chain.Table, "kijabi") {
			return warn(fmt.Sprintf("iptables -I FORWARD -s %[1]s -j ACCEPT; iptables -I FORWARD -d %[1]s -j ACCEPT", t.Network.PodCIDR),
				"chain %s of table %s drops forwarded packets: pods may not reach other machines", chain.Name, chain.Table)
		}
	}
	return okay("nothing in the way on this machine; others must reach %s", needed)
}

func hostname(_ context.Context, _ *Machine, t Target) Finding {
	const fix = "choose another with --name (small letters, digits, dashes)"
	const longest = 63
	if problems := validation.IsDNS1123Subdomain(t.Name); len(problems) > 0 || len(t.Name) > longest {
		return fail(fix, "%q is no name for a node", t.Name)
	}
	return okay("%s", t.Name)
}

const resolveLimit = 2 * time.Second

func names(ctx context.Context, m *Machine, t Target) Finding {
	ctx, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	fix := fmt.Sprintf("put `127.0.0.1 localhost` and `%s %s` into /etc/hosts", t.Address, t.Name)
	loopback, err := m.Network.Resolve(ctx, "localhost")
	if err != nil {
		return warn(fix, "localhost has no address (%s): programs in this machine do not find each other", resolveProblem(err))
	}
	if !slices.ContainsFunc(loopback, netip.Addr.IsLoopback) {
		return warn(fix, "localhost is %v, which is no loopback address", loopback)
	}
	own, err := m.Network.Resolve(ctx, t.Name)
	if err != nil {
		return warn(fix, "%s, this machine's name, has no address (%s): sudo and other programs become slow, and other machines need the address to join", t.Name, resolveProblem(err))
	}
	for _, found := range own {
		if found.IsLoopback() || found.String() == t.Address {
			return okay("%s is %s", t.Name, found)
		}
	}
	return warn(fix, "%s, this machine's name, is %v and not %s: others would be led to another machine", t.Name, own, t.Address)
}

func resolveProblem(err error) string {
	var problem *net.DNSError
	switch {
	case errors.As(err, &problem) && problem.IsNotFound:
		return "not found"
	case errors.As(err, &problem) && problem.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return "the resolver does not answer"
	default:
		return err.Error()
	}
}

func resolver(_ context.Context, m *Machine, _ Target) Finding {
	lines, err := m.lines("etc/resolv.conf")
	if err != nil && !notExist(err) {
		return warn("", "cannot read /etc/resolv.conf: %v", err)
	}
	var servers, loopback []string
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		servers = append(servers, fields[1])
		if found, err := netip.ParseAddr(fields[1]); err == nil && found.IsLoopback() {
			loopback = append(loopback, fields[1])
		}
	}
	switch {
	case len(servers) == 0:
		return warn("name a resolver in /etc/resolv.conf", "no resolver: pods find services, but no name outside the cluster")
	case len(loopback) == len(servers):
		return warn("name a real resolver in /etc/resolv.conf (with systemd-resolved: `ln -sf /run/systemd/resolve/resolv.conf /etc/resolv.conf`)",
			"the only resolver is %s, a program of this machine: Kijabi's DNS asks it, but pods with dnsPolicy Default would ask themselves", strings.Join(loopback, ", "))
	}
	return okay("%s", strings.Join(servers, ", "))
}
