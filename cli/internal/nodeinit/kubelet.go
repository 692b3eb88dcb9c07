package nodeinit

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

func runKubelet(bin string, log *zap.Logger) error {
	if err := requireProcessOne(); err != nil {
		return err
	}
	// The kubelet inherits the namespace of the thread that starts it, and the runtime
	// must not use that thread for anything else.
	runtime.LockOSThread()
	loan, err := borrow(socketPath, log)
	if err != nil || loan == nil {
		return err
	}
	defer loan.close()
	if err := enter(loan.mounts); err != nil {
		return err
	}
	g := &guard{
		log: log, lost: loan.lost, env: []string{programPath(bin)},
		argv: []string{filepath.Join(bin, "kubelet"), "--await-config"},
	}
	return g.loop(asked())
}

// enter brings this thread into a mount namespace, or rather into a copy of it: what is
// mounted on either side appears on the other, but for /proc, which shows the processes
// of this container.
func enter(mounts *os.File) error {
	// A thread that shares its root with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter the mounts of containerd's container: %w", err)
	}
	if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mounts of containerd's container: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("copy the mounts of containerd's container: %w", err)
	}
	if err := unix.Mount("", "/proc", "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("own /proc: %w", err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
