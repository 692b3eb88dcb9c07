// Package syncer carries changes of Services and EndpointSlices to the data plane.
package syncer

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/services"
)

const (
	// minPeriod is the least time between two updates of the data plane. The first change
	// after a pause goes at once; those that follow closely gather.
	minPeriod = 5 * time.Millisecond
	// retryPeriod is how long after a failure everything is sent anew.
	retryPeriod = time.Second
)

// Config configures a Syncer; every field is required.
type Config struct {
	// NodeName of this machine.
	NodeName string
	// Planes all get every update; each takes what is of its address family.
	Planes []dataplane.Plane
	Clock  clock.Clock
	Log    *zap.Logger
	// Ready is called once, when the planes first took everything.
	Ready func()
}

// Syncer keeps data planes in step with the cluster. It is safe for concurrent use.
type Syncer struct {
	cfg   Config
	dirty chan struct{} // holds one token when the table changed

	mu         sync.Mutex
	table      *services.Table
	programmed time.Time // zero until the first update succeeded
}

// New returns a Syncer that knows nothing yet.
func New(cfg Config) *Syncer {
	return &Syncer{cfg: cfg, dirty: make(chan struct{}, 1), table: services.NewTable(cfg.NodeName)}
}

// ServiceChanged takes an informer's change; before or after may be nil.
func (s *Syncer) ServiceChanged(before, after *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case after != nil:
		s.table.SetService(after)
	case before != nil:
		s.table.DeleteService(types.NamespacedName{Namespace: before.Namespace, Name: before.Name})
	}
	s.kick()
}

// SliceChanged takes an informer's change; before or after may be nil.
func (s *Syncer) SliceChanged(before, after *discoveryv1.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.SetSlice(before, after)
	s.kick()
}

func (s *Syncer) kick() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Run updates the planes until ctx ends. Call it once everything that existed has
// been reported: its first update replaces whatever an earlier process had set up.
//
// When a plane fails, everything is sent anew after a second, or with the next change.
func (s *Syncer) Run(ctx context.Context) error {
	full, ready := true, false
	for {
		begin := s.cfg.Clock.Now()
		ok := s.update(full)
		full = !ok
		if ok && !ready {
			ready = true
			s.cfg.Ready()
		}
		if !s.pause(ctx, minPeriod-s.cfg.Clock.Since(begin), nil) {
			return nil
		}
		if ok {
			select {
			case <-ctx.Done():
				return nil
			case <-s.dirty:
			}
		} else if !s.pause(ctx, retryPeriod, s.dirty) {
			return nil
		}
	}
}

// pause waits, not beyond a token of wake, and reports whether ctx goes on.
func (s *Syncer) pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := s.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
	case <-wake:
	}
	return true
}

// update sends what changed, or everything, and reports whether the planes took it.
func (s *Syncer) update(full bool) bool {
	s.mu.Lock()
	changes := s.table.Changes()
	if full {
		changes = s.table.All()
	}
	s.mu.Unlock()
	if len(changes) == 0 && !full {
		return true
	}
	begin := s.cfg.Clock.Now()
	var errs error
	for _, p := range s.cfg.Planes {
		errs = errors.Join(errs, p.Sync(dataplane.Update{Full: full, Services: changes}))
	}
	if errs != nil {
		s.cfg.Log.Error("data plane not updated, trying again", zap.Int("services", len(changes)), zap.Error(errs))
		return false
	}
	now := s.cfg.Clock.Now()
	s.mu.Lock()
	s.programmed = now
	s.mu.Unlock()
	log := s.cfg.Log.Debug
	if full {
		log = s.cfg.Log.Info
	}
	log("data plane updated", zap.Bool("full", full), zap.Int("services", len(changes)), zap.Duration("took", now.Sub(begin)))
	return true
}

// Programmed says when the planes last took an update; zero means never.
func (s *Syncer) Programmed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.programmed
}

// Lookup finds the frontend of an address.
func (s *Syncer) Lookup(front services.Front) (services.Frontend, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.Lookup(front)
}
