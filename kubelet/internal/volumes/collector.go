package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// sweepEvery is how often unused volumes are asked about.
	sweepEvery = time.Minute
	// sweepGap lies between two sweeps, however much happens.
	sweepGap = 2 * time.Second
	// secondOpinion is how long a volume must have been gone, as masters say, before its
	// directory is removed: one answer is not enough for something that cannot be undone.
	secondOpinion = 10 * time.Second
	// trashPrefix begins the names of directories that are being removed.
	trashPrefix = ".removing-"
)

// Masters answers about volumes as they are now, never from a copy of this machine.
type Masters interface {
	// Origin says which cluster answers.
	Origin(ctx context.Context) (Origin, error)
	// Exists says whether there is a PersistentVolume of this name. An error means that
	// nobody knows.
	Exists(ctx context.Context, name string) (bool, error)
}

// verdict on a volume's directory.
type verdict int

const (
	keepIt   verdict = iota
	askAgain         // gone, says one answer
	orphan           // gone for a cluster whose data is not the one that knew the volume
	removeIt
)

// judge decides about a directory that no pod uses. since is how long ago a master was first
// heard to say that the volume does not exist, with no other answer in between; negative if
// this is the first time.
//
// Only the name matters, not the uid: it holds the uid of the claim, so a PersistentVolume
// of the name, made anew or restored, means the same data.
func judge(r record, by Origin, exists bool, since time.Duration) verdict {
	switch {
	case exists:
		return keepIt
	case r.Known != by:
		return orphan
	case since < secondOpinion:
		return askAgain
	}
	return removeIt
}

// Run removes the directories of volumes that are gone, until ctx ends.
func (v *Volumes) Run(ctx context.Context) error {
	sweeper := sweeper{volumes: v, absent: map[string]time.Time{}, told: map[string]bool{}}
	due, last := v.cfg.Clock.Now(), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.made:
			sweeper.confirm(ctx)
			continue
		case <-v.changed:
			if soon := last.Add(sweepGap); soon.Before(due) {
				due = soon
			}
		case <-v.cfg.Clock.After(due.Sub(v.cfg.Clock.Now())):
		}
		if v.cfg.Clock.Now().Before(due) {
			continue
		}
		wait := sweeper.sweep(ctx)
		last = v.cfg.Clock.Now()
		due = last.Add(wait)
	}
}

// confirm asks about volumes that nobody said to exist yet. It is done at once after one was
// made: one that nobody ever said to exist is not removed.
func (s *sweeper) confirm(ctx context.Context) {
	v := s.volumes
	list, err := v.records.all()
	if err != nil {
		return // sweep tells
	}
	var by Origin
	for name, r := range list {
		if r.Known != (Origin{}) {
			continue
		}
		if by == (Origin{}) {
			if by, err = v.cfg.Masters.Origin(ctx); err != nil {
				return
			}
		}
		if exists, err := v.cfg.Masters.Exists(ctx, name); err != nil || !exists {
			continue
		}
		if err := v.records.confirm(name, by); err != nil {
			v.cfg.Log.Error("volume not recorded", zap.String("volume", name), zap.Error(err))
		}
	}
}

// signal wakes Run; it does not block.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// hold keeps the collector off a volume that is being mounted, until release.
func (v *Volumes) hold(name string) (release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.held[name]++
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.held[name]--; v.held[name] == 0 {
			delete(v.held, name)
		}
	}
}

// sweeper is what the collector remembers between sweeps.
type sweeper struct {
	volumes *Volumes
	absent  map[string]time.Time // since when masters say that a volume is gone
	told    map[string]bool      // orphans that the log knows about
}

