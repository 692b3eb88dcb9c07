// Package app wires the scheduler.
package app

import (
	"context"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/clock"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/events"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/standby"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	schedulerv1pb "kijabi.dev/proto/gen/kijabi/scheduler/v1"
)

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.SchedulerConfiguration { return &configv1.SchedulerConfiguration{} }

// Run wires the component and blocks until ctx ends or a part fails.
func Run(ctx context.Context, cfg *configv1.SchedulerConfiguration, log *zap.Logger) error {
	program, err := standby.New(standby.Config{Component: pki.ComponentScheduler, Common: cfg.Common, APIServer: cfg.APIServer, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()

	recorder := events.New(events.Config{Writer: program.API, Component: schedulerName, Clock: clock.RealClock{}, Log: log})
	s := newScheduler(program.API, recorder, clock.RealClock{}, log)
	informer.Of[*corev1.Node](program.Caches).OnChange(s.nodeChanged)
	informer.Of[*corev1.Pod](program.Caches).OnChange(s.podChanged)
	informer.Of[*corev1.PersistentVolumeClaim](program.Caches).OnChange(s.claimChanged)
	informer.Of[*corev1.PersistentVolume](program.Caches).OnChange(s.volumeChanged)
	informer.Of[*storagev1.StorageClass](program.Caches).OnChange(s.classChanged)
	schedulerv1pb.RegisterSchedulerServiceServer(program.Server, &service{scheduler: s})
	return program.Run(ctx, func(ctx context.Context) error {
		return lifecycle.RunAll(ctx, s.run, recorder.Run)
	})
}
