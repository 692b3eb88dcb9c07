package machine

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
	"time"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is one cgroup file system of the host.
type hierarchy struct {
	// Path of its mount, such as /sys/fs/cgroup/memory.
	Path string `json:"path"`
	// Options to mount it with: controllers or a name; empty for cgroup v2.
	Options string `json:"options"`
	// V2 is the unified hierarchy.
	V2 bool `json:"v2"`
}

// hierarchies lists the cgroup file systems mounted at or below /sys/fs/cgroup.
func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	var found []hierarchy
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		before, after, ok := strings.Cut(scanner.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 || !strings.HasPrefix(fields[4], cgroupRoot) {
			continue
		}
		if slices.ContainsFunc(found, func(h hierarchy) bool { return h.Path == fields[4] }) {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			found = append(found, hierarchy{Path: fields[4], V2: true})
		case "cgroup":
			found = append(found, hierarchy{Path: fields[4], Options: v1Options(kind[2])})
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted at %s: mount cgroup2 there", cgroupRoot)
	}
	return found, nil
}

// v1Options keeps the controllers and the name out of a v1 mount's options.
func v1Options(super string) string {
	var kept []string
	for option := range strings.SplitSeq(super, ",") {
		switch {
		case option == "rw", option == "ro", option == "xattr", option == "clone_children", option == "noprefix",
			strings.HasPrefix(option, "release_agent="):
		case option == "name=systemd":
			kept = append(kept, "none", option)
		default:
			kept = append(kept, option)
		}
	}
	return strings.Join(kept, ",")
}

func (f *Fleet) cgroupName() string { return "kijabi-" + f.State.Name }

// joinCgroups makes the machine's cgroup in each hierarchy and moves pid there.
func (f *Fleet) joinCgroups(machine string, pid int) error {
	all, err := hierarchies()
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
			enableControllers(h.Path)
			enableControllers(parent)
			if h.Path == cgroupRoot {
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

// enableControllers hands all controllers down to children. Which of them succeeded is
// judged by requireControllers.
func enableControllers(dir string) {
	content, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for _, name := range strings.Fields(string(content)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0)
	}
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
				name, dir, cgroupRoot)
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
	all, err := hierarchies()
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
