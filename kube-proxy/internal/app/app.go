// Package app wires kube-proxy together.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/dataplane/nftables"
	"kijabi.dev/kube-proxy/internal/rpcapi"
	"kijabi.dev/kube-proxy/internal/syncer"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/resident"
	"kijabi.dev/platform/lifecycle"
	proxyv1pb "kijabi.dev/proto/gen/kijabi/proxy/v1"
)

// DefaultConfig returns the configuration a file is read over.
func DefaultConfig() *configv1.KubeProxyConfiguration {
	return &configv1.KubeProxyConfiguration{
		DataDir: filepath.Join(configv1.StateDir, "kube-proxy"),
		Network: configv1.DefaultNetwork(),
	}
}

// Run keeps the machine's packet rules in step with the cluster until ctx ends, and
// leaves them in place then: connections must survive a restart.
func Run(ctx context.Context, cfg *configv1.KubeProxyConfiguration, log *zap.Logger) error {
	pods, err := parseRanges("network.podCIDR", cfg.Network.PodCIDR)
	if err != nil {
		return err
	}
	svcs, err := parseRanges("network.serviceCIDR", cfg.Network.ServiceCIDR)
	if err != nil {
		return err
	}
	planes, err := openPlanes(pods, svcs, log)
	if err != nil {
		return err
	}
	defer closePlanes(planes, log)

	program, err := resident.New(resident.Config{Common: cfg.Common, APIServers: cfg.APIServers, DataDir: cfg.DataDir, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()

	sync := syncer.New(syncer.Config{
		NodeName: cfg.NodeName, Planes: planes, Clock: clock.RealClock{}, Log: log,
		Ready: func() { program.Server.SetServing(true) },
	})
	informer.Of[*corev1.Service](program.Caches, program.Snapshot("services")).OnChange(sync.ServiceChanged)
	informer.Of[*discoveryv1.EndpointSlice](program.Caches, program.Snapshot("endpointslices")).OnChange(sync.SliceChanged)
	proxyv1pb.RegisterProxyServiceServer(program.Server, rpcapi.NewProxyService(rpcapi.Config{
		State: sync, ServiceCIDRs: svcs, LocalAddresses: net.InterfaceAddrs,
	}))

	var tasks []lifecycle.Task
	for _, p := range planes {
		tasks = append(tasks, p.Run)
	}
	// Until the caches are complete, the rules of the process before stay.
	return program.Run(ctx, sync.Run, tasks...)
}

// Cleanup removes every rule kube-proxy ever made on this machine.
func Cleanup() error { return nftables.Clean() }

// openPlanes opens one plane for each address family that both ranges have.
func openPlanes(pods, svcs []netip.Prefix, log *zap.Logger) ([]dataplane.Plane, error) {
	var out []dataplane.Plane
	for _, svc := range svcs {
		for _, pod := range pods {
			if pod.Addr().Is6() != svc.Addr().Is6() {
				continue
			}
			p, err := nftables.New(nftables.Config{PodCIDR: pod, ServiceCIDR: svc, Log: log})
			if err != nil {
				closePlanes(out, log)
				return nil, err
			}
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("configuration: network.podCIDR and network.serviceCIDR have no address family in common")
	}
	return out, nil
}

func closePlanes(list []dataplane.Plane, log *zap.Logger) {
	for _, p := range list {
		if err := p.Close(); err != nil {
			log.Warn("data plane not closed", zap.Error(err))
		}
	}
}

// parseRanges reads one range, or one for each family separated by a comma.
func parseRanges(field, text string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("configuration: %s: %w", field, err)
		}
		for _, other := range out {
			if other.Addr().Is6() == p.Addr().Is6() {
				return nil, fmt.Errorf("configuration: %s: %s and %s are of one address family", field, other, p)
			}
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
