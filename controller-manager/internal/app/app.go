// Package app wires the controller-manager.
package app

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/controllers/horizontalpodautoscaler"
	"kijabi.dev/controller-manager/internal/controllers/nodelifecycle"
	"kijabi.dev/controller-manager/internal/controllers/podgc"
	"kijabi.dev/controller-manager/internal/metrics"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/standby"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.ControllerManagerConfiguration {
	return &configv1.ControllerManagerConfiguration{
		Network:              configv1.DefaultNetwork(),
		NodeMaskSize:         24,
		NodeUnreachableAfter: metav1.Duration{Duration: 4 * time.Second},
		FinishedPodsKept:     podgc.Threshold,
		AutoscalerSyncPeriod: metav1.Duration{Duration: 15 * time.Second},
	}
}

// Run wires the component and blocks until ctx ends or a part fails.
func Run(ctx context.Context, cfg *configv1.ControllerManagerConfiguration, log *zap.Logger) error {
	bundle, err := os.ReadFile(cfg.ClusterCAFile)
	if err != nil {
		return fmt.Errorf("cluster CA: %w", err)
	}
	podRange, err := netip.ParsePrefix(cfg.Network.PodCIDR)
	if err != nil {
		return fmt.Errorf("network.podCIDR: %w", err)
	}
	serviceRange, err := netip.ParsePrefix(cfg.Network.ServiceCIDR)
	if err != nil {
		return fmt.Errorf("network.serviceCIDR: %w", err)
	}
	program, err := standby.New(standby.Config{Component: pki.ComponentControllerManager, Common: cfg.Common, APIServer: cfg.APIServer, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()

	clk := clock.RealClock{}
	liveness := nodelifecycle.NewLiveness(nodev1pb.NewNodeServiceClient(program.Conn), clk, log)
	usage := horizontalpodautoscaler.NewKubelets(horizontalpodautoscaler.KubeletsConfig{
		Nodes: nodev1pb.NewNodeServiceClient(program.Conn), Every: cfg.AutoscalerSyncPeriod.Duration, Clock: clk, Log: log,
	})
	w := &wiring{
		caches: gather(program.Caches, program.API, program.Dial, log),
		cfg:    cfg, api: program.API, clock: clk, liveness: liveness, usage: usage, bundle: string(bundle), podRange: podRange, serviceRange: serviceRange,
		voices: &voices{api: program.API, clock: clk, log: log},
	}
	loops, err := controller.NewRuntime(controller.RuntimeConfig{Client: program.API, Clock: clk, Log: log, Controllers: w.loops()})
	if err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	controllermanagerv1pb.RegisterControllerManagerServiceServer(program.Server, &service{
		loops: loops, elector: program.Elector,
		metrics: metrics.New(metrics.Config{Loops: loops.Loops, Leading: func() (bool, uint64) {
			state, _ := program.Elector.State()
			return state.Leading, state.Epoch
		}}),
	})
	return program.Run(ctx, func(ctx context.Context) error {
		return lifecycle.RunAll(ctx, append(w.voices.tasks, liveness.Run, usage.Run, loops.Run)...)
	})
}
