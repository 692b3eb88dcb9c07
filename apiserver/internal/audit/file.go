package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Times in the names of full files; those that lumberjack named have milliseconds.
const (
	fullSince = "2006-01-02T15-04-05"
	fullAt    = fullSince + ".000000000"
)

// rotatingFile is a file that, once it is full, is renamed by the time, for a new one to be
// begun; the oldest of the full ones are removed. One goroutine uses it.
type rotatingFile struct {
	path     string
	maxBytes int64
	// keep full files.
	keep int
	log  *zap.Logger

	file *os.File // nil until something is written
	size int64
}

// write appends whole lines of together at most maxBytes.
func (f *rotatingFile) write(lines []byte) error {
	if f.file == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	if f.size > 0 && f.size+int64(len(lines)) > f.maxBytes {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	n, err := f.file.Write(lines)
	f.size += int64(n)
	return err
}

// open goes on with the file that is there, or begins it.
func (f *rotatingFile) open() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.file, f.size = file, info.Size()
	return nil
}

func (f *rotatingFile) close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// rotate puts the file aside and begins another. That old ones cannot be removed is told and
// does not stop it.
func (f *rotatingFile) rotate() error {
	if err := f.close(); err != nil {
		return err
	}
	name, err := f.freeName(time.Now())
	if err != nil {
		return err
	}
	if err := os.Rename(f.path, name); err != nil {
		return fmt.Errorf("put the full file aside: %w", err)
	}
	if err := f.removeOld(); err != nil {
		f.log.Warn("old files of the audit log stay", zap.Error(err))
	}
	return f.open()
}

// freeName is a name that no file has: clocks tick coarsely and are set back, and renaming
// would replace what is there.
func (f *rotatingFile) freeName(at time.Time) (string, error) {
	for ; ; at = at.Add(time.Nanosecond) {
		before, ext := f.around()
		name := before + at.UTC().Format(fullAt) + ext
		switch _, err := os.Lstat(name); {
		case errors.Is(err, fs.ErrNotExist):
			return name, nil
		case err != nil:
			return "", err
		}
	}
}

// around is what stands before and after the time in the names of full files.
func (f *rotatingFile) around() (before, ext string) {
	ext = filepath.Ext(f.path)
	return strings.TrimSuffix(f.path, ext) + "-", ext
}

// removeOld removes full files until no more than keep are left.
func (f *rotatingFile) removeOld() error {
	dir := filepath.Dir(f.path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	before, ext := f.around()
	var full []string
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		rest, named := strings.CutPrefix(path, before)
		at, ends := strings.CutSuffix(rest, ext)
		if _, err := time.Parse(fullSince, at); named && ends && err == nil { // it takes fractions as well
			full = append(full, path)
		}
	}
	slices.Sort(full)
	var errs []error
	for _, path := range full[:max(0, len(full)-f.keep)] {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}
