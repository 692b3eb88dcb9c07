package resources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Cgroups makes and removes the cgroups of pods. It knows cgroup v2 and the
// controllers of v1; the runtime makes the containers' cgroups below them.
type Cgroups struct {
	mount       string
	root        string
	unified     bool
	controllers []string // v1 only
	pidsLimit   int64
}

// Each controller of v1 that a pod's cgroup is made in.
func v1Controllers() []string {
	return []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "systemd", "net_cls", "net_prio", "perf_event"}
}

// NewCgroups finds out what the machine has below mount, usually /sys/fs/cgroup.
// root is the path below which all pods live; pidsLimit bounds one pod's processes.
func NewCgroups(mount, root string, pidsLimit int64) (*Cgroups, error) {
	c := &Cgroups{mount: mount, root: filepath.Clean("/" + root), pidsLimit: pidsLimit}
	if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
		c.unified = true
		if err := c.delegate(); err != nil {
			return nil, err
		}
		return c, nil
	}
	for _, controller := range v1Controllers() {
		var filesystem unix.Statfs_t
		directory := filepath.Join(mount, controller)
		if err := unix.Statfs(directory, &filesystem); err == nil && filesystem.Type == unix.CGROUP_SUPER_MAGIC {
			c.controllers = append(c.controllers, controller)
		}
	}
	if len(c.controllers) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy below %s: mount cgroup v2 there", mount)
	}
	for _, controller := range c.controllers {
		if err := os.MkdirAll(filepath.Join(mount, controller, c.root), 0o755); err != nil {
			return nil, fmt.Errorf("cgroup root: %w", err)
		}
		if controller == "cpuset" {
			if err := inheritCPUSet(mount, c.root); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// delegate makes the controllers of v2 available below the root, level by level.
func (c *Cgroups) delegate() error {
	available, err := os.ReadFile(filepath.Join(c.mount, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup controllers: %w", err)
	}
	directory := c.mount
	levels := strings.Split(strings.Trim(c.root, "/"), "/")
	for i := 0; i <= len(levels); i++ {
		for _, controller := range strings.Fields(string(available)) {
			// One that cannot be delegated (cpu with real-time processes, say) is simply not limited.
			_ = os.WriteFile(filepath.Join(directory, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
		if i < len(levels) {
			directory = filepath.Join(directory, levels[i])
			if err := os.MkdirAll(directory, 0o755); err != nil {
				return fmt.Errorf("cgroup root: %w", err)
			}
		}
	}
	return nil
}

// Parent is the cgroup of a pod as the runtime wants it named.
func (c *Cgroups) Parent(pod *corev1.Pod) string {
	return filepath.Join(c.root, "pod"+string(pod.UID))
}

// Create makes the pod's cgroup with its limits. Idempotent.
func (c *Cgroups) Create(pod *corev1.Pod) error {
	path, limits := c.Parent(pod), podLimits(pod)
	set := func(controller, file, value string) error {
		if value == "" || value == "0" {
			return nil
		}
		err := os.WriteFile(filepath.Join(c.directory(controller, path), file), []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		return nil
	}
	number := func(value int64) string { return strconv.FormatInt(value, 10) }
	if c.unified {
		directory := c.directory("", path)
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return fmt.Errorf("cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		available, _ := os.ReadFile(filepath.Join(directory, "cgroup.controllers"))
		for _, controller := range strings.Fields(string(available)) {
			_ = os.WriteFile(filepath.Join(directory, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
		weight := 1 + (limits.CPUShares-minShares)*9999/(maxShares-minShares)
		quota := ""
		if limits.CPUQuota > 0 {
			quota = number(limits.CPUQuota) + " " + number(limits.CPUPeriod)
		}
		return errors.Join(set("", "cpu.weight", number(weight)), set("", "cpu.max", quota),
			set("", "memory.max", number(limits.MemoryLimit)), set("", "pids.max", number(c.pidsLimit)))
	}
	for _, controller := range c.controllers {
		if err := os.MkdirAll(c.directory(controller, path), 0o755); err != nil {
			return fmt.Errorf("cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return errors.Join(inheritCPUSet(c.mount, path),
		set("cpu", "cpu.shares", number(limits.CPUShares)),
		set("cpu", "cpu.cfs_period_us", number(limits.CPUPeriod)), set("cpu", "cpu.cfs_quota_us", number(limits.CPUQuota)),
		set("memory", "memory.limit_in_bytes", number(limits.MemoryLimit)),
		set("pids", "pids.max", number(c.pidsLimit)))
}

func (c *Cgroups) directory(controller, path string) string {
	if c.unified {
		return filepath.Join(c.mount, path)
	}
	return filepath.Join(c.mount, controller, path)
}

// Remove removes a pod's cgroup. The runtime's own children vanish a moment after
// their last process, so it tries again until ctx ends.
func (c *Cgroups) Remove(ctx context.Context, uid string) error {
	path := filepath.Join(c.root, "pod"+uid)
	controllers := c.controllers
	if c.unified {
		controllers = []string{""}
	}
	wait := time.Millisecond
	for {
		var failed error
		for _, controller := range controllers {
			if err := removeTree(c.directory(controller, path)); err != nil {
				failed = err
			}
		}
		if failed == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", path, failed)
		case <-time.After(wait):
			wait = min(2*wait, 100*time.Millisecond)
		}
	}
}

// List returns the uids of pods that have a cgroup.
func (c *Cgroups) List() ([]string, error) {
	controller := ""
	if !c.unified {
		controller = c.controllers[0]
	}
	entries, err := os.ReadDir(c.directory(controller, c.root))
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	var uids []string
	for _, entry := range entries {
		if uid, ok := strings.CutPrefix(entry.Name(), "pod"); ok && entry.IsDir() {
			uids = append(uids, uid)
		}
	}
	return uids, nil
}

func removeTree(directory string) error {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(directory, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(directory); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", directory, err)
	}
	return nil
}

// inheritCPUSet fills in cpuset files of v1, which start empty and then admit no process.
func inheritCPUSet(mount, path string) error {
	base := filepath.Join(mount, "cpuset")
	if _, err := os.Stat(base); errors.Is(err, fs.ErrNotExist) {
		return nil // no such controller here
	}
	directory := base
	for _, level := range strings.Split(strings.Trim(path, "/"), "/") {
		parent := directory
		directory = filepath.Join(directory, level)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			own, err := os.ReadFile(filepath.Join(directory, file))
			if err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
			if strings.TrimSpace(string(own)) != "" {
				continue
			}
			inherited, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
			if err := os.WriteFile(filepath.Join(directory, file), inherited, 0); err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
		}
	}
	return nil
}
