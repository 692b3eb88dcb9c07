package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kijabi.dev/cli/internal/machine/kernelfs"
)

func (f *Fleet) cgroupName() string { return "kijabi-" + f.State.Name }

// joinCgroups makes the machine's cgroup in each hierarchy and moves pid there.
func (f *Fleet) joinCgroups(machine string, pid int) error {
	all, err := kernelfs.Hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		parent := filepath.Join(h.Path, f.cgroupName())
		own := filepath.Join(parent, machine)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
		if h.V2 {
			kernelfs.EnableControllers(h.Path)
			kernelfs.EnableControllers(parent)
			if h.Path == kernelfs.CgroupRoot {
				if err := requireControllers(own); err != nil {
					return err
				}
			}
		}
		if strings.Contains(h.Options, "cpuset") {
			for _, dir := range []string{parent, own} {
				if err := inheritCPUs(dir); err != nil {
					return err
				}
			}
		}
		if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", own, err)
		}
	}
	return nil
}

func requireControllers(dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup controllers: %w", err)
	}
	have := strings.Fields(string(content))
	for _, name := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, name) {
			return fmt.Errorf("cgroup controller %q is not available in %s: enable it in %s/cgroup.subtree_control",
				name, dir, kernelfs.CgroupRoot)
		}
	}
	return nil
}

// inheritCPUs copies what a v1 cpuset does not inherit by itself.
func inheritCPUs(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("cpuset: %w", err)
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return fmt.Errorf("cpuset: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), above, 0); err != nil {
			return fmt.Errorf("cpuset %s: %w", dir, err)
		}
	}
	return nil
}

// removeCgroups removes a cgroup directory below the fleet's in every hierarchy; an
// empty machine name means all.
func (f *Fleet) removeCgroups(machine string) error {
	return RemoveCgroup(filepath.Join(f.cgroupName(), machine))
}

// RemoveCgroup removes the cgroup at a path below the root of every hierarchy, with
// those below it. Processes that are still leaving are waited for; one that stays is an
// error. A cgroup that does not exist is none.
func RemoveCgroup(path string) error {
	all, err := kernelfs.Hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	var errs []error
	for _, h := range all {
		dir := filepath.Join(h.Path, path)
		for {
			err := removeTree(dir)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
				break
			}
			time.Sleep(20 * time.Millisecond) // the kernel gives no notice of it in v1
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and those below it, deepest first.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(dirs) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
