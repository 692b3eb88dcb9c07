package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"kijabi.dev/platform/atomicfile"
)

// UnitDir is where an administrator's units are.
const UnitDir = "/etc/systemd/system"

// growingSince is the version of systemd that knows delays that grow.
const growingSince = 254

// Manager installs, starts, stops and removes units of one directory.
type Manager struct {
	// Dir is UnitDir, unless for a look at what would be written. Required.
	Dir string
	// Prefix of all units of ours, such as "kijabi-". Required.
	Prefix string
	// Systemctl runs systemctl and returns its output; nil runs the program.
	Systemctl func(ctx context.Context, args ...string) ([]byte, error)
}

// Running reports whether systemd is process 1 of this machine.
func Running() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// Install writes the units, makes the directories that the services write to, and has
// the units start with the machine. It replaces units of the same name.
func (m *Manager) Install(ctx context.Context, targets []Target, services []Service) error {
	growing, err := m.growing(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, target := range targets {
		if err := m.write(target.Name+".target", target.Render()); err != nil {
			return err
		}
		names = append(names, target.Name+".target")
	}
	for _, service := range services {
		service.Growing = growing
		if service.Sandbox != nil {
			for _, dir := range service.Sandbox.Writable {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return fmt.Errorf("directory of unit %s: %w", service.Name, err)
				}
			}
		}
		if err := m.write(service.Name+".service", service.Render()); err != nil {
			return err
		}
		names = append(names, service.Name+".service")
	}
	if err := m.run(ctx, "daemon-reload"); err != nil {
		return err
	}
	return m.run(ctx, append([]string{"enable", "--quiet"}, names...)...)
}

func (m *Manager) write(unit, text string) error {
	if err := atomicfile.Write(filepath.Join(m.Dir, unit), []byte(text), 0o644); err != nil {
		return fmt.Errorf("unit %s: %w", unit, err)
	}
	return nil
}

// growing asks systemd for its version.
func (m *Manager) growing(ctx context.Context) (bool, error) {
	out, err := m.output(ctx, "--version")
	if err != nil {
		return false, err
	}
	// systemd 252 (252.38-1~deb12u1), or systemd 256~rc1 (…)
	first, _, _ := strings.Cut(string(out), "\n")
	digits := strings.TrimLeftFunc(first, func(r rune) bool { return r < '0' || r > '9' })
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	version, err := strconv.Atoi(digits)
	if err != nil {
		return false, fmt.Errorf("systemctl --version says %q, which has no version in it", first)
	}
	return version >= growingSince, nil
}

// Start starts a service and its target, and does not wait: whether a program serves is
// for its health to say.
func (m *Manager) Start(ctx context.Context, service, target string) error {
	return m.run(ctx, "start", "--no-block", service+".service", target+".target")
}

// Stop stops a service, waits for its end, and keeps it from starting with the machine.
// One that is not installed is no error.
func (m *Manager) Stop(ctx context.Context, service string) error {
	unit := service + ".service"
	if _, err := os.Stat(filepath.Join(m.Dir, unit)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return m.run(ctx, "disable", "--now", "--quiet", unit)
}

// Remove deletes services that were stopped, and targets that have none left. What is
// not there is no error.
func (m *Manager) Remove(ctx context.Context, services, targets []string) error {
	var errs []error
	for _, name := range services {
		if err := os.Remove(filepath.Join(m.Dir, name+".service")); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove unit %s: %w", name, err))
		}
	}
	for _, name := range targets {
		errs = append(errs, m.removeTarget(ctx, name))
	}
	errs = append(errs, m.run(ctx, "daemon-reload"))
	// What failed while it was stopped would be listed for ever.
	errs = append(errs, m.run(ctx, "reset-failed", m.Prefix+"*"))
	return errors.Join(errs...)
}

func (m *Manager) removeTarget(ctx context.Context, name string) error {
	unit := name + ".target"
	path := filepath.Join(m.Dir, unit)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if wanted, _ := os.ReadDir(path + ".wants"); len(wanted) > 0 {
		return nil // services of another installation
	}
	if err := m.run(ctx, "disable", "--now", "--quiet", unit); err != nil {
		return err
	}
	_ = os.Remove(path + ".wants")
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove unit %s: %w", unit, err)
	}
	return nil
}

func (m *Manager) run(ctx context.Context, args ...string) error {
	_, err := m.output(ctx, args...)
	return err
}

func (m *Manager) output(ctx context.Context, args ...string) ([]byte, error) {
	if m.Systemctl != nil {
		return m.Systemctl(ctx, args...)
	}
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		text := strings.TrimSpace(string(out))
		if text == "" {
			text = err.Error()
		}
		return nil, fmt.Errorf("systemctl %s: %s", strings.Join(args, " "), strings.ReplaceAll(text, "\n", "; "))
	}
	return out, nil
}
