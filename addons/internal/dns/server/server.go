// Package server answers DNS questions over UDP and TCP: CoreDNS's server with a
// chain of three plugins, the cluster's zone, a cache and a forwarder. The chain is
// put together in Go rather than by a Corefile, because a Corefile's plugins are
// looked up in registries that are global to the process.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
	"go.uber.org/zap"

	"kijabi.dev/addons/internal/dns/records"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/sockets"
)

// Config lists what the server needs; Upstream may be empty, the rest is required.
type Config struct {
	// Address to listen on, UDP and TCP. Port 0 takes any that is free for both.
	Address netip.AddrPort
	// Zone and Source decide the answers for the cluster.
	Zone   *records.Zone
	Source records.Source
	// Ready says whether Source is complete. Until then cluster names fail.
	Ready func() bool
	// Wait, if not nil, blocks until Source is complete; queries wait by it for a moment.
	Wait func(context.Context) error
	// Sockets gives and keeps the sockets, over restarts where it can; may be nil.
	Sockets *sockets.Store
	// Upstream resolvers for all other names; without any these are refused.
	Upstream []netip.AddrPort
	Log      *zap.Logger
}

// Server is a DNS server that holds its sockets from New to the end of Run.
type Server struct {
	log     *zap.Logger
	dns     *dnsserver.Server
	stream  *stream
	packets *net.UDPConn
	own     *handler
}

// drainTime is how long connections may still bring questions once the server is to end.
const drainTime = 500 * time.Millisecond

// New binds the sockets or takes those of the last run, so that a port in use is an error at once. Call Run then.
func New(ctx context.Context, cfg Config) (*Server, error) {
	own := &handler{zone: cfg.Zone, source: cfg.Source, ready: cfg.Ready, wait: cfg.Wait}
	own.chain.Store(newChain(cfg.Upstream))
	s := &Server{log: cfg.Log, own: own}
	var err error
	s.dns, err = dnsserver.NewServer("dns://"+cfg.Address.String(), []*dnsserver.Config{{
		Zone: ".",
		Plugin: []plugin.Plugin{
			func(next plugin.Handler) plugin.Handler { return &reporter{log: cfg.Log, next: next} },
			func(plugin.Handler) plugin.Handler { return own },
		},
	}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dns server: %w", err), s.close())
	}
	if err := s.listen(ctx, cfg.Sockets, cfg.Address); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// listen binds both sockets. Not with SO_REUSEPORT, as CoreDNS would: two servers
// would share an address, each with half of the questions, and nobody would notice.
func (s *Server) listen(ctx context.Context, store *sockets.Store, address netip.AddrPort) error {
	for attempt := 0; ; attempt++ {
		listener, err := store.Listen(ctx, "dns-tcp", address)
		if err != nil {
			return fmt.Errorf("dns server: %w", err)
		}
		packets, err := store.ListenPacket(ctx, "dns-udp", listener.Addr().(*net.TCPAddr).AddrPort()) //nolint:forcetypeassert // of a TCP listener
		if err == nil {
			s.stream, s.packets = newStream(listener), packets
			return nil
		}
		_ = listener.Close() // the error to tell is that of the packets
		if address.Port() != 0 || attempt == 9 {
			return fmt.Errorf("dns server: %w", err)
		}
	}
}

// Address is where the server listens.
func (s *Server) Address() netip.AddrPort {
	address, err := netip.ParseAddrPort(s.stream.Addr().String())
	if err != nil {
		return netip.AddrPort{} // never: it is a TCP listener
	}
	return address
}

// SetUpstream replaces the resolvers. Questions under way may still be answered by
// the old ones. It may be called while the server runs, by one caller at a time.
func (s *Server) SetUpstream(resolvers []netip.AddrPort) error {
	return s.own.chain.Swap(newChain(resolvers)).close()
}

// Run serves until ctx ends, then lets questions under way finish. Those that have not
// been read stay in the sockets, for the next run if the service manager keeps them.
func (s *Server) Run(ctx context.Context) error {
	ended := func(task func() error) lifecycle.Task {
		return func(ctx context.Context) error {
			if err := task(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("dns server: %w", err)
			}
			return nil
		}
	}
	drained := make(chan struct{})
	return lifecycle.RunAll(ctx,
		ended(func() error {
			defer close(drained) // all connections have ended
			return s.dns.Serve(s.stream)
		}),
		ended(func() error { return s.dns.ServePacket(s.packets) }),
		func(ctx context.Context) error {
			<-ctx.Done()
			s.stream.drain(time.Now().Add(drainTime))
			select {
			case <-drained:
			case <-time.After(drainTime):
			}
			err := s.dns.Stop()
			// A socket whose serving had not begun yet is unknown to Stop.
			return errors.Join(err, s.close())
		})
}

// close gives up sockets and upstream connections; it may follow a Stop that has
// closed the sockets already.
func (s *Server) close() error {
	var failures []error
	if s.stream != nil {
		failures = append(failures, s.stream.Close())
	}
	if s.packets != nil {
		failures = append(failures, s.packets.Close())
	}
	failures = append(failures, s.own.chain.Load().close())
	for i, err := range failures {
		if errors.Is(err, net.ErrClosed) {
			failures[i] = nil
		}
	}
	return errors.Join(failures...)
}

// reporter logs the failures of the plugins below it.
type reporter struct {
	log  *zap.Logger
	next plugin.Handler
}

var _ plugin.Handler = (*reporter)(nil)

// Name of the plugin in CoreDNS's own messages.
func (*reporter) Name() string { return "errors" }

// ServeDNS implements plugin.Handler.
func (r *reporter) ServeDNS(ctx context.Context, w dns.ResponseWriter, msg *dns.Msg) (int, error) {
	rcode, err := r.next.ServeDNS(ctx, w, msg)
	if err != nil {
		r.log.Warn("question failed", zap.String("name", msg.Question[0].Name),
			zap.String("type", dns.TypeToString[msg.Question[0].Qtype]), zap.Error(err))
	}
	return rcode, err
}
