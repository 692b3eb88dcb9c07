package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/logging"
)

// configPoll is how often the configuration is looked for. Notices of the kernel would
// not reach over every kind of shared volume.
const configPoll = 250 * time.Millisecond

// errConfigGone ends a program whose configuration was taken away.
var errConfigGone = errors.New("configuration was taken away: the program waits for another one when it is started again")

// awaitConfig returns when the configuration file is there. It fails only when ctx ends.
func awaitConfig(ctx context.Context, name string, opts options) error {
	if exists(opts.config) {
		return nil
	}
	if log, err := logging.New(opts.logLevel); err == nil { // a wrong level is reported after the wait
		log.Info("waiting for configuration", logging.Component(name), zap.String("file", opts.config))
	}
	return poll(ctx, func() bool { return exists(opts.config) })
}

// whileConfigured runs the program until its configuration file is gone.
func whileConfigured[C any](path string, run func(context.Context, *C, *zap.Logger) error) func(context.Context, *C, *zap.Logger) error {
	return func(ctx context.Context, cfg *C, log *zap.Logger) error {
		group := NewGroup(ctx)
		group.Go(func(ctx context.Context) error {
			defer group.Cancel()
			return run(ctx, cfg, log)
		})
		group.Go(func(ctx context.Context) error {
			if poll(ctx, func() bool { return !exists(path) }) != nil {
				return nil
			}
			return fmt.Errorf("%s: %w", path, errConfigGone)
		})
		return group.Wait()
	}
}

// exists says whether the file is there; one that cannot be looked at is.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// poll returns when done says so, or with ctx's error.
func poll(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(configPoll)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
