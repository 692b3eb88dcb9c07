// Package datadir keeps a data directory to one process: two that write to the same etcd or raft
// data destroy it, or wait for each other without a word.
package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// LockFile lies in a directory that was ever locked, and stays: the lock is on the file, and ends
// with the process that holds it. It names that process.
const LockFile = "lock"

// Lock takes directories for this process, all or none, until release is called. Those that do
// not exist are made, for their owner only. It does not wait: an error names the directory, the process that
// has it, and what to do.
func Lock(dirs ...string) (release func(), err error) {
	var held []*os.File
	release = func() {
		for _, file := range held {
			_ = file.Close()
		}
	}
	for _, dir := range dirs {
		file, err := lock(dir)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, file)
	}
	return release, nil
}

func lock(dir string) (_ *os.File, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(dir, LockFile)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock of the data directory: %w", err)
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("the data directory %s is in use by %s, and one process uses it at a time: stop that one first (`systemctl stop kijabi-apiserver` for a master's apiserver), or give this one another directory", dir, holder(path))
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w; a data directory must be on a file system with locks, such as ext4 or xfs", path, err)
	}
	// Whoever is refused reads it; it is no more than a help, and is not synced.
	if err := errors.Join(file.Truncate(0), writeAt(file, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return nil, fmt.Errorf("lock of the data directory: %w", err)
	}
	return file, nil
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}

// holder describes the process that a lock file names.
func holder(path string) string {
	content, _ := os.ReadFile(path) // without it the process has no name
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return "another process"
	}
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}
