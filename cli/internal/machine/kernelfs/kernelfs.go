// Package kernelfs mounts what the kernel shows of a machine: /proc, /sys and the
// cgroups, as the namespaces of the calling thread have them. It is what a machine of
// `kijabi up` and a container with a container runtime inside have in common.
package kernelfs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where cgroups are mounted.
const CgroupRoot = "/sys/fs/cgroup"

// Hierarchy is one cgroup file system.
type Hierarchy struct {
	// Path of its mount, such as /sys/fs/cgroup/memory.
	Path string `json:"path"`
	// Options to mount it with: controllers or a name; empty for cgroup v2.
	Options string `json:"options"`
	// V2 is the unified hierarchy.
	V2 bool `json:"v2"`
}

// Hierarchies lists the cgroup file systems mounted at or below /sys/fs/cgroup.
func Hierarchies() ([]Hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	var found []Hierarchy
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		before, after, ok := strings.Cut(scanner.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 || !strings.HasPrefix(fields[4], CgroupRoot) {
			continue
		}
		if slices.ContainsFunc(found, func(h Hierarchy) bool { return h.Path == fields[4] }) {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			found = append(found, Hierarchy{Path: fields[4], V2: true})
		case "cgroup":
			found = append(found, Hierarchy{Path: fields[4], Options: v1Options(kind[2])})
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted at %s: mount cgroup2 there", CgroupRoot)
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

// Links returns the symbolic links among the mounts, such as cpu to cpu,cpuacct.
func Links() map[string]string {
	links := map[string]string{}
	entries, _ := os.ReadDir(CgroupRoot)
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(CgroupRoot, entry.Name())); err == nil {
			links[entry.Name()] = target
		}
	}
	return links
}

// Mount mounts /proc, /sys and the given hierarchies anew, over what is there. In a v2
// hierarchy the calling process moves from the root into a leaf.
func Mount(all []Hierarchy, links map[string]string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := mountAnew("sysfs", "/sys", flags, ""); err != nil {
		return err
	}
	pure := len(all) == 1 && all[0].Path == CgroupRoot
	if !pure {
		if err := unix.Mount("tmpfs", CgroupRoot, "tmpfs", flags, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", CgroupRoot, err)
		}
	}
	for _, h := range all {
		if err := os.MkdirAll(h.Path, 0o755); err != nil {
			return err
		}
		kind := "cgroup"
		if h.V2 {
			kind = "cgroup2"
		}
		if err := mountAnew(kind, h.Path, flags, h.Options); err != nil {
			return err
		}
		if h.V2 {
			if err := leaveRootCgroup(h.Path, pure); err != nil {
				return err
			}
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(CgroupRoot, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// mountAnew mounts over what is there, or in its place: the kernel refuses to mount a
// file system over itself, such as the /sys of a container that it shows read-only.
func mountAnew(kind, target string, flags uintptr, options string) error {
	err := unix.Mount(kind, target, kind, flags, options)
	if errors.Is(err, unix.EBUSY) {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		err = unix.Mount(kind, target, kind, flags, options)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// leaveRootCgroup moves this process into a leaf, since a v2 cgroup either holds processes
// or hands controllers down.
func leaveRootCgroup(root string, pure bool) error {
	leaf := filepath.Join(root, "init")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter cgroup %s: %w", leaf, err)
	}
	if pure {
		EnableControllers(root)
	}
	return nil
}

// EnableControllers hands all controllers down to children. Which of them succeeded is
// for the caller to judge.
func EnableControllers(dir string) {
	content, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for _, name := range strings.Fields(string(content)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0)
	}
}
