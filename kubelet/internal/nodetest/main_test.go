package nodetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Environment of the process within the namespaces.
const (
	insideVariable = "KIJABI_NODETEST_INSIDE"
	cgroupVariable = "KIJABI_NODETEST_CGROUP"
	placeVariable  = "KIJABI_NODETEST_DIRECTORY"
)

// TestMain runs the tests a second time, in mount, network, process and name
// namespaces of their own. When that process ends the kernel ends all others in
// there; only cgroups must be removed by hand.
func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		if err := prepareInside(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	os.Exit(outside())
}

func outside() int {
	cgroup := fmt.Sprintf("/kijabi-nodetest-%d", os.Getpid())
	// Short, for sockets, and not in memory, for overlayfs.
	place, err := os.MkdirTemp("/var/tmp", "kjn")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(place) }()
	inner := exec.CommandContext(testContext(), os.Args[0], os.Args[1:]...)
	inner.Stdout, inner.Stderr = os.Stdout, os.Stderr
	inner.Env = append(os.Environ(), insideVariable+"=1", cgroupVariable+"="+cgroup, placeVariable+"="+place)
	inner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = inner.Run()
	removeCgroups(cgroup)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "namespaces for the tests:", err)
		return 1
	}
	return 0
}

func prepareInside() error {
	for _, mount := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", 0},
		{"tmpfs", "/run", "tmpfs", 0},
	} {
		if err := unix.Mount(mount.source, mount.target, mount.kind, mount.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", mount.target, err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	loopback.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, loopback)
}

func removeCgroups(path string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	for _, root := range append(roots, "/sys/fs/cgroup"+path) {
		var directories []string
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				directories = append(directories, path)
			}
			return nil
		})
		for i := len(directories) - 1; i >= 0; i-- {
			if err := unix.Rmdir(directories[i]); err != nil {
				fmt.Fprintln(os.Stderr, "cgroup left:", directories[i], err)
			}
		}
	}
}
