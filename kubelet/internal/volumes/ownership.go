package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// What a group needs to use files and directories.
const (
	groupReadsWrites = 0o660
	groupEnters      = 0o110
)

// own gives all of a volume to a group: the files, and through the setgid bit what is made
// later. The top directory is last, so that its state tells whether an earlier attempt was
// complete. source is a descriptor of the volume. No symbolic link is followed out of it.
func own(ctx context.Context, source int, group int64, policy *corev1.PodFSGroupChangePolicy) error {
	path := fmt.Sprintf("/proc/self/fd/%d", source)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && owned(info, group) {
		return nil
	}
	if !info.IsDir() {
		if err := os.Chown(path, -1, int(group)); err != nil {
			return err
		}
		return os.Chmod(path, groupMode(info))
	}
	root, err := os.OpenRoot(path + "/.")
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && name != "." {
			err = give(root, name, group)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another pod of the volume has just removed it
		}
		return err
	})
	if err != nil {
		return err
	}
	return give(root, ".", group)
}

func give(root *os.Root, name string, group int64) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if owned(info, group) {
		return nil
	}
	if err := root.Lchown(name, -1, int(group)); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return root.Chmod(name, groupMode(info)) // after the change of owner, which clears bits
}

func groupMode(info fs.FileInfo) fs.FileMode {
	keep := info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if info.IsDir() {
		return keep | groupReadsWrites | groupEnters | fs.ModeSetgid
	}
	return keep | groupReadsWrites
}

func owned(info fs.FileInfo, group int64) bool {
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int64(status.Gid) != group {
		return false
	}
	return info.Mode()&fs.ModeSymlink != 0 || groupMode(info) == info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)
}
