package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// boot runs the machine until it switches itself off, and passes on what it tells.
func boot(ctx context.Context, c config, s system, payload string) error {
	console := filepath.Join(c.work, "console.log")
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	machine := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", accelerator(), "-cpu", "max",
		"-smp", "2", "-m", strconv.Itoa(c.memory), "-display", "none", "-nodefaults", "-no-user-config",
		"-kernel", s.kernel, "-initrd", s.initrd, "-append", "root=/dev/vda rw console=ttyS0 systemd.show_status=1",
		"-drive", "file="+s.disk+",format=raw,if=virtio,snapshot=on",
		"-drive", "file="+payload+",format=raw,if=virtio,readonly=on",
		"-nic", "user,model=virtio-net-pci,restrict=on",
		"-serial", "file:"+console,
		"-chardev", "stdio,id=results,signal=off", "-serial", "chardev:results",
	)
	machine.Stdout, machine.Stderr = writer, os.Stderr
	begun := time.Now()
	if err := machine.Start(); err != nil {
		_ = writer.Close()
		return fmt.Errorf("qemu: %w", err)
	}
	_ = writer.Close()
	fmt.Printf("test-vm: the machine boots; its console is in %s\n", console)
	var verdict error
	var group errgroup.Group
	group.Go(func() error {
		verdict = follow(reader, begun)
		return nil
	})
	err = machine.Wait()
	_ = group.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("not done after %s; see %s", c.limit, console)
	}
	if err := errors.Join(verdict, err); err != nil {
		return fmt.Errorf("%w; see %s", err, console)
	}
	fmt.Printf("test-vm: all well after %s\n", time.Since(begun).Round(time.Second))
	return nil
}

// accelerator is KVM where the processor can and this user may, else emulation. A host
// that is itself a virtual machine may offer /dev/kvm without the processor's part: guests
// hang then.
func accelerator() string {
	const emulation = "tcg,thread=multi"
	processor, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !strings.Contains(string(processor), " vmx") && !strings.Contains(string(processor), " svm") {
		return emulation
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return emulation
	}
	_ = kvm.Close()
	return "kvm"
}

// follow prints what the machine tells and returns what went wrong.
func follow(results io.Reader, begun time.Time) error {
	var failed error
	ended := false
	scanner := bufio.NewScanner(results)
	for scanner.Scan() {
		line := strings.TrimRight(scanner.Text(), "\r")
		fmt.Printf("%8s  %s\n", time.Since(begun).Round(time.Second), line)
		if message, ok := strings.CutPrefix(line, "FAIL "); ok && failed == nil {
			failed = errors.New(message)
		}
		ended = ended || line == "END"
	}
	if err := scanner.Err(); err != nil {
		return errors.Join(failed, err)
	}
	if !ended && failed == nil {
		return errors.New("the machine ended before its test did")
	}
	return failed
}
