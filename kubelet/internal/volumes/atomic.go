package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Names within a projected volume. Everything a pod sees goes through dataLink, so
// replacing that one link replaces all files at once.
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
	dataPrefix  = "..data-"
)

// write makes directory show exactly files, atomically for readers. group, if set,
// may read them all.
func write(directory string, files map[string]file, group *int64) error {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	current, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if current != "" {
		same, err := equal(root, current, files, group)
		if err != nil {
			return err
		}
		if same {
			return links(root, files)
		}
	}
	fresh, err := os.MkdirTemp(directory, dataPrefix)
	if err != nil {
		return err
	}
	name := filepath.Base(fresh)
	if err := fill(root, name, files, group); err != nil {
		_ = root.RemoveAll(name)
		return err
	}
	if err := root.Remove(dataLinkNew); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Symlink(name, dataLinkNew); err != nil {
		return err
	}
	if err := root.Rename(dataLinkNew, dataLink); err != nil {
		return err
	}
	if err := links(root, files); err != nil {
		return err
	}
	return sweep(root, name)
}

func fill(root *os.Root, name string, files map[string]file, group *int64) error {
	if err := root.Chmod(name, directoryMode); err != nil {
		return err
	}
	for path, f := range files {
		target := filepath.Join(name, path)
		if err := root.MkdirAll(filepath.Dir(target), directoryMode); err != nil {
			return err
		}
		if err := root.WriteFile(target, f.data, 0o600); err != nil {
			return err
		}
		if group != nil {
			if err := root.Chown(target, -1, int(*group)); err != nil {
				return err
			}
		}
		// After writing, and beyond the umask.
		if err := root.Chmod(target, permissions(f, group)); err != nil {
			return err
		}
	}
	return nil
}

func permissions(f file, group *int64) os.FileMode {
	mode := os.FileMode(f.mode) & os.ModePerm
	if group != nil {
		mode |= 0o440
	}
	return mode
}

// equal reports whether the generation called name holds exactly files.
func equal(root *os.Root, name string, files map[string]file, group *int64) (bool, error) {
	seen := 0
	err := fs.WalkDir(root.FS(), name, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		want, ok := files[strings.TrimPrefix(path, name+"/")]
		if !ok {
			return errDifferent
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != permissions(want, group) || info.Size() != int64(len(want.data)) {
			return errDifferent
		}
		data, err := root.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, want.data) {
			return errDifferent
		}
		seen++
		return nil
	})
	if errors.Is(err, errDifferent) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare contents: %w", err)
	}
	return seen == len(files), nil
}

var errDifferent = errors.New("different")

// links makes one link per top-level name and removes those of names that are gone.
func links(root *os.Root, files map[string]file) error {
	wanted := map[string]bool{}
	for path := range files {
		top, _, _ := strings.Cut(path, "/")
		wanted[top] = true
	}
	for name := range wanted {
		if _, err := root.Lstat(name); err == nil {
			continue
		}
		if err := root.Symlink(filepath.Join(dataLink, name), name); err != nil {
			return err
		}
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "..") || wanted[entry.Name()] {
			continue
		}
		if err := root.Remove(entry.Name()); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes generations other than the current one, also of a kubelet that
// was killed while writing.
func sweep(root *os.Root, current string) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), dataPrefix) && entry.Name() != current {
			if err := root.RemoveAll(entry.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
