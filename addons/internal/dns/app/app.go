// Package app wires the DNS of a machine: informers that follow the apiservers or
// the last known state, a DNS server on the cluster's one DNS address, which it puts
// on the loopback interface, and a gRPC service that tells its health.
package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"
	"go.uber.org/zap"
	"go.uber.org/zap/zapio"

	"kijabi.dev/addons/internal/dns/cluster"
	"kijabi.dev/addons/internal/dns/loopback"
	"kijabi.dev/addons/internal/dns/records"
	"kijabi.dev/addons/internal/dns/server"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/resident"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/sockets"
)

const (
	port       = 53
	resolvConf = "/etc/resolv.conf"
	// resolvConfEvery is how often it is read again.
	resolvConfEvery = 10 * time.Second
)

// DefaultConfig is what a configuration file is read over.
func DefaultConfig() *configv1.DNSConfiguration {
	return &configv1.DNSConfiguration{
		DataDir: filepath.Join(configv1.StateDir, "dns"),
		Network: configv1.DefaultNetwork(),
	}
}

// Run serves until ctx ends or a part fails. The address stays: while the program
// restarts questions to it must wait, and when it is stopped be refused at once, rather
// than go unanswered. `kijabi reset` removes it.
func Run(ctx context.Context, cfg *configv1.DNSConfiguration, log *zap.Logger) error {
	network, err := parseNetwork(cfg.Network)
	if err != nil {
		return err
	}
	store, err := sockets.Inherit(log)
	if err != nil {
		return err
	}
	upstream, err := server.Upstream(cfg.Upstream, resolvConf, network.address)
	if err != nil {
		return err
	}
	program, err := resident.New(resident.Config{Common: cfg.Common, APIServers: cfg.APIServers, DataDir: cfg.DataDir, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()
	source := cluster.New(program.Caches, program.Snapshot)

	// CoreDNS's plugins write to a log of their own.
	clog.SetOutput(&zapio.Writer{Log: log.With(logging.Component("coredns")), Level: zap.InfoLevel})
	if err := loopback.Add(network.address); err != nil {
		return err
	}
	answering, err := server.New(ctx, server.Config{
		Address: netip.AddrPortFrom(network.address, port),
		Zone:    records.NewZone(records.Config{Domain: cfg.Network.ClusterDomain, Server: network.address, Ranges: network.ranges}),
		Source:  source, Ready: program.Caches.HasSynced, Wait: program.Caches.WaitSynced, Sockets: store, Upstream: upstream, Log: log,
	})
	if err != nil {
		return err
	}
	store.Close(ctx)
	log.Info("answering", zap.Stringer("address", answering.Address()), zap.Stringers("upstream", upstream))
	return program.Run(ctx,
		func(context.Context) error {
			program.Server.SetServing(true)
			return nil
		},
		answering.Run,
		func(ctx context.Context) error {
			return follow(ctx, cfg.Upstream, network.address, upstream, answering, log)
		})
}

// follow applies changes of the host's resolv.conf, which a DHCP client may rewrite.
func follow(ctx context.Context, configured []string, self netip.Addr, current []netip.AddrPort, answering *server.Server, log *zap.Logger) error {
	tick := time.NewTicker(resolvConfEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		found, err := server.Upstream(configured, resolvConf, self)
		if err != nil {
			log.Warn("upstream resolvers not read, keeping the old ones", zap.Error(err))
			continue
		}
		if slices.Equal(found, current) {
			continue
		}
		if err := answering.SetUpstream(found); err != nil {
			return fmt.Errorf("upstream resolvers: %w", err)
		}
		current = found
		log.Info("upstream resolvers changed", zap.Stringers("upstream", found))
	}
}

// network holds the parsed ranges.
type network struct {
	address netip.Addr
	ranges  []netip.Prefix
}

func parseNetwork(cfg configv1.Network) (network, error) {
	address, err := netip.ParseAddr(cfg.DNSAddress)
	if err != nil {
		return network{}, fmt.Errorf("network.dnsAddress %q is not an IP address", cfg.DNSAddress)
	}
	parsed := network{address: address}
	for field, text := range map[string]string{"podCIDR": cfg.PodCIDR, "serviceCIDR": cfg.ServiceCIDR} {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return network{}, fmt.Errorf("network.%s %q is not a range such as 10.96.0.0/16", field, text)
		}
		parsed.ranges = append(parsed.ranges, prefix.Masked())
	}
	if cfg.ClusterDomain == "" {
		return network{}, errors.New("network.clusterDomain is empty")
	}
	return parsed, nil
}
