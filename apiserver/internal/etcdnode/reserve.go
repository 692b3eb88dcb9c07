package etcdnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// reserveFile beside the data takes space that is given back when somebody else fills the disk, so
// that deletions can be written.
const reserveFile = "reserve"

// keepReserve makes the file while there is plenty of space, and removes it when there is none.
func keepReserve(dir string, log *zap.Logger) error {
	size, free, err := disk(dir)
	if err != nil {
		return err
	}
	file, want := filepath.Join(dir, reserveFile), min(reserve(size)/2, maxReserved)
	_, err = os.Stat(file)
	switch {
	case err == nil && free < want/4:
		log.Warn("the disk is full, its reserve is given back", zap.String("dir", dir), zap.Int64("bytes", want))
		return os.Remove(file)
	case errors.Is(err, fs.ErrNotExist) && free > 4*reserve(size):
		if err := allocate(file, want); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("reserve of the disk of %s: %w", dir, err)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

func allocate(file string, bytes int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, bytes), f.Close())
}

// reserved is what the file takes at present.
func reserved(dir string) int64 {
	info, err := os.Stat(filepath.Join(dir, reserveFile))
	if err != nil {
		return 0
	}
	return info.Size()
}
