package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kijabi.dev/test/faults/internal/cluster"
)

// spare is what is free on the small disk before it is filled.
const spare = 64 << 20

// trial is what the log of the member takes in which a snapshot is tried.
const trial = 64 << 20

// fullDisk puts a machine's state on a small disk and fills that.
func fullDisk() []Fault {
	on := func(id, about string, leader bool) Fault {
		return Fault{
			ID: "F5/" + id, About: about, Hold: 3 * time.Second, Limit: 30 * time.Second,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				master := s.follower()
				if leader {
					master = s.Leader
				}
				return fill(ctx, s, master)
			},
		}
	}
	return []Fault{on("follower", "the disk of a follower is full", false), on("leader", "the disk of the leader is full", true)}
}

// fill restarts a machine with its state on a tmpfs and fills that up. A leader that is
// restarted leads no more; leadership is handed back before the disk is filled.
func fill(ctx context.Context, s Scene, master string) (*Injection, error) {
	dir := filepath.Join(s.Cluster.Dir(master), "lib")
	filler := filepath.Join(dir, "filler")
	in := &Injection{
		Victims: []string{master},
		Killed:  []string{master}, // its audit log has no room, either
		// What a snapshot on trial took is free again after it: then that much is, at the end.
		Verify: func(context.Context) error { return full(dir, 1<<20+trial) },
	}
	in.Heal = func(ctx context.Context) error {
		if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, _, err := s.Cluster.AwaitWhole(ctx, time.Minute); err != nil {
			return fmt.Errorf("with room on its disk again: %w", err)
		}
		return offTmpfs(ctx, s, master, dir)
	}
	if err := ontoTmpfs(ctx, s, master, dir); err != nil {
		return in, err
	}
	if _, _, err := s.Cluster.AwaitWhole(ctx, time.Minute); err != nil {
		return in, err
	}
	if master == s.Leader {
		if err := s.Cluster.Lead(ctx, master); err != nil {
			return in, err
		}
	}
	if err := fillUp(filler); err != nil {
		return in, err
	}
	// The apiserver gives its reserve back, once; that is taken, too.
	reserve := filepath.Join(s.Cluster.DataDir(master), "etcd", "reserve")
	if err := cluster.Await(ctx, 10*time.Second, "the reserve is given back", func() error {
		if _, err := os.Stat(reserve); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(fmt.Errorf("%s is still there", reserve), err)
		}
		return nil
	}); err != nil {
		return in, err
	}
	return in, errors.Join(fillUp(filler), full(dir, 1<<20))
}

// full checks that a directory is on a tmpfs with no more than the given bytes free.
func full(dir string, bytes uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if free := fs.Bavail * uint64(fs.Bsize); fs.Type != unix.TMPFS_MAGIC || free > bytes {
		return fmt.Errorf("%s has %d bytes free on file system %x", dir, free, fs.Type)
	}
	return nil
}

// fillUp writes until there is no room.
func fillUp(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		if _, err = f.Write(piece); err != nil {
			piece = piece[:len(piece)/2]
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		return errors.Join(fmt.Errorf("fill %s: %w", name, err), f.Close())
	}
	return f.Close()
}

func ontoTmpfs(ctx context.Context, s Scene, master, dir string) error {
	if err := s.Cluster.Power(ctx, "stop", master); err != nil {
		return err
	}
	below := dir + ".disk"
	if err := os.Rename(dir, below); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	used, err := usage(below)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", used+spare)); err != nil {
		return fmt.Errorf("mount a tmpfs of %d bytes on %s: %w", used+spare, dir, err)
	}
	if err := copyAll(ctx, below, dir); err != nil {
		return err
	}
	return s.Cluster.Power(ctx, "start", master)
}

func offTmpfs(ctx context.Context, s Scene, master, dir string) error {
	if err := s.Cluster.Power(ctx, "stop", master); err != nil {
		return err
	}
	below := dir + ".disk"
	if err := os.RemoveAll(below); err != nil {
		return err
	}
	if err := os.Mkdir(below, 0o755); err != nil {
		return err
	}
	if err := copyAll(ctx, dir, below); err != nil {
		return err
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(below, dir)); err != nil {
		return err
	}
	return s.Cluster.Power(ctx, "start", master)
}

func copyAll(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s to %s: %w: %s", from, to, err, out)
	}
	return nil
}

// usage is what the files below a directory take.
func usage(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		total += (info.Size() + 4095) &^ 4095
		return nil
	})
	return total, err
}
