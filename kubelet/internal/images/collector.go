// Package images keeps the disk from filling up with images that no container uses.
package images

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/runtime"
)

// Use of the file system, in percent, at which collecting begins and ends.
const (
	highPercent = 85
	lowPercent  = 80
	checkEvery  = 5 * time.Minute
	// minAge keeps an image that was seen unused for less; its pod may be about to start.
	minAge = 2 * time.Minute
)

// Collector removes images, those unused longest first.
type Collector struct {
	Runtime runtime.Runtime
	Clock   clock.WithTicker
	Log     *zap.Logger

	unused map[string]time.Time // image id to when it was first seen unused
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	ticker := c.Clock.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C():
		}
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("image collection", zap.Error(err))
		}
	}
}

// Collect looks once.
func (c *Collector) Collect(ctx context.Context) error {
	images, err := c.Runtime.ListImages(ctx)
	if err != nil {
		return err
	}
	containers, err := c.Runtime.ListContainers(ctx, "")
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for i := range containers {
		used[containers[i].ImageID], used[containers[i].Image] = true, true
	}
	now, unused := c.Clock.Now(), map[string]time.Time{}
	var candidates []runtime.Image
	for _, image := range images {
		if image.Pinned || inUse(image, used) {
			continue
		}
		since, known := c.unused[image.ID]
		if !known {
			since = now
		}
		unused[image.ID] = since
		if now.Sub(since) >= minAge {
			candidates = append(candidates, image)
		}
	}
	c.unused = unused
	path, err := c.Runtime.ImageFilesystem(ctx)
	if err != nil {
		return err
	}
	percent, size, err := usage(path)
	if err != nil || percent < highPercent {
		return err
	}
	slices.SortFunc(candidates, func(a, b runtime.Image) int { return unused[a.ID].Compare(unused[b.ID]) })
	toFree := (percent - lowPercent) * size / 100
	for _, image := range candidates {
		if toFree == 0 {
			return nil
		}
		if err := c.Runtime.RemoveImage(ctx, image.ID); err != nil {
			return err
		}
		c.Log.Info("image removed, the disk is nearly full", zap.Strings("names", image.Names), zap.Uint64("bytes", image.Size))
		toFree -= min(image.Size, toFree)
	}
	if toFree > 0 {
		return fmt.Errorf("image file system is %d%% full and no more unused image can be removed", percent)
	}
	return nil
}

func inUse(image runtime.Image, used map[string]bool) bool {
	return used[image.ID] || slices.ContainsFunc(image.Names, func(name string) bool { return used[name] }) ||
		slices.ContainsFunc(image.Digests, func(digest string) bool { return used[digest] })
}

// usage of the file system at path, in percent and bytes.
func usage(path string) (percent, size uint64, err error) {
	var filesystem unix.Statfs_t
	if err := unix.Statfs(path, &filesystem); err != nil {
		return 0, 0, fmt.Errorf("file system of %s: %w", path, err)
	}
	if filesystem.Blocks == 0 {
		return 0, 0, nil
	}
	used := filesystem.Blocks - filesystem.Bavail
	return used * 100 / filesystem.Blocks, filesystem.Blocks * uint64(filesystem.Bsize), nil
}
