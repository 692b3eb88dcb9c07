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
	const startTime = 19
	if len(fields) <= startTime {
		return processID{}, os.ErrProcessDone
	}
	return processID{pid, fields[startTime]}, nil
}

// open returns a descriptor of the process, or false when there is none any more.
func (p processID) open() (fd int, ok bool) {
	if p.pid == 0 {
		return 0, false
	}
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return 0, false
	}
	if now, err := identify(p.pid); err != nil || now != p {
		_ = unix.Close(fd)
		return 0, false
	}
	return fd, true
}

// alive reports whether the process still runs. A zombie does not. The state in /proc
// would not tell: a main thread is a zombie while others still clear up.
func (p processID) alive() bool { return !p.ended(0) }

// ended waits up to the given time for the end of the process.
func (p processID) ended(wait time.Duration) bool {
	fd, ok := p.open()
	if !ok {
		return true
	}
	defer func() { _ = unix.Close(fd) }()
	ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
	if err != nil || ready == 0 {
		return false
	}
	// Ours to collect if this process started the machine; ECHILD otherwise.
	_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	return true
}

// wait returns when the process has ended. Process 1 of a namespace ends after every
// other process in it.
func (p processID) wait(ctx context.Context) error {
	for !p.ended(50 * time.Millisecond) {
		if ctx.Err() != nil {
			return fmt.Errorf("process %d did not end: %w", p.pid, ctx.Err())
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
