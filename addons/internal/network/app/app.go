// Package app wires the network agent together.
package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/addons/internal/network/agent"
	"kijabi.dev/addons/internal/network/host"
	"kijabi.dev/addons/internal/network/plan"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/resident"
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
	program, err := resident.New(resident.Config{Common: cfg.Common, APIServers: cfg.APIServers, DataDir: cfg.DataDir, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()

	nodes := informer.Of[*corev1.Node](program.Caches, program.Snapshot("nodes"))
	settings.Nodes, settings.Machine = nodes.List, machine
	settings.Ready = func() { program.Server.SetServing(true) }
	a := agent.New(settings)
	nodes.OnChange(a.NodeChanged)
	// A plan made of half the nodes would take away routes that are in use.
	return program.Run(ctx, a.Run)
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
