// Command debian installs Kijabi on a real virtual machine: Debian with systemd, made
// by debootstrap and run by qemu, without a network but its own. It boots, installs the
// release archive, restarts programs, reboots and resets; the machine itself checks each
// step (inside.sh) and tells by its second serial port.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test-vm:", err)
		os.Exit(1)
	}
}

// config is what the command line says.
type config struct {
	bundle string        // release archive
	key    string        // public key of it
	work   string        // directory of the machine's disks and logs
	mirror string        // of Debian packages; empty is debootstrap's own choice
	memory int           // MiB
	limit  time.Duration // of the whole run of the machine
}

func run(ctx context.Context) error {
	var c config
	flag.StringVar(&c.bundle, "bundle", "", "release archive for amd64 (required)")
	flag.StringVar(&c.key, "key", "", "public key of the archive (default: kijabi.pub beside it)")
	flag.StringVar(&c.work, "work", "", "directory for the machine's disks and logs; the Debian system is kept in it for the next run (required)")
	flag.StringVar(&c.mirror, "mirror", "", "mirror of Debian packages (default: debootstrap's)")
	flag.IntVar(&c.memory, "memory", 4096, "memory of the machine in MiB")
	flag.DurationVar(&c.limit, "limit", 2*time.Hour, "give up after this time")
	flag.Parse()
	if c.bundle == "" || c.work == "" || flag.NArg() > 0 {
		flag.Usage()
		return errors.New("-bundle and -work are required")
	}
	if os.Geteuid() != 0 {
		return errors.New("debootstrap needs root: run `make test-vm`")
	}
	if c.key == "" {
		c.key = filepath.Join(filepath.Dir(c.bundle), "kijabi.pub")
	}
	// Programs of system administration are not in everybody's PATH.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	work, err := filepath.Abs(c.work)
	if err != nil {
		return err
	}
	c.work = work
	if err := os.MkdirAll(c.work, 0o755); err != nil {
		return err
	}
	system, err := makeSystem(ctx, c)
	if err != nil {
		return fmt.Errorf("make the Debian system: %w", err)
	}
	payload, err := makePayload(ctx, c)
	if err != nil {
		return fmt.Errorf("make the disk with the archive: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	return boot(ctx, c, system, payload)
}
