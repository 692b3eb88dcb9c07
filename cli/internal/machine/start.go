package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/machine/kernelfs"
	"kijabi.dev/cli/internal/machine/supervisor"
)

// overlaid are the directories of the host that each machine has of its own, by the
// name of the directory that replaces them.
func overlaid() map[string]string {
	return map[string]string{"etc": configv1.ConfigDir, "lib": configv1.StateDir, "log": configv1.LogDir}
}

// Start starts a machine that is down; nothing happens to one that runs. It returns
// when the machine's supervisor answers.
func (f *Fleet) Start(ctx context.Context, name string) error {
	m, err := f.Machine(name)
	if err != nil {
		return err
	}
	if f.process(name).alive() {
		return nil
	}
	if err := f.start(ctx, m); err != nil {
		return fmt.Errorf("start machine %s: %w", name, err)
	}
	return nil
}

func (f *Fleet) start(ctx context.Context, m Machine) (err error) {
	described, err := f.prepare(m)
	if err != nil {
		return err
	}
	if err := f.removeCgroups(m.Name); err != nil {
		return err
	}
	specReader, specWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _, _ = specReader.Close(), specWriter.Close() }()
	resultReader, resultWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _, _ = resultReader.Close(), resultWriter.Close() }()
	console, err := os.OpenFile(filepath.Join(f.MachineDir(m.Name), "console.log"),
		os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()

	//nolint:noctx // the machine outlives this command
	command := exec.Command(f.Program, InitCommand)
	command.Stdout, command.Stderr = console, console
	command.Dir, command.Env = "/", []string{"PATH=" + os.Getenv("PATH")}
	command.ExtraFiles = []*os.File{specReader, resultWriter}
	command.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("new namespaces: %w", err)
	}
	pid := command.Process.Pid
	_ = command.Process.Release()
	_, _ = specReader.Close(), resultWriter.Close()
	id, err := identify(pid)
	if err != nil {
		return fmt.Errorf("process of the machine: %w", err)
	}
	defer func() {
		if err != nil {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			err = errors.Join(err, id.kill(cleanup), f.afterlife(m.Name))
		}
	}()
	if err := f.savePID(m.Name, id); err != nil {
		return err
	}
	if err := f.joinCgroups(m.Name, pid); err != nil {
		return err
	}
	if err := f.connect(m, pid); err != nil {
		return err
	}
	if err := json.NewEncoder(specWriter).Encode(described); err != nil {
		return fmt.Errorf("describe the machine to its process 1: %w", err)
	}
	_ = specWriter.Close()
	return awaitReady(ctx, resultReader)
}

// prepare makes the machine's files and says what its process 1 has to do.
func (f *Fleet) prepare(m Machine) (*spec, error) {
	all, err := kernelfs.Hierarchies()
	if err != nil {
		return nil, err
	}
	described := &spec{Name: m.Name, Hierarchies: all, CgroupLinks: kernelfs.Links()}
	if f.State.OwnRoots {
		described.Root = f.RootDir(m.Name)
		return described, f.prepareRoot(m)
	}
	dir := f.MachineDir(m.Name)
	for _, sub := range []string{"etc", "lib", "log", "control"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("machine directory: %w", err)
		}
	}
	described.ControlSocket = f.Socket(m.Name)
	described.Keep = []string{f.Dir, f.State.BinDir, filepath.Dir(f.Program)}
	for sub, target := range overlaid() {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return nil, fmt.Errorf("mount point: %w", err)
		}
		described.Binds = append(described.Binds, bind{From: filepath.Join(dir, sub), To: target})
	}
	files := map[string]string{"hostname": m.Name + "\n", "hosts": f.hosts(m), "resolv.conf": resolvers()}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("machine file: %w", err)
		}
		target, err := filepath.EvalSymlinks(filepath.Join("/etc", name))
		if err != nil {
			continue // the host has no such file to lay ours over
		}
		hidden := strings.HasPrefix(target, "/run/") || strings.HasPrefix(target, "/tmp/")
		described.Binds = append(described.Binds, bind{From: path, To: target, Create: hidden})
	}
	return described, nil
}

// hosts is the machine's /etc/hosts.
func (f *Fleet) hosts(own Machine) string {
	var text strings.Builder
	text.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, m := range f.State.Machines {
		fmt.Fprintf(&text, "%s %s\n", m.Address, m.Name)
	}
	if _, err := f.Machine(own.Name); err != nil {
		fmt.Fprintf(&text, "%s %s\n", own.Address, own.Name)
	}
	return text.String()
}

// resolvers is the host's resolv.conf; where that names systemd's stub, which listens
// on the host's loopback only, the real one behind it.
func resolvers() string {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		content, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(content), "nameserver 127.0.0.53") {
			return string(content)
		}
	}
	return ""
}

// awaitReady waits for process 1 to report.
func awaitReady(ctx context.Context, result *os.File) error {
	deadline, ok := ctx.Deadline()
	if limit := time.Now().Add(20 * time.Second); !ok || limit.Before(deadline) {
		deadline = limit
	}
	if err := result.SetReadDeadline(deadline); err != nil {
		return err
	}
	buffer := make([]byte, 4096)
	n, err := result.Read(buffer)
	switch {
	case string(buffer[:n]) == ready:
		return nil
	case n > 0:
		return errors.New(string(buffer[:n]))
	case errors.Is(err, io.EOF):
		return errors.New("its process 1 ended without a word; see console.log")
	default:
		return fmt.Errorf("its process 1 does not answer: %w", err)
	}
}

// Kill ends a machine like pulling its plug.
func (f *Fleet) Kill(ctx context.Context, name string) error {
	if _, err := f.Machine(name); err != nil {
		return err
	}
	if id := f.process(name); id.pid != 0 {
		if err := id.kill(ctx); err != nil {
			return fmt.Errorf("kill machine %s: %w", name, err)
		}
	}
	return f.afterlife(name)
}

// Stop shuts a machine down: its programs are stopped in order first.
func (f *Fleet) Stop(ctx context.Context, name string) error {
	if _, err := f.Machine(name); err != nil {
		return err
	}
	id := f.process(name)
	if id.pid == 0 {
		return f.afterlife(name)
	}
	if _, err := supervisor.Call(ctx, f.Socket(name), supervisor.Request{Command: supervisor.Poweroff}); err != nil {
		return fmt.Errorf("stop machine %s: %w", name, err)
	}
	if err := id.wait(ctx); err != nil {
		return fmt.Errorf("stop machine %s: %w", name, err)
	}
	return f.afterlife(name)
}

// afterlife removes what a machine that is down leaves outside its namespaces.
func (f *Fleet) afterlife(name string) error {
	if !f.State.OwnRoots { // its socket went with its /run
		_ = os.Remove(f.Socket(name))
	}
	_ = os.Remove(f.pidPath(name))
	return f.removeCgroups(name)
}

// Units returns the machine's units.
func (f *Fleet) Units(ctx context.Context, name string) ([]supervisor.UnitStatus, error) {
	return supervisor.Call(ctx, f.Socket(name), supervisor.Request{Command: supervisor.List})
}
