package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"kijabi.dev/cli/internal/machine/kernelfs"
)

// Command returns a command that runs argv inside the machine, like exec.CommandContext.
// The machine must be up.
func (f *Fleet) Command(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	if _, err := f.Machine(name); err != nil {
		return nil, err
	}
	pid := f.PID(name)
	if pid == 0 {
		return nil, fmt.Errorf("machine %s is down: start it with `kijabi machine start %s`", name, name)
	}
	args := append([]string{EnterCommand, strconv.Itoa(pid), f.cgroupName() + "/" + name, "--"}, argv...)
	command := exec.CommandContext(ctx, f.Program, args...)
	command.Cancel = func() error { return command.Process.Signal(unix.SIGTERM) }
	return command, nil
}

// Enter runs argv in the namespaces of process pid and in its cgroups, with the
// standard streams of this process, and returns its exit code. The hidden command
// machine-enter calls it in a process of its own, which cannot be used for anything
// else afterwards.
func Enter(pid int, group string, argv []string) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("enter machine: no command given")
	}
	runtime.LockOSThread() // the namespaces belong to this thread, and so do its children
	if err := enterCgroups(group); err != nil {
		return 0, err
	}
	target, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, fmt.Errorf("enter machine: process %d: %w", pid, err)
	}
	// A thread that shares its root with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 0, fmt.Errorf("enter machine: %w", err)
	}
	const spaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS |
		unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Setns(target, spaces); err != nil {
		return 0, fmt.Errorf("enter machine: join namespaces of process %d: %w", pid, err)
	}
	_ = unix.Close(target)
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, fmt.Errorf("enter machine: %w", err)
	}
	child, err := os.StartProcess(path, argv, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, fmt.Errorf("enter machine: %w", err)
	}
	return await(child)
}

// await passes signals on and returns the child's exit code.
func await(child *os.Process) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	done := make(chan struct{})
	defer close(done)
	//nolint:forbidigo // ends with the child
	go func() {
		for {
			select {
			case received := <-signals:
				// A terminal has sent it to the child as well; twice does no harm.
				_ = child.Signal(received)
			case <-done:
				return
			}
		}
	}()
	state, err := child.Wait()
	if err != nil {
		return 0, err
	}
	if status, ok := state.Sys().(interface{ Signaled() bool }); ok && status.Signaled() {
		return 128 + int(state.Sys().(interface{ Signal() unix.Signal }).Signal()), nil
	}
	return state.ExitCode(), nil
}

// enterCgroups moves this process into the machine's cgroups.
func enterCgroups(group string) error {
	all, err := kernelfs.Hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		dir := filepath.Join(h.Path, group)
		if h.V2 {
			dir = filepath.Join(dir, "init")
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
	}
	return nil
}
