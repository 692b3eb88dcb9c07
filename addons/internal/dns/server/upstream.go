package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/forward"
	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"
)

// Bounds on questions under way to upstream resolvers. The first also ends a loop
// through a resolver that asks us in turn; the second keeps the wait of others
// short while no resolver answers.
const (
	maxUnderWay     = 1000
	maxUnderWayDown = 4
	failsUntilDown  = 2
)

// Upstream returns the resolvers to ask about names outside: those configured, or
// else those of the resolv.conf file. The server's own address is left out, for it
// would ask itself. A missing file means none.
func Upstream(configured []string, resolvConf string, own netip.Addr) ([]netip.AddrPort, error) {
	texts := configured
	if len(texts) == 0 {
		content, err := os.ReadFile(resolvConf)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("upstream resolvers: %w", err)
		}
		texts = nameservers(string(content))
	}
	var list []netip.AddrPort
	for _, text := range texts {
		address, err := resolverAddress(text)
		if err != nil {
			if len(configured) > 0 {
				return nil, fmt.Errorf("upstream resolver %q: want an IP address, or address:port", text)
			}
			continue // somebody else's file: take what can be used of it
		}
		if address.Addr() == own || address.Addr().IsUnspecified() || slices.Contains(list, address) {
			continue
		}
		list = append(list, address)
	}
	return list, nil
}

func nameservers(resolvConf string) []string {
	var list []string
	for line := range strings.Lines(resolvConf) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "nameserver" {
			list = append(list, fields[1])
		}
	}
	return list
}

func resolverAddress(text string) (netip.AddrPort, error) {
	if address, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(address.Unmap(), 53), nil
	}
	return netip.ParseAddrPort(text)
}

// outside forwards questions to upstream resolvers, within bounds.
type outside struct {
	forward  *forward.Forward
	proxies  []*proxy.Proxy
	underWay atomic.Int64
}

var _ plugin.Handler = (*outside)(nil)

func newOutside(resolvers []netip.AddrPort) *outside {
	o := &outside{forward: forward.New()}
	for _, resolver := range resolvers {
		p := proxy.NewProxy("forward", resolver.String(), transport.DNS)
		o.forward.SetProxy(p) // starts its health check
		o.proxies = append(o.proxies, p)
	}
	return o
}

// close stops the health checks and the idle connections.
func (o *outside) close() error { return o.forward.OnShutdown() }

// Name of the plugin in CoreDNS's own messages.
func (*outside) Name() string { return "outside" }

// ServeDNS implements plugin.Handler.
func (o *outside) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	limit := int64(maxUnderWay)
	if !slices.ContainsFunc(o.proxies, func(p *proxy.Proxy) bool { return !p.Down(failsUntilDown) }) {
		limit = maxUnderWayDown
	}
	defer o.underWay.Add(-1)
	if o.underWay.Add(1) > limit {
		return dns.RcodeServerFailure, nil
	}
	return o.forward.ServeDNS(ctx, w, r)
}
