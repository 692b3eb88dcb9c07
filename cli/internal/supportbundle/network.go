package supportbundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/vishvananda/netlink"

	"kijabi.dev/cli/internal/packetfilter"
)

// network lists interfaces, addresses, routes, rules and neighbours as the kernel has them.
func network(context.Context) ([]Entry, error) {
	var entries []Entry
	var errs []error
	names := map[int]string{}
	add := func(name string, list func(text *strings.Builder) error) {
		var text strings.Builder
		if err := list(&text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			return
		}
		entries = append(entries, Entry{Path: "network/" + name + ".txt", Content: []byte(text.String())})
	}
	add("interfaces", func(text *strings.Builder) error { return interfaces(text, names) })
	add("routes", func(text *strings.Builder) error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		for _, route := range routes {
			fmt.Fprintf(text, "%s dev %s\n", route, names[route.LinkIndex])
		}
		return err
	})
	add("rules", func(text *strings.Builder) error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		for _, rule := range rules {
			fmt.Fprintf(text, "%s\n", rule)
		}
		return err
	})
	add("neighbours", func(text *strings.Builder) error {
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for i, neighbour := range neighbours {
			if i == most {
				fmt.Fprintf(text, "… %d more\n", len(neighbours)-most)
				break
			}
			fmt.Fprintf(text, "%s dev %s %s state %#x\n", neighbour.IP, names[neighbour.LinkIndex], neighbour.HardwareAddr, neighbour.State)
		}
		return err
	})
	for _, name := range []string{"dev", "sockstat", "snmp", "netstat", "tcp", "udp"} {
		content, cut, err := head("/proc/net/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, err)
		entries = append(entries, Entry{Path: "network/proc-" + name + ".txt", Content: content, Cut: cut})
	}
	return entries, errors.Join(errs...)
}

// interfaces lists them with their addresses, and fills names by index.
func interfaces(text *strings.Builder, names map[int]string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	for _, link := range links {
		attrs := link.Attrs()
		fmt.Fprintf(text, "%d: %s %s %s mtu %d %s", attrs.Index, attrs.Name, link.Type(), attrs.OperState, attrs.MTU, attrs.HardwareAddr)
		if attrs.MasterIndex != 0 {
			fmt.Fprintf(text, " master %s", names[attrs.MasterIndex])
		}
		text.WriteByte('\n')
		addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			fmt.Fprintf(text, "    %s\n", address.IPNet)
		}
	}
	return nil
}

// packetFilter names every table and counts what is in ours.
func packetFilter(context.Context) ([]Entry, error) {
	tables, err := packetfilter.Tables("kijabi")
	if err != nil {
		return nil, err
	}
	entry, err := JSON("network/packetfilter.json", tables)
	return []Entry{entry}, err
}
