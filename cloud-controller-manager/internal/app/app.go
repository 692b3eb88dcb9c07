// Package app wires the cloud-controller-manager.
package app

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/cloud-controller-manager/internal/nodes"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/standby"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
)

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.CloudControllerManagerConfiguration {
	return &configv1.CloudControllerManagerConfiguration{}
}

// Run wires the component and blocks until ctx ends or a part fails.
func Run(ctx context.Context, cfg *configv1.CloudControllerManagerConfiguration, log *zap.Logger) error {
	program, err := standby.New(standby.Config{Component: pki.ComponentCloudControllerManager, Common: cfg.Common, APIServer: cfg.APIServer, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()
	provider, err := rpc.DialName(cfg.Provider, pki.ServerName(pki.ComponentCloudProvider, cfg.NodeName), program.Identity)
	if err != nil {
		return fmt.Errorf("dial provider %s: %w", cfg.Provider, err)
	}
	defer func() { _ = provider.Close() }()

	loops, err := controller.NewRuntime(controller.RuntimeConfig{
		Client: program.API, Clock: clock.RealClock{}, Log: log,
		Controllers: []controller.Controller{
			nodes.New(nodes.Config{Nodes: informer.Of[*corev1.Node](program.Caches), Provider: cloudv1pb.NewCloudProviderServiceClient(provider)}),
		},
	})
	if err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	return program.Run(ctx, loops.Run)
}
