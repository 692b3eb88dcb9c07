// Package app wires kube-proxy together.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/dataplane/nftables"
	"kijabi.dev/kube-proxy/internal/rpcapi"
	"kijabi.dev/kube-proxy/internal/syncer"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
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
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	planes, err := openPlanes(pods, svcs, log)
	if err != nil {
		return err
	}
	defer closePlanes(planes, log)

	identity, err := pki.OpenIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	conn, err := rpc.DialAny(rpc.FailoverConfig{
		Addresses: cfg.APIServers, Identity: identity, Log: log, StateFile: filepath.Join(cfg.DataDir, "apiservers.json"),
		// Without masters it works on with what it knows; it may take its time to notice.
		ProbeEvery: 2 * time.Second,
	})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()

	caches := informer.NewSet(client.New(conn), log)
	svcCache := informer.Of[*corev1.Service](caches, informer.SnapshotFile(filepath.Join(cfg.DataDir, "services.snapshot")))
	sliceCache := informer.Of[*discoveryv1.EndpointSlice](caches, informer.SnapshotFile(filepath.Join(cfg.DataDir, "endpointslices.snapshot")))
	server, err := rpc.NewServer(rpc.ServerConfig{Address: cfg.ListenAddress, Identity: identity, Log: log})
	if err != nil {
		return err
	}
	server.SetServing(false)
	sync := syncer.New(syncer.Config{
		NodeName: cfg.NodeName, Planes: planes, Clock: clock.RealClock{}, Log: log,
		Ready: func() { server.SetServing(true) },
	})
	svcCache.OnChange(sync.ServiceChanged)
	sliceCache.OnChange(sync.SliceChanged)
	proxyv1pb.RegisterProxyServiceServer(server, rpcapi.NewProxyService(rpcapi.Config{
		State: sync, ServiceCIDRs: svcs, LocalAddresses: net.InterfaceAddrs,
	}))

	tasks := []lifecycle.Task{
		identity.Run, conn.Run, caches.Run, server.Run,
		func(ctx context.Context) error {
			return pki.RenewLoop(ctx, cfg.Identity, certificatev1pb.NewCertificateServiceClient(conn), log)
		},
		func(ctx context.Context) error {
			// Waiting for masters is not starting: the service manager need not wait, too.
			if err := lifecycle.NotifyReady(ctx); err != nil {
				log.Warn("service manager not told", zap.Error(err))
			}
			// Until the caches are complete, the rules of the process before stay.
			err := caches.WaitSynced(ctx)
			select {
			case <-ctx.Done():
				return nil // asked to end while waiting
			default:
			}
			if err != nil {
				return err
			}
			return sync.Run(ctx)
		},
	}
	for _, p := range planes {
		tasks = append(tasks, p.Run)
	}
	return lifecycle.RunAll(ctx, tasks...)
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
