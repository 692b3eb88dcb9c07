package informer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// Set runs informers over one client.
type Set struct {
	client *client.Client
	log    *zap.Logger

	mu      sync.Mutex
	members []member
}

type member struct {
	name   string
	run    lifecycle.Task
	synced <-chan struct{}
}

// NewSet returns an empty set.
func NewSet(c *client.Client, log *zap.Logger) *Set {
	return &Set{client: c, log: log}
}

// Of adds an informer of T to the set. Call it before Run.
func Of[T object.Object](s *Set, opts ...Option) *Informer[T] {
	o := options{indexes: map[string]func(object.Object) []string{}, snapshotGrace: time.Second}
	for _, opt := range opts {
		opt(&o)
	}
	inf := newInformer[T](s.client, s.log, o)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, member{name: inf.kind.GVK.Kind, run: inf.run, synced: inf.synced})
	return inf
}

// Run runs every informer until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	s.mu.Lock()
	tasks := make([]lifecycle.Task, 0, len(s.members))
	for _, m := range s.members {
		tasks = append(tasks, m.run)
	}
	s.mu.Unlock()
	return lifecycle.RunAll(ctx, tasks...)
}

// WaitSynced returns once every informer has its collection.
func (s *Set) WaitSynced(ctx context.Context) error {
	s.mu.Lock()
	members := append([]member(nil), s.members...)
	s.mu.Unlock()
	for _, m := range members {
		select {
		case <-m.synced:
		case <-ctx.Done():
			return fmt.Errorf("%s cache has not synced: %w", m.name, ctx.Err())
		}
	}
	return nil
}

// HasSynced says whether every informer has its collection.
func (s *Set) HasSynced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		select {
		case <-m.synced:
		default:
			return false
		}
	}
	return true
}
