package preflight

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// localDisk is the file systems of this process.
type localDisk struct{}

var _ Disk = localDisk{}

// existing is dir, or the nearest directory above it that exists.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			return dir
		}
		dir = above
	}
}

// within calls use with an own directory near dir and removes it.
func within(dir string, use func(own string) error) error {
	own, err := os.MkdirTemp(existing(dir), ".kijabi-preflight-")
	if err != nil {
		return err
	}
	return errors.Join(use(own), os.RemoveAll(own))
}

func (localDisk) Space(dir string) (Space, error) {
	var info unix.Statfs_t
	if err := unix.Statfs(existing(dir), &info); err != nil {
		return Space{}, err
	}
	size := uint64(info.Bsize)
	return Space{Free: info.Bavail * size, Total: info.Blocks * size, FreeFiles: info.Ffree, Files: info.Files}, nil
}

// kinds of file systems by the number that statfs gives (linux/magic.h).
func kinds() map[uint32]string {
	return map[uint32]string{
		0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
		0x794C7630: "overlay", 0x01021994: "tmpfs", 0x858458F6: "ramfs",
		0x6969: "nfs", 0xFE534D42: "smb", 0xFF534D42: "cifs", 0x01021997: "9p", 0x00C36400: "ceph", 0x65735546: "fuse",
	}
}

func (localDisk) Filesystem(dir string) (Filesystem, error) {
	var info unix.Statfs_t
	if err := unix.Statfs(existing(dir), &info); err != nil {
		return Filesystem{}, err
	}
	kind, known := kinds()[uint32(info.Type)]
	if !known {
		kind = fmt.Sprintf("type %#x", uint32(info.Type))
	}
	return Filesystem{Kind: kind, NoExec: info.Flags&unix.ST_NOEXEC != 0}, nil
}

func (localDisk) Write(dir string) error {
	return within(dir, func(own string) error {
		written := bytes.Repeat([]byte("kijabi"), 1000)
		before, after := filepath.Join(own, "before"), filepath.Join(own, "after")
		file, err := os.Create(before)
		if err != nil {
			return err
		}
		// The data store locks its files.
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			_, err = file.Write(written)
		}
		if err == nil {
			err = file.Sync()
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
		if err := os.Rename(before, after); err != nil {
			return err
		}
		read, err := os.ReadFile(after)
		if err == nil && !bytes.Equal(read, written) {
			err = errors.New("what is read is not what was written")
		}
		return err
	})
}

func (localDisk) Overlay(dir string) error {
	return within(dir, func(own string) error {
		for _, name := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(filepath.Join(own, name), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(own, "lower", "file"), []byte("lower"), 0o644); err != nil {
			return err
		}
		// The mount ends with the thread's mount namespace.
		return throwAway(unix.CLONE_NEWNS, func() error { return mountOverlay(own) })
	})
}

func mountOverlay(own string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	merged := filepath.Join(own, "merged")
	escape := strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`)
	option := func(name string) string { return name + "dir=" + escape.Replace(filepath.Join(own, name)) }
	if err := unix.Mount("overlay", merged, "overlay", 0, option("lower")+","+option("upper")+","+option("work")); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := os.WriteFile(filepath.Join(merged, "file"), []byte("upper"), 0o644); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(merged, "file")); err != nil { // leaves a whiteout
		return err
	}
	return unix.Unmount(merged, unix.MNT_DETACH)
}

func (localDisk) Sync(dir string, writes int) (times []time.Duration, err error) {
	const size = 4 << 10
	err = within(dir, func(own string) error {
		file, err := os.Create(filepath.Join(own, "sync"))
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		block := bytes.Repeat([]byte{'k'}, size)
		for range writes {
			began := time.Now()
			if _, err := file.Write(block); err != nil {
				return err
			}
			if err := unix.Fdatasync(int(file.Fd())); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		return nil
	})
	return times, err
}
