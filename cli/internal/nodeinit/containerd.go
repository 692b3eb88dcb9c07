package nodeinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/machine/kernelfs"
)

// farewell is how long pods get to end by themselves when the container is stopped.
const farewell = 2 * time.Second

// becomeMachine gives the container what a container runtime needs of a machine, and
// becomes the second stage.
func becomeMachine(program string) error {
	// Namespaces belong to threads; the one that execs decides for the process.
	runtime.LockOSThread()
	if err := requireProcessOne(); err != nil {
		return err
	}
	hierarchies, err := kernelfs.Hierarchies()
	if err != nil {
		return err
	}
	links := kernelfs.Links()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	// Docker shows all of these read-only.
	if err := kernelfs.Mount(hierarchies, links); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	// Every container of an earlier life has ended with it, so what is left of them is
	// as after a power cut.
	if err := os.RemoveAll(filepath.Join(configv1.RunDir, "containerd")); err != nil {
		return fmt.Errorf("remove the state of an earlier containerd: %w", err)
	}
	return fmt.Errorf("second stage: %w", unix.Exec(program, []string{program, containerdRun}, os.Environ()))
}

func runContainerd(bin string, log *zap.Logger) error {
	if err := requireProcessOne(); err != nil {
		return err
	}
	server, err := lend(socketPath, "/proc/self/ns/mnt", log)
	if err != nil {
		return err
	}
	defer server.close()
	config := filepath.Join(configv1.ConfigDir, "containerd.toml")
	g := &guard{
		log: log, orderFile: config, env: []string{programPath(bin)},
		argv: []string{filepath.Join(bin, "containerd"), "--config", config},
	}
	err = g.loop(asked())
	if err == nil {
		sayFarewell()
	}
	return err
}

// sayFarewell gives the pods the signal and a moment to act on it, for they end with
// this process.
func sayFarewell() {
	_ = unix.Kill(-1, unix.SIGTERM)
	for end := time.Now().Add(farewell); time.Now().Before(end); {
		_, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.ECHILD) {
			return
		}
		time.Sleep(10 * time.Millisecond) // children may be many, and any of them may be the last
	}
}
