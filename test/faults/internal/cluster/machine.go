package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Dir is where the host keeps a machine's directories: etc, lib and log are what the machine
// has as /etc/kijabi, /var/lib/kijabi and /var/log/kijabi.
func (c *Cluster) Dir(master string) string {
	return filepath.Join(stateRoot, c.cfg.Name, "machines", master)
}

// DataDir is what a master's apiserver keeps: etcd, raft and audit are directories in it.
func (c *Cluster) DataDir(master string) string {
	return filepath.Join(c.Dir(master), "lib", "apiserver")
}

// Database is the file of a master's etcd member.
func (c *Cluster) Database(master string) string {
	return filepath.Join(c.DataDir(master), "etcd", "member", "snap", "db")
}

// Init is the host's pid of a machine's process 1; an error when the machine is down.
func (c *Cluster) Init(master string) (int, error) {
	content, err := os.ReadFile(filepath.Join(c.Dir(master), "pid"))
	if err != nil {
		return 0, fmt.Errorf("machine %s is down: %w", master, err)
	}
	fields := strings.Fields(string(content))
	if len(fields) == 0 {
		return 0, fmt.Errorf("machine %s is starting", master)
	}
	return strconv.Atoi(fields[0])
}

// Process is a program in a machine, by its pid on the host.
type Process struct {
	PID  int
	Name string
}

// Processes are all programs of a machine but its process 1.
func (c *Cluster) Processes(master string) ([]Process, error) {
	first, err := c.Init(master)
	if err != nil {
		return nil, err
	}
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", master, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == first {
			continue
		}
		if own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || own != space {
			continue // it has ended, or lives elsewhere
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			continue
		}
		found = append(found, Process{PID: pid, Name: strings.TrimSuffix(filepath.Base(exe), " (deleted)")})
	}
	return found, nil
}

// Process finds a program of a machine.
func (c *Cluster) Process(master, name string) (Process, error) {
	all, err := c.Processes(master)
	if err != nil {
		return Process{}, err
	}
	for _, p := range all {
		if p.Name == name {
			return p, nil
		}
	}
	return Process{}, fmt.Errorf("no %s runs in %s", name, master)
}

// Signal sends a signal to a process.
func (p Process) Signal(signal syscall.Signal) error {
	if err := syscall.Kill(p.PID, signal); err != nil {
		return fmt.Errorf("signal %s to %s (%d): %w", signal, p.Name, p.PID, err)
	}
	return nil
}

// State is the letter of a process's state, as proc(5) has it; T is stopped, 0 that it has ended.
func (p Process) State() byte { return stateIn(fmt.Sprintf("/proc/%d/stat", p.PID)) }

// Threads are the states of a process's threads.
func (p Process) Threads() map[int]byte {
	states := map[int]byte{}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID)) // none when it has ended
	for _, task := range tasks {
		if thread, err := strconv.Atoi(task.Name()); err == nil {
			states[thread] = stateIn(fmt.Sprintf("/proc/%d/task/%d/stat", p.PID, thread))
		}
	}
	return states
}

func stateIn(file string) byte {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	_, rest, found := strings.Cut(string(content), ") ")
	if !found || rest == "" {
		return 0
	}
	return rest[0]
}

// Waits are how long each thread of a process has waited for a CPU since it began, by thread.
func (p Process) Waits() map[int]time.Duration {
	waits := map[int]time.Duration{}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID)) // none when it has ended
	for _, task := range tasks {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", p.PID, task.Name()))
		if err != nil {
			continue
		}
		var ran, waited int64
		thread, err := strconv.Atoi(task.Name())
		if _, scanned := fmt.Sscan(string(content), &ran, &waited); err == nil && scanned == nil {
			waits[thread] = time.Duration(waited)
		}
	}
	return waits
}

// Ran is how long a process's first thread has had a CPU.
func (p Process) Ran() time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", p.PID))
	var ran int64
	if err == nil {
		_, err = fmt.Sscan(string(content), &ran)
	}
	if err != nil {
		return 0
	}
	return time.Duration(ran)
}

// RSS is a process's resident memory in bytes, 0 when it has ended.
func (p Process) RSS() int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(content))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64) // the kernel writes numbers
	return pages * int64(os.Getpagesize())
}

// InNetwork runs a program of the host in the network of a machine and returns what it prints.
func (c *Cluster) InNetwork(ctx context.Context, master, stdin string, argv ...string) (string, error) {
	pid, err := c.Init(master)
	if err != nil {
		return "", err
	}
	return c.run(ctx, stdin, "nsenter", append([]string{"--target", strconv.Itoa(pid), "--net", "--"}, argv...)...)
}

// Logs are the files that programs of the machines have written, the audit logs among them.
func (c *Cluster) Logs() ([]string, error) {
	var all []string
	for _, pattern := range []string{"*/log/*.log", "*/console.log", "*/lib/apiserver/audit/*"} {
		files, err := filepath.Glob(filepath.Join(stateRoot, c.cfg.Name, "machines", pattern))
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	if len(all) == 0 {
		return nil, errors.New("the machines have no logs")
	}
	return all, nil
}

// AuditLogs are the audit logs of a master.
func (c *Cluster) AuditLogs(master string) ([]string, error) {
	return filepath.Glob(filepath.Join(c.DataDir(master), "audit", "*"))
}
