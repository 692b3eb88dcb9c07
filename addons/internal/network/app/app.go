// Package app wires the network agent together.
package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/addons/internal/network/agent"
	"kijabi.dev/addons/internal/network/host"
	"kijabi.dev/addons/internal/network/plan"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

// DefaultCNIConfigDir is where the container runtime of a machine looks.
const DefaultCNIConfigDir = "/etc/cni/net.d"

// DefaultConfig returns the configuration a file is read over.
func DefaultConfig() *configv1.NetworkAgentConfiguration {
	return &configv1.NetworkAgentConfiguration{
		DataDir:      filepath.Join(configv1.StateDir, "network-agent"),
		CNIConfigDir: DefaultCNIConfigDir, Network: configv1.DefaultNetwork(),
	}
}

// Run keeps the machine's pod network in step with the cluster's nodes until ctx ends
// and leaves it in place then: pods go on.
func Run(ctx context.Context, cfg *configv1.NetworkAgentConfiguration, log *zap.Logger) error {
	settings, machine, err := parse(cfg, log)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
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
	server, err := rpc.NewServer(rpc.ServerConfig{Address: cfg.ListenAddress, Identity: identity, Log: log})
	if err != nil {
		return err
	}
	server.SetServing(false)

	caches := informer.NewSet(client.New(conn), log)
	nodes := informer.Of[*corev1.Node](caches, informer.SnapshotFile(filepath.Join(cfg.DataDir, "nodes.snapshot")))
	settings.Nodes, settings.Machine = nodes.List, machine
	settings.Ready = func() { server.SetServing(true) }
	a := agent.New(settings)
	nodes.OnChange(a.NodeChanged)

	return lifecycle.RunAll(ctx,
		identity.Run, conn.Run, caches.Run, server.Run,
		func(ctx context.Context) error {
			return pki.RenewLoop(ctx, cfg.Identity, certificatev1pb.NewCertificateServiceClient(conn), log)
		},
		func(ctx context.Context) error {
			// Waiting for masters is not starting: the service manager need not wait, too.
			if err := lifecycle.NotifyReady(ctx); err != nil {
				log.Warn("service manager not told", zap.Error(err))
			}
			// A plan made of half the nodes would take away routes that are in use.
			err := caches.WaitSynced(ctx)
			select {
			case <-ctx.Done():
				return nil // asked to end while waiting
			default:
			}
			if err != nil {
				return err
			}
			return a.Run(ctx)
		})
}

// Cleanup removes from this machine whatever the agent ever made.
func Cleanup(cniConfigDir string) error { return host.Clean(cniConfigDir) }

// parse checks what the file says and turns it into settings.
func parse(cfg *configv1.NetworkAgentConfiguration, log *zap.Logger) (agent.Config, *host.Host, error) {
	fail := func(field string, err error) (agent.Config, *host.Host, error) {
		return agent.Config{}, nil, fmt.Errorf("configuration: %s: %w", field, err)
	}
	mode, err := plan.ParseMode(cfg.Mode)
	if err != nil {
		return fail("mode", err)
	}
	address, err := netip.ParseAddr(cfg.NodeIP)
	if err == nil && !address.Is4() {
		err = errors.New("not an IPv4 address, which the pod network needs")
	}
	if err != nil {
		return fail("nodeIP", err)
	}
	pods, err := netip.ParsePrefix(cfg.Network.PodCIDR)
	if err != nil {
		return fail("network.podCIDR", err)
	}
	svcs, err := netip.ParsePrefix(cfg.Network.ServiceCIDR)
	if err != nil {
		return fail("network.serviceCIDR", err)
	}
	bridged := host.BridgeFiltered()
	if !bridged {
		log.Info("kernel does not show bridged packets to the packet filter (br_netfilter), pods get links of their own instead of a bridge")
	}
	return agent.Config{
		NodeName: cfg.NodeName, Address: address, Mode: mode, PodRange: pods.Masked(), CNIConfigDir: cfg.CNIConfigDir,
		Bridged: bridged, Clock: clock.RealClock{}, Log: log,
	}, host.New(host.Config{Address: address, PodRange: pods.Masked(), ServiceRange: svcs.Masked(), Log: log}), nil
}
