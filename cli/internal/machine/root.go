package machine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RootDir is the root directory of a machine in a fleet with own roots, as the host
// sees it.
func (f *Fleet) RootDir(name string) string { return filepath.Join(f.MachineDir(name), "root") }

// prepareRoot makes what is missing of a root directory: the directories and the few
// files of /etc that every Linux machine has. Programs there are none: they have to be
// brought, as to any machine.
func (f *Fleet) prepareRoot(m Machine) error {
	root := f.RootDir(m.Name)
	for _, dir := range []string{"dev", "etc", "opt", "proc", "root", "run", "sys", "tmp", "usr/local/bin", "var/lib", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("root directory of machine %s: %w", m.Name, err)
		}
	}
	if err := os.Symlink("../run", filepath.Join(root, "var", "run")); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("root directory of machine %s: %w", m.Name, err)
	}
	id, err := f.machineID(m)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"group": "root:x:0:\n", "hostname": m.Name + "\n", "hosts": f.hosts(m), "machine-id": id,
		"os-release": "ID=empty\nNAME=\"Empty\"\nPRETTY_NAME=\"Empty machine\"\n",
		"passwd":     "root:x:0:0:root:/root:/nonexistent\n", "resolv.conf": resolvers(),
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("root directory of machine %s: %w", m.Name, err)
		}
	}
	return nil
}

// machineID is the content of /etc/machine-id, which stays the same for ever.
func (f *Fleet) machineID(m Machine) (string, error) {
	content, err := os.ReadFile(filepath.Join(f.RootDir(m.Name), "etc", "machine-id"))
	if err == nil {
		return string(content), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("identity of machine %s: %w", m.Name, err)
	}
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("identity of machine %s: %w", m.Name, err)
	}
	return hex.EncodeToString(raw) + "\n", nil
}

// enterRoot makes root the root directory of this mount namespace. Nothing of the
// host's file system can be reached afterwards.
func enterRoot(root string) error {
	// The new root has to be a mount, and mounts below it are to come along.
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root %s: %w", root, err)
	}
	if err := makeDevices(filepath.Join(root, "dev")); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	// The old root comes to lie over the new one, and is taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	return os.Chdir("/")
}

// makeDevices mounts a /dev with the devices that every machine has. They are bound
// from the host's, since a host that is a container may not make any.
func makeDevices(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		target := filepath.Join(dir, name)
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("device /dev/%s: %w", name, err)
		}
	}
	for _, name := range []string{"pts", "shm", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// inRoot is where the host sees a path of a machine.
func (f *Fleet) inRoot(name, path string) string {
	return filepath.Join(f.RootDir(name), strings.TrimPrefix(path, "/"))
}
