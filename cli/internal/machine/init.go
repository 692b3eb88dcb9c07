package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/machine/kernelfs"
	"kijabi.dev/cli/internal/machine/supervisor"
)

// Init is the first stage of a machine's process 1, called by the hidden command
// machine-init. It arranges the machine's files and then becomes the second stage. It
// returns only on failure, which it has reported to the starter as well.
func Init() error {
	// Namespaces belong to threads; the one that execs decides for the process.
	runtime.LockOSThread()
	err := arrange()
	if err == nil {
		err = unix.Exec("/proc/self/exe", []string{"kijabi", RunCommand}, os.Environ())
	}
	err = fmt.Errorf("process 1: %w", err)
	_, _ = unix.Write(resultFD, []byte(err.Error()))
	return err
}

func arrange() error {
	input := os.NewFile(specFD, "spec")
	var described spec
	if err := json.NewDecoder(input).Decode(&described); err != nil {
		return fmt.Errorf("read description: %w", err)
	}
	_ = input.Close()
	if os.Getpid() != 1 {
		return errors.New("this command is run by `kijabi machine start` only")
	}
	// From here on nothing that is mounted reaches the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	files := mountFiles
	if described.Root != "" {
		files = mountRoot
	}
	if err := files(&described); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(described.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	if err := kernelfs.Mount(described.Hierarchies, described.CgroupLinks); err != nil {
		return err
	}
	if units := unitCgroups(); units != "" {
		if err := os.MkdirAll(units, 0o755); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	// Containers may ask for mounts that reach the machine, as on any node.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	if err := os.MkdirAll(configv1.RunDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(configv1.RunDir, "control-socket"), []byte(described.ControlSocket), 0o600)
}

// mountRoot exchanges the host's files for the machine's own.
func mountRoot(described *spec) error {
	if err := enterRoot(described.Root); err != nil {
		return err
	}
	return mountMemory()
}

// mountFiles lays the machine's own directories over the host's.
func mountFiles(described *spec) error {
	sources := make([]*os.File, 0, len(described.Binds))
	kept := make([]*os.File, 0, len(described.Keep))
	defer func() {
		for _, file := range append(sources, kept...) {
			_ = file.Close()
		}
	}()
	// Sources may be below /tmp or /run: they are held open before those are hidden.
	for _, b := range described.Binds {
		file, err := holdOpen(b.From)
		if err != nil {
			return err
		}
		sources = append(sources, file)
	}
	for _, path := range described.Keep {
		file, err := holdOpen(path)
		if err != nil {
			return err
		}
		kept = append(kept, file)
	}
	if err := mountMemory(); err != nil {
		return err
	}
	for i, path := range described.Keep {
		if !strings.HasPrefix(path, "/tmp/") && !strings.HasPrefix(path, "/run/") {
			continue
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := bindOpen(kept[i], path); err != nil {
			return err
		}
	}
	for i, b := range described.Binds {
		if b.Create {
			if err := os.MkdirAll(filepath.Dir(b.To), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(b.To, nil, 0o644); err != nil {
				return err
			}
		}
		if err := bindOpen(sources[i], b.To); err != nil {
			return err
		}
	}
	return nil
}

func holdOpen(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func bindOpen(source *os.File, target string) error {
	from := "/proc/self/fd/" + strconv.Itoa(int(source.Fd()))
	if err := unix.Mount(from, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source.Name(), target, err)
	}
	return nil
}

// mountMemory mounts what a machine loses when its plug is pulled.
func mountMemory() error {
	for _, m := range []struct{ kind, target, options string }{
		{"tmpfs", "/run", "mode=755"},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620"},
		{"mqueue", "/dev/mqueue", ""},
	} {
		if _, err := os.Stat(m.target); err != nil {
			continue // the host has none
		}
		if err := unix.Mount(m.kind, m.target, m.kind, unix.MS_NOSUID, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return os.MkdirAll("/run/lock", 0o1777)
}

// Run is the second stage: the supervisor. It returns when the machine was shut down.
func Run(ctx context.Context, log *zap.Logger) error {
	result := os.NewFile(resultFD, "result")
	socket, err := os.ReadFile(filepath.Join(configv1.RunDir, "control-socket"))
	if err != nil {
		err = fmt.Errorf("process 1: %w", err)
		_, _ = result.WriteString(err.Error())
		return err
	}
	unix.CloseOnExec(resultFD)
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	sockets := []string{filepath.Join(configv1.RunDir, "init.sock")}
	if len(socket) > 0 {
		sockets = append(sockets, string(socket))
	}
	s := supervisor.New(supervisor.Config{
		UnitDir: filepath.Join(configv1.ConfigDir, "units"), LogDir: configv1.LogDir, CgroupDir: unitCgroups(),
		Sockets: sockets, ReapAll: true, Log: log,
		OnReady: func() {
			_, _ = result.WriteString(ready)
			_ = result.Close()
		},
	})
	err = s.Run(ctx)
	// Containers outlive the units; they get the signal too, and a moment to act on it.
	_ = unix.Kill(-1, unix.SIGTERM)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if _, waitErr := unix.Wait4(-1, nil, unix.WNOHANG, nil); errors.Is(waitErr, unix.ECHILD) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// unitCgroups is where units get cgroups of their own: the unified hierarchy, if any.
func unitCgroups() string {
	for _, dir := range []string{kernelfs.CgroupRoot, filepath.Join(kernelfs.CgroupRoot, "unified")} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return filepath.Join(dir, "units")
		}
	}
	return ""
}
