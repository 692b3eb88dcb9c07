package garbagecollector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kijabi.dev/platform/kube/object"
)

// Caches of kinds in which nothing happens may be a second behind. No worker waits for them: the
// key comes again every cacheRetry, and only after cacheTries of that is it a failure.
const (
	cacheWait  = 20 * time.Millisecond
	cacheRetry = 100 * time.Millisecond
	cacheTries = 50
)

// errBehind is that a cache does not show yet what has to be known.
var errBehind = errors.New("a cache is behind")

// awaitCaches makes sure that every cache shows what was there when obj was last
// written: a dependent that is older than its owner's deletion must not be missed. It fails with errBehind.
func (c *Controller) awaitCaches(ctx context.Context, obj object.Object) error {
	ctx, cancel := context.WithTimeout(ctx, cacheWait)
	defer cancel()
	for _, collection := range c.all() {
		if err := collection.waitVersion(ctx, obj.GetResourceVersion()); err != nil {
			return fmt.Errorf("%w: %w", errBehind, err)
		}
	}
	return nil
}

// patience counts how often keys had to wait for a cache in a row. Safe for concurrent use.
type patience struct {
	mu    sync.Mutex
	tries map[object.Key]int
}

// after is the outcome of a Reconcile that ended with err.
func (p *patience) after(key object.Key, err error) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !errors.Is(err, errBehind) {
		delete(p.tries, key)
		return 0, err
	}
	if p.tries == nil {
		p.tries = map[object.Key]int{}
	}
	if p.tries[key]++; p.tries[key] < cacheTries {
		return cacheRetry, nil
	}
	delete(p.tries, key)
	return 0, err
}
