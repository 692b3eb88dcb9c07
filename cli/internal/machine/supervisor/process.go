package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func stopSignals() map[string]unix.Signal {
	return map[string]unix.Signal{
		"": unix.SIGTERM, "SIGTERM": unix.SIGTERM, "SIGINT": unix.SIGINT,
		"SIGQUIT": unix.SIGQUIT, "SIGKILL": unix.SIGKILL,
	}
}

// cgroup is the directory of a unit in the unified hierarchy; "" where there is none.
type cgroup string

func (c cgroup) create() error {
	if c == "" {
		return nil
	}
	if err := os.MkdirAll(string(c), 0o755); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// kill ends every process in the cgroup and below it. The kernel's cgroup.kill is not
// used: kernels exist in which it also kills what is started into the cgroup later.
func (c cgroup) kill() {
	const rounds = 50 // processes that fork meanwhile are met in the next round
	for range rounds {
		members := c.members()
		if len(members) == 0 {
			return
		}
		for _, pid := range members {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}

// remove removes the cgroup and those below it, unless containers still live in them.
func (c cgroup) remove() {
	if c == "" {
		return
	}
	var dirs []string
	_ = filepath.WalkDir(string(c), func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil //nolint:nilerr // a cgroup that vanished needs no removal
	})
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(dir) // fails while somebody is in it
	}
}

// members lists the processes in the cgroup and below it.
func (c cgroup) members() []int {
	if c == "" {
		return nil
	}
	var pids []int
	_ = filepath.WalkDir(string(c), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() != "cgroup.procs" {
			return nil //nolint:nilerr // a cgroup that vanished has no members
		}
		content, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(content)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// spawn starts the unit's program in its cgroup and in a session of its own, and
// returns its pid. It gets descriptors from 3 on, and more in its environment. The
// caller reaps it.
func spawn(unit *Unit, group cgroup, output *os.File, more []string, descriptors []stored) (int, error) {
	if err := group.create(); err != nil {
		return 0, err
	}
	env := unit.Env
	if !slices.ContainsFunc(env, func(entry string) bool { return strings.HasPrefix(entry, "PATH=") }) {
		env = append([]string{defaultPath}, env...) // of two entries programs take the first
	}
	env = append(slices.Clip(env), more...)
	attr := &syscall.SysProcAttr{Setsid: true}
	if group != "" {
		dir, err := os.Open(string(group))
		if err != nil {
			return 0, fmt.Errorf("cgroup: %w", err)
		}
		defer func() { _ = dir.Close() }()
		attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	pid, err := forkExec(unit.Exec, env, attr, null, output, descriptors)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", unit.Exec[0], err)
	}
	return pid, nil
}

// exitText describes how a process ended.
func exitText(status unix.WaitStatus) string {
	if status.Signaled() {
		return "killed by " + unix.SignalName(status.Signal())
	}
	return "exit code " + strconv.Itoa(status.ExitStatus())
}

// reaped is a process that has ended.
type reaped struct {
	pid    int
	status unix.WaitStatus
}

// reap collects the processes that ended: all children as process 1, since orphans
// become its children, otherwise only those in pids, which are ours.
func reap(all bool, pids []int) []reaped {
	var ended []reaped
	if all {
		pids = []int{-1}
	}
	for _, pid := range pids {
		for {
			var status unix.WaitStatus
			got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || got <= 0 {
				break
			}
			ended = append(ended, reaped{got, status})
			if !all {
				break
			}
		}
	}
	return ended
}
