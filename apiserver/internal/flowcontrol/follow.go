package flowcontrol

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/lifecycle"
)

// Resources that a Follower reads, as the store names them.
const (
	resourceSchemas = "flowschemas.flowcontrol.apiserver.k8s.io"
	resourceLevels  = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io"
)

// followPause is the time between two attempts to watch.
const followPause = time.Second

// Follower configures a limiter by the FlowSchemas and PriorityLevelConfigurations of a store.
// One that is deleted gives way to the built-in one of its name, if there is one.
type Follower struct {
	store   *store.Store
	limiter *Limiter
	log     *zap.Logger
	mu      sync.Mutex // one reading at a time, so that the newest is the last
}

// NewFollower returns a follower.
func NewFollower(s *store.Store, l *Limiter, log *zap.Logger) *Follower {
	return &Follower{store: s, limiter: l, log: log}
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	select {
	case <-f.store.Ready():
	case <-ctx.Done():
		return nil
	}
	return lifecycle.RunAll(ctx,
		func(ctx context.Context) error { return f.follow(ctx, resourceSchemas) },
		func(ctx context.Context) error { return f.follow(ctx, resourceLevels) })
}

func (f *Follower) follow(ctx context.Context, resource string) error {
	for {
		err := f.watch(ctx, resource)
		if ctx.Err() != nil || errors.Is(err, store.ErrStopped) {
			return nil
		}
		// A master that cannot prove that it is current goes on with what it knows.
		f.log.Debug("watch of flow control ended", zap.String("resource", resource), zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}

func (f *Follower) watch(ctx context.Context, resource string) error {
	_, watcher, err := f.store.SnapshotAndWatch(ctx, store.WatchOptions{Resource: resource})
	if err != nil {
		return err
	}
	defer watcher.Close()
	f.configure()
	for {
		batch, err := watcher.Next(ctx)
		if err != nil {
			return err
		}
		if len(batch.Events) > 0 {
			f.configure()
		}
	}
}

// configure reads all objects anew; they are few and change seldom.
func (f *Follower) configure() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limiter.Configure(
		objects(f, resourceSchemas, func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} }),
		objects(f, resourceLevels, func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} }))
}

func objects[T interface{ Unmarshal([]byte) error }](f *Follower, resource string, empty func() T) []T {
	var out []T
	for _, record := range f.store.Snapshot(resource, "").Records {
		object := empty()
		if err := object.Unmarshal(record.Value); err != nil {
			f.log.Error("flow control object cannot be read", zap.String("object", record.Key.String()), zap.Error(err))
			continue
		}
		out = append(out, object)
	}
	return out
}
