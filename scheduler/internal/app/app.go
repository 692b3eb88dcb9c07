// Package app wires the scheduler.
package app

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/election"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	schedulerv1pb "kijabi.dev/proto/gen/kijabi/scheduler/v1"
)

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.SchedulerConfiguration { return &configv1.SchedulerConfiguration{} }

// Run wires the component and blocks until ctx ends or a part fails.
func Run(ctx context.Context, cfg *configv1.SchedulerConfiguration, log *zap.Logger) error {
	identity, err := pki.OpenIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	conn, err := rpc.Dial(cfg.APIServer, identity)
	if err != nil {
		return fmt.Errorf("dial apiserver %s: %w", cfg.APIServer, err)
	}
	defer func() { _ = conn.Close() }()

	api := client.New(conn)
	caches := informer.NewSet(api, log)
	s := newScheduler(api, clock.RealClock{}, log)
	informer.Of[*corev1.Node](caches).OnChange(s.nodeChanged)
	informer.Of[*corev1.Pod](caches).OnChange(s.podChanged)

	elector := election.New(election.Config{Masters: mastersv1pb.NewMastersServiceClient(conn), Component: "scheduler", Log: log})
	server, err := rpc.NewServer(rpc.ServerConfig{Address: cfg.ListenAddress, Identity: identity, Log: log})
	if err != nil {
		return err
	}
	schedulerv1pb.RegisterSchedulerServiceServer(server, &service{scheduler: s})

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
			return s.run(ctx)
		}),
	)
}
