package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/runtime"
)

// Bounds of a container's logs: the size of one file and how many are kept, the
// current one included.
const (
	maxSize      = 10 << 20
	maxFiles     = 5
	checkEvery   = 10 * time.Second
	rotationTime = "20060102-150405"
)

// Rotator keeps logs of running containers within bounds.
type Rotator struct {
	Runtime runtime.Runtime
	Clock   clock.WithTicker
	Log     *zap.Logger
}

// Run rotates until ctx ends.
func (r *Rotator) Run(ctx context.Context) error {
	ticker := r.Clock.NewTicker(checkEvery)
	defer ticker.Stop()
	paths := map[string]string{} // by container id
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C():
		}
		containers, err := r.Runtime.ListContainers(ctx, "")
		if err != nil {
			continue // the node's condition says that the runtime is away
		}
		current := map[string]string{}
		for i := range containers {
			c := &containers[i]
			if c.State != runtime.Running {
				continue
			}
			path, known := paths[c.ID]
			if !known {
				full, err := r.Runtime.Container(ctx, c.ID)
				if err != nil {
					continue
				}
				path = full.LogPath
			}
			current[c.ID] = path
			if err := r.rotate(ctx, c.ID, path); err != nil {
				r.Log.Warn("log not rotated", zap.String("file", path), zap.Error(err))
			}
		}
		paths = current
	}
}

func (r *Rotator) rotate(ctx context.Context, id, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() < maxSize {
		return nil
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old) // by time
	for len(old) > maxFiles-2 {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		old = old[1:]
	}
	rotated := fmt.Sprintf("%s.%s", path, r.Clock.Now().UTC().Format(rotationTime))
	if err := os.Rename(path, rotated); err != nil {
		return err
	}
	if err := r.Runtime.ReopenLog(ctx, id); err != nil {
		// Without a new file the runtime writes on into the old one: put it back.
		return errors.Join(err, os.Rename(rotated, path))
	}
	return nil
}
