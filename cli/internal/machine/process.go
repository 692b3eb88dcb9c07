package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processID is a process that cannot be taken for a later one with the same number.
type processID struct {
	pid   int
	start string // clock ticks since boot
}

func identify(pid int) (processID, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processID{}, err
	}
	// The command, in brackets, may hold anything; the fields that follow do not.
	_, rest, _ := bytes.Cut(content, []byte(") "))
	if i := bytes.LastIndex(content, []byte(") ")); i >= 0 {
		rest = content[i+2:]
	}
	fields := strings.Fields(string(rest))
	const state, startTime = 0, 19
	if len(fields) <= startTime || fields[state] == "Z" || fields[state] == "X" {
		return processID{}, os.ErrProcessDone
	}
	return processID{pid, fields[startTime]}, nil
}

// alive reports whether the process still runs. A zombie does not.
func (p processID) alive() bool {
	if p.pid == 0 {
		return false
	}
	now, err := identify(p.pid)
	if err == nil && now == p {
		return true
	}
	// Ours to collect if this process started the machine; ECHILD otherwise.
	_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	return false
}

// wait returns when the process has ended. Process 1 of a namespace ends after every
// other process in it.
func (p processID) wait(ctx context.Context) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for p.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d did not end: %w", p.pid, ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

func (f *Fleet) pidPath(name string) string { return filepath.Join(f.MachineDir(name), "pid") }

func (f *Fleet) savePID(name string, id processID) error {
	return os.WriteFile(f.pidPath(name), fmt.Appendf(nil, "%d %s\n", id.pid, id.start), 0o644)
}

// process returns the machine's process 1, whose pid is 0 when the machine is down.
func (f *Fleet) process(name string) processID {
	content, err := os.ReadFile(f.pidPath(name))
	if err != nil {
		return processID{}
	}
	fields := strings.Fields(string(content))
	if len(fields) != 2 {
		return processID{}
	}
	pid, err := strconv.Atoi(fields[0])
	if err != nil {
		return processID{}
	}
	if id := (processID{pid, fields[1]}); id.alive() {
		return id
	}
	return processID{}
}

// PID returns the host's number of the machine's process 1, 0 when the machine is down.
func (f *Fleet) PID(name string) int { return f.process(name).pid }

// kill ends the process and waits for it.
func (p processID) kill(ctx context.Context) error {
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return p.wait(ctx)
}
