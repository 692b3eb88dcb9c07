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
	return m.run(ctx, append([]string{"enable", "--quiet"}, names...)...) // and reads them
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

// Start starts a target and all its services, and does not wait: whether a program serves
// is for its health to say.
func (m *Manager) Start(ctx context.Context, target string) error {
	return m.run(ctx, "start", "--no-block", target+".target")
}

// Stop stops a service and waits for its end. One that is not installed is no error.
func (m *Manager) Stop(ctx context.Context, service string) error {
	unit := service + ".service"
	if !m.has(unit) {
		return nil
	}
	return m.run(ctx, "stop", unit)
}

// Remove deletes services that were stopped and whose processes have ended, and the given
// targets if no service of theirs is left. What is not there is no error.
func (m *Manager) Remove(ctx context.Context, services, targets []string) error {
	var units []string
	for _, name := range services {
		if m.has(name + ".service") {
			units = append(units, name+".service")
		}
	}
	var errs []error
	errs = append(errs, m.remove(ctx, units))
	units = nil
	for _, name := range targets {
		wanted, _ := os.ReadDir(filepath.Join(m.Dir, name+".target.wants"))
		if m.has(name+".target") && len(wanted) == 0 {
			errs = append(errs, m.run(ctx, "stop", name+".target", name+".slice"))
			units = append(units, name+".target")
		}
	}
	errs = append(errs, m.remove(ctx, units))
	if left, _ := filepath.Glob(filepath.Join(m.Dir, m.Prefix+"*")); len(left) == 0 {
		errs = append(errs, m.run(ctx, "stop", strings.TrimSuffix(m.Prefix, "-")+".slice"))
	}
	errs = append(errs, m.run(ctx, "daemon-reload"))
	// What failed while it was stopped would be listed for ever.
	errs = append(errs, m.run(ctx, "reset-failed", m.Prefix+"*"))
	return errors.Join(errs...)
}

func (m *Manager) has(unit string) bool {
	_, err := os.Stat(filepath.Join(m.Dir, unit))
	return err == nil
}

// remove deletes units and the links by which they start with the machine.
func (m *Manager) remove(ctx context.Context, units []string) error {
	if len(units) == 0 {
		return nil
	}
	err := m.run(ctx, append([]string{"disable", "--no-reload", "--quiet"}, units...)...)
	for _, unit := range units {
		path := filepath.Join(m.Dir, unit)
		_ = os.Remove(path + ".wants") // if it is a target
		if gone := os.Remove(path); gone != nil {
			err = errors.Join(err, fmt.Errorf("remove unit %s: %w", unit, gone))
		}
	}
	return err
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
