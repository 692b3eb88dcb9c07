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
	"kijabi.dev/platform/election"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.CloudControllerManagerConfiguration {
	return &configv1.CloudControllerManagerConfiguration{}
}

// Run wires the component and blocks until ctx ends or a part fails.
func Run(ctx context.Context, cfg *configv1.CloudControllerManagerConfiguration, log *zap.Logger) error {
	identity, err := pki.OpenIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	conn, err := rpc.Dial(cfg.APIServer, identity)
	if err != nil {
		return fmt.Errorf("dial apiserver %s: %w", cfg.APIServer, err)
	}
	defer func() { _ = conn.Close() }()
	provider, err := rpc.DialName(cfg.Provider, pki.ServerName(pki.ComponentCloudProvider, cfg.NodeName), identity)
	if err != nil {
		return fmt.Errorf("dial provider %s: %w", cfg.Provider, err)
	}
	defer func() { _ = provider.Close() }()

	api := client.New(conn)
	caches := informer.NewSet(api, log)
	loops, err := controller.NewRuntime(controller.RuntimeConfig{
		Client: api, Clock: clock.RealClock{}, Log: log,
		Controllers: []controller.Controller{
			nodes.New(nodes.Config{Nodes: informer.Of[*corev1.Node](caches), Provider: cloudv1pb.NewCloudProviderServiceClient(provider)}),
		},
	})
	if err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	elector := election.New(election.Config{Masters: mastersv1pb.NewMastersServiceClient(conn), Component: "cloud-controller-manager", Log: log})
	server, err := rpc.NewServer(rpc.ServerConfig{Address: cfg.ListenAddress, Identity: identity, Log: log})
	if err != nil {
		return err
	}
	return lifecycle.RunAll(ctx,
		identity.Run,
		func(ctx context.Context) error {
			return pki.RenewLoop(ctx, cfg.Identity, certificatev1pb.NewCertificateServiceClient(conn), log)
		},
		server.Run,
		caches.Run,
		elector.Run,
		elector.WhileLeader(func(ctx context.Context) error {
			if err := caches.WaitSynced(ctx); err != nil {
				return nil //nolint:nilerr // leadership ended before the caches were there
			}
			return loops.Run(ctx)
		}),
	)
}
