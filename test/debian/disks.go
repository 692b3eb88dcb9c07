package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed inside.sh
var inside string

// release of Debian to install on.
const release = "bookworm"

// packages of the machine besides Debian's smallest system. No package of containers or
// Kubernetes is among them; iproute2, nftables and procps are what the machine looks at
// itself with.
const packages = "linux-image-amd64,systemd-sysv,udev,iproute2,nftables,procps"

// system is what a machine boots.
type system struct{ disk, kernel, initrd string }

// makeSystem makes Debian's disk, unless an earlier run has. Runs do not write to it.
func makeSystem(ctx context.Context, c config) (system, error) {
	s := system{
		disk: filepath.Join(c.work, release+".img"), kernel: filepath.Join(c.work, "vmlinuz"),
		initrd: filepath.Join(c.work, "initrd.img"),
	}
	if _, err := os.Stat(s.disk); err == nil {
		fmt.Println("test-vm: using", s.disk)
		return s, nil
	}
	root := filepath.Join(c.work, "root")
	if err := os.RemoveAll(root); err != nil { // of a run that was cut off
		return s, err
	}
	defer func() { _ = os.RemoveAll(root) }() // only the disk is needed
	fmt.Println("test-vm: debootstrap", release)
	args := []string{"--variant=minbase", "--include=" + packages, release, root}
	if c.mirror != "" {
		args = append(args, c.mirror)
	}
	if err := execute(ctx, filepath.Join(c.work, "debootstrap.log"), "debootstrap", args...); err != nil {
		return s, err
	}
	if err := configure(root); err != nil {
		return s, err
	}
	for pattern, target := range map[string]string{"vmlinuz-*": s.kernel, "initrd.img-*": s.initrd} {
		found, err := filepath.Glob(filepath.Join(root, "boot", pattern))
		if err != nil || len(found) != 1 {
			return s, fmt.Errorf("%s in /boot: %v, %w", pattern, found, errors.Join(err, errors.New("want one")))
		}
		if err := copyFile(found[0], target); err != nil {
			return s, err
		}
	}
	return s, makeDisk(ctx, c, root, s.disk, "8G")
}

// configure writes what makes the machine run the test: name, static address, the
// payload's mount and a unit.
func configure(root string) error {
	files := map[string]string{
		"etc/hostname": "vm1\n",
		"etc/hosts":    "127.0.0.1 localhost\n10.0.2.15 vm1\n",
		"etc/fstab":    "/dev/vda / ext4 defaults 0 1\n/dev/vdb /payload ext4 ro 0 0\n",
		"etc/systemd/network/10-test.network": "[Match]\nName=e*\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n" +
			"LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
		"etc/systemd/system/vm-test.service": "[Unit]\nDescription=Test of Kijabi\nAfter=multi-user.target\n\n[Service]\n" +
			"ExecStart=/bin/bash /payload/inside.sh\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n\n" +
			"[Install]\nWantedBy=multi-user.target\n",
	}
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "payload"), 0o755); err != nil {
		return err
	}
	// What systemctl enable does.
	for link, target := range map[string]string{
		"multi-user.target.wants/vm-test.service":                          "/etc/systemd/system/vm-test.service",
		"multi-user.target.wants/systemd-networkd.service":                 "/lib/systemd/system/systemd-networkd.service",
		"sockets.target.wants/systemd-networkd.socket":                     "/lib/systemd/system/systemd-networkd.socket",
		"network-online.target.wants/systemd-networkd-wait-online.service": "/lib/systemd/system/systemd-networkd-wait-online.service",
	} {
		path := filepath.Join(root, "etc/systemd/system", link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, path); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// makePayload makes the disk that brings the archive and the test.
func makePayload(ctx context.Context, c config) (string, error) {
	dir := filepath.Join(c.work, "payload")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // only the disk is needed
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for from, to := range map[string]string{
		c.bundle: "kijabi.tar.gz", c.bundle + ".sig": "kijabi.tar.gz.sig", c.key: "kijabi.pub",
	} {
		if err := copyFile(from, filepath.Join(dir, to)); err != nil {
			return "", fmt.Errorf("%w: make it with `make bundle BUNDLE_ARCHES=amd64`", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "inside.sh"), []byte(inside), 0o755); err != nil {
		return "", err
	}
	disk := filepath.Join(c.work, "payload.img")
	return disk, makeDisk(ctx, c, dir, disk, "1G")
}

// makeDisk makes a file system with the content of a directory. No mount is needed.
func makeDisk(ctx context.Context, c config, dir, disk, size string) error {
	temporary := disk + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := execute(ctx, filepath.Join(c.work, "mkfs.log"), "mkfs.ext4", "-q", "-F", "-d", dir, temporary, size); err != nil {
		return err
	}
	return os.Rename(temporary, disk)
}

// execute runs a program with its output in a log file.
func execute(ctx context.Context, log, name string, args ...string) error {
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	command := exec.CommandContext(ctx, name, args...)
	command.Stdout, command.Stderr = out, out
	command.Env = append(os.Environ(), "LC_ALL=C")
	if err := command.Run(); err != nil {
		content, _ := os.ReadFile(log)
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		return fmt.Errorf("%s: %w: %s (all of it in %s)", name, err, lines[len(lines)-1], log)
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