// sweep looks at every recorded volume and returns when to do so again at the latest.
func (s *sweeper) sweep(ctx context.Context) time.Duration {
	v, log := s.volumes, s.volumes.cfg.Log
	list, err := v.records.all()
	if err != nil {
		log.Error("volumes are not collected", zap.Error(err))
		return sweepEvery
	}
	if err := v.emptyTrash(); err != nil {
		log.Error("left-overs of a volume not removed", zap.Error(err))
	}
	if len(list) == 0 {
		return sweepEvery
	}
	by, err := v.cfg.Masters.Origin(ctx)
	if err != nil {
		return s.silent(ctx, err)
	}
	wait := sweepEvery
	for name, r := range list {
		used, err := v.inUse(name)
		if err != nil {
			log.Warn("volume not looked at", zap.String("volume", name), zap.Error(err))
			continue
		}
		if used && r.Known == by {
			delete(s.absent, name)
			continue
		}
		exists, err := v.cfg.Masters.Exists(ctx, name)
		if err != nil {
			return s.silent(ctx, err)
		}
		if exists {
			delete(s.absent, name)
			if err := v.records.confirm(name, by); err != nil {
				log.Error("volume not recorded", zap.String("volume", name), zap.Error(err))
			}
		}
		if used {
			if !exists {
				wait = secondOpinion // it may not be known yet to the master that answers
			}
			continue
		}
		since := time.Duration(-1)
		if first, ok := s.absent[name]; ok {
			since = v.cfg.Clock.Since(first)
		}
		switch judge(r, by, exists, since) {
		case keepIt:
		case orphan:
			if !s.told[name] {
				s.told[name] = true
				log.Warn("directory of a volume that the cluster does not know is kept, since the cluster was restored or is another",
					zap.String("volume", name), zap.String("claim", r.Claim), zap.String("directory", filepath.Join(v.cfg.Root, name)))
			}
		case askAgain:
			if since < 0 {
				s.absent[name] = v.cfg.Clock.Now()
			}
			wait = secondOpinion
		case removeIt:
			delete(s.absent, name)
			if err := v.remove(name); err != nil {
				log.Error("volume not removed", zap.String("volume", name), zap.Error(err))
				continue
			}
			log.Info("volume removed", zap.String("volume", name), zap.String("claim", r.Claim))
		}
	}
	if err := v.emptyTrash(); err != nil {
		log.Error("left-overs of a volume not removed", zap.Error(err))
	}
	return wait
}

// silent forgets all that was said so far: two answers count only if none failed between them.
func (s *sweeper) silent(ctx context.Context, err error) time.Duration {
	clear(s.absent)
	if ctx.Err() == nil {
		s.volumes.cfg.Log.Info("no master says which volumes are gone", zap.Error(err))
	}
	return sweepEvery
}

// inUse says whether a pod of this machine has a volume mounted, or is about to.
func (v *Volumes) inUse(name string) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.usedLocked(name)
}

// usedLocked is called with mu held.
func (v *Volumes) usedLocked(name string) (bool, error) {
	if v.held[name] > 0 {
		return true, nil
	}
	fd, err := unix.Open(filepath.Join(v.cfg.Root, name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	users, err := v.users(fd)
	return len(users) > 0, err
}

// remove puts the directory of a volume aside for emptyTrash and takes it off the list,
// unless it is in use after all.
func (v *Volumes) remove(name string) error {
	if !isVolumeName(name) {
		return fmt.Errorf("%q is not the name of a volume", name)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if used, err := v.usedLocked(name); err != nil {
		return err
	} else if used {
		return errors.New("it came into use")
	}
	root, err := os.OpenRoot(v.cfg.Root)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := unmountedBelow(filepath.Join(v.cfg.Root, name)); err != nil {
		return err
	}
	trash := trashPrefix + strconv.FormatInt(v.cfg.Clock.Now().UnixNano(), 36) + "-" + name
	if err := root.Rename(name, trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return v.records.drop(name)
}

// emptyTrash removes what was put aside, also by a kubelet that ended before it was through.
func (v *Volumes) emptyTrash() error {
	root, err := os.OpenRoot(v.cfg.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), trashPrefix) {
			continue
		}
		if err := unmountedBelow(filepath.Join(v.cfg.Root, entry.Name())); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, root.RemoveAll(entry.Name()))
	}
	return errors.Join(errs...)
}

// unmountedBelow fails when something is mounted at or below a directory: removing it would
// remove files that are not the volume's.
func unmountedBelow(directory string) error {
	mounts, err := mountsBelow(directory)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s has mounts: %s", directory, strings.Join(mounts, " "))
	}
	return nil
}
