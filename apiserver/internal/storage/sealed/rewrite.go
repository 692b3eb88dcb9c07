package sealed

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/store"
)

const (
	// rewriteAtOnce values are written in one request, every rewritePause: at most 500 a second.
	rewriteAtOnce = 50
	rewritePause  = 100 * time.Millisecond
	// rewriteRetry is the pause after a failure.
	rewriteRetry = 10 * time.Second
)

// Progress says how far rewriting has come. It is the leading master's; others know nothing.
type Progress struct {
	// Total is the number of values that are to be sealed.
	Total int
	// Stale is the number of those not yet sealed with the present key.
	Stale int
	// Unreadable is the number that no key opens.
	Unreadable int
}

// RewriterConfig is what a Rewriter needs; all fields are required.
type RewriterConfig struct {
	// Store that writes. It must be on Backend.
	Store   *store.Store
	Backend *Backend
	// User that the writes are made by.
	User string
	Log  *zap.Logger
}

// Rewriter stores anew, on the leading master, what is plain or sealed with an older key: at
// the beginning of a term and whenever the keys have changed.
type Rewriter struct {
	cfg      RewriterConfig
	progress atomic.Pointer[Progress]
}

// NewRewriter returns a rewriter.
func NewRewriter(cfg RewriterConfig) *Rewriter {
	r := &Rewriter{cfg: cfg}
	r.progress.Store(&Progress{})
	return r
}

// Progress of the present or last pass.
func (r *Rewriter) Progress() Progress { return *r.progress.Load() }

// Run rewrites until ctx ends.
func (r *Rewriter) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		// Both are taken before the pass, so that no change during it is missed.
		keys, term := r.cfg.Backend.envelope.keys.Changed(), r.cfg.Store.TermChanged()
		var retry <-chan time.Time
		if r.cfg.Store.Term().Leading {
			if err := r.pass(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotLeading) {
				r.cfg.Log.Warn("rewriting of sealed objects failed, trying again", zap.Error(err))
				retry = time.After(rewriteRetry)
			}
		}
		select {
		case <-ctx.Done():
		case <-keys:
		case <-term:
		case <-retry:
		}
	}
	return nil
}

// pass finds what is stale and rewrites it.
func (r *Rewriter) pass(ctx context.Context) error {
	var progress Progress
	var old []store.Pair
	total, err := r.cfg.Backend.stale(ctx, func(stale, unreadable []store.Pair) error {
		for _, p := range stale { // without the values, which may be many
			old = append(old, store.Pair{Key: p.Key, Revision: p.Revision})
		}
		for _, p := range unreadable {
			r.cfg.Log.Error("object cannot be read", zap.Error(p.Err))
		}
		progress.Unreadable += len(unreadable)
		return nil
	})
	if err != nil {
		return fmt.Errorf("find stale values: %w", err)
	}
	progress.Total, progress.Stale = total, len(old)
	r.report(progress)
	if len(old) == 0 {
		return nil
	}
	key := r.cfg.Backend.envelope.keys.Sealing()
	r.cfg.Log.Info("rewriting objects under the present storage key", zap.String("key", key), zap.Int("stale", len(old)), zap.Int("total", total))
	for len(old) > 0 {
		n := min(rewriteAtOnce, len(old))
		if err := r.rewrite(ctx, old[:n]); err != nil {
			return err
		}
		old = old[n:]
		progress.Stale = len(old)
		r.report(progress)
		if len(old) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rewritePause):
		}
	}
	r.cfg.Log.Info("all objects are sealed with the present storage key", zap.String("key", key), zap.Int("total", total), zap.Int("unreadable", progress.Unreadable))
	return nil
}

func (r *Rewriter) report(p Progress) { r.progress.Store(&p) }

// rewrite stores objects anew, unless somebody has written them meanwhile.
func (r *Rewriter) rewrite(ctx context.Context, pairs []store.Pair) error {
	group := store.Group{User: r.cfg.User}
	for _, p := range pairs {
		key, ok := store.KeyOf(p.Key)
		if !ok {
			continue
		}
		group.Writes = append(group.Writes, store.Write{Key: key, Decide: func(current *store.Record) (store.Change, error) {
			if current == nil || store.RevisionOf(current.Version) != p.Revision {
				return store.Change{Keep: true}, nil
			}
			return store.Change{Rewrite: true}, nil
		}})
	}
	if _, err := r.cfg.Store.Commit(ctx, group); err != nil {
		return fmt.Errorf("rewrite %d objects: %w", len(group.Writes), err)
	}
	return nil
}
