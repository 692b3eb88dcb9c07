package volumes

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountMemory mounts a tmpfs, unless there is one already.
func mountMemory(directory, options string) error {
	mounted, err := isMountPoint(directory)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount("tmpfs", directory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount memory at %s: %w", directory, err)
	}
	return nil
}

// isMountPoint asks the kernel about the path itself, without following a link at its end.
func isMountPoint(path string) (bool, error) {
	var status unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &status)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if status.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 { // Linux before 5.8
		mounts, err := mountsBelow(path)
		return slices.Contains(mounts, path), err
	}
	return status.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// mountsBelow lists mount points at or below directory, deepest first. A link on the way to
// directory does not hide them; the kernel knows them by where it leads.
func mountsBelow(directory string) ([]string, error) {
	place, err := filepath.EvalSymlinks(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	var result []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 5 {
			continue
		}
		path := unescape(fields[4])
		if path == place || strings.HasPrefix(path, place+"/") {
			result = append(result, directory+strings.TrimPrefix(path, place))
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	slices.Reverse(result) // later mounts lie on earlier ones
	return result, nil
}

// detach unmounts a path and what is mounted below it, at once for new users; those who have
// files open keep them. Other places that show the same files keep what is mounted there.
func detach(path string) error {
	if err := part(path, unix.MS_REC); err != nil {
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// part ends the sharing of mounts with other places that show the same files: without it,
// unmounting something below path would unmount it there, too.
func part(path string, flags uintptr) error {
	if err := unix.Mount("", path, "", unix.MS_PRIVATE|flags, ""); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("part with %s: %w", path, err)
	}
	return nil
}

// unescape undoes the kernel's octal escapes of blanks and backslashes.
func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if value, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(value))
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}
