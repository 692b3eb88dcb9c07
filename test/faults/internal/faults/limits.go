package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"kijabi.dev/test/faults/internal/cluster"
)

// hierarchies is where cgroups of version 1 are mounted.
const hierarchies = "/sys/fs/cgroup"

// starvation leaves a machine little CPU.
func starvation() []Fault {
	return []Fault{{
		ID: "F21", About: "the leader's machine gets a fifth of a CPU", Hold: 10 * time.Second, Limit: 20 * time.Second,
		Inject: func(ctx context.Context, s Scene) (*Injection, error) {
			dir, err := cgroupOf(s, "cpu", s.Leader)
			if err != nil {
				return nil, err
			}
			before, err := throttled(dir)
			if err != nil {
				return nil, err
			}
			in := &Injection{
				Verify: func(context.Context) error {
					after, err := throttled(dir)
					if err == nil && after == before {
						err = fmt.Errorf("%s was never throttled", s.Leader)
					}
					return err
				},
				Heal: func(context.Context) error { return set(dir, "cpu.cfs_quota_us", "-1") },
			}
			return in, errors.Join(set(dir, "cpu.cfs_period_us", "100000"), set(dir, "cpu.cfs_quota_us", "20000"))
		},
	}}
}

// throttled is how often the processes of a cgroup had to wait for the next period.
func throttled(dir string) (string, error) {
	content, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(content), "nr_throttled ")
	count, _, _ := strings.Cut(rest, "\n")
	return count, nil
}

// cgroupOf is the cgroup of a machine's process 1 in a hierarchy.
func cgroupOf(s Scene, controller, master string) (string, error) {
	pid, err := s.Cluster.Init(master)
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(content)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] == controller && len(parts[2]) > 1 {
			return filepath.Join(hierarchies, controller, parts[2]), nil
		}
	}
	return "", fmt.Errorf("machine %s has no cgroup of its own for %s: cgroups of version 1 are needed", master, controller)
}

func set(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// roomLeft is what an apiserver that is out of memory may still allocate.
const roomLeft = "1048576"

// memory leaves a leader's apiserver no more memory than it has, so that the kernel ends it.
func memory() []Fault {
	return []Fault{{
		ID: "F20", About: "the leader's apiserver reaches its memory limit", Hold: time.Second, Limit: 20 * time.Second,
		Inject: func(ctx context.Context, s Scene) (*Injection, error) {
			parent, err := cgroupOf(s, "memory", s.Leader)
			if err != nil {
				return nil, err
			}
			p, err := s.Cluster.Process(s.Leader, "apiserver")
			if err != nil {
				return nil, err
			}
			dir := filepath.Join(parent, "fault")
			if err := os.Mkdir(dir, 0o755); err != nil {
				return nil, err
			}
			in := &Injection{
				Victims: []string{s.Leader}, Killed: []string{s.Leader},
				Verify: nothing, // Inject has waited for it
				Heal: func(context.Context) error {
					_ = set(parent, "cgroup.procs", strconv.Itoa(p.PID)) // it has ended, normally
					return os.Remove(dir)
				},
			}
			// What it has already still counts for its former cgroup.
			if err := errors.Join(set(dir, "memory.limit_in_bytes", roomLeft), set(dir, "cgroup.procs", strconv.Itoa(p.PID))); err != nil {
				return in, err
			}
			return in, cluster.Await(ctx, 20*time.Second, "the kernel ends the apiserver", func() error {
				if p.State() != 0 {
					return fmt.Errorf("%d lives with %d bytes", p.PID, p.RSS())
				}
				return nil
			})
		},
	}}
}
