package install

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"kijabi.dev/platform/atomicfile"

	"kijabi.dev/cli/internal/machine/supervisor"
	"kijabi.dev/cli/internal/systemd"
)

// Services is the machine's service manager. Names are those of units, without the
// manager's own prefix or suffix.
type Services interface {
	// Install writes units and makes them start with the machine. It replaces units
	// of the same name.
	Install(ctx context.Context, units []supervisor.Unit) error
	// Start starts a unit; nothing happens to one that runs. Others of the last
	// installation may start with it.
	Start(ctx context.Context, name string) error
	// Stop stops a unit and waits for its end. A unit that does not exist is no error.
	Stop(ctx context.Context, name string) error
	// Remove deletes units that were stopped.
	Remove(ctx context.Context, names []string) error
	// LogHint tells a person where a unit's output is.
	LogHint(name string) string
}

// DetectServices returns the manager that runs this machine: our supervisor where its
// socket exists, systemd where that is process 1.
func DetectServices(layout Layout) (Services, error) {
	socket := filepath.Join(layout.RunDir, "init.sock")
	if _, err := os.Stat(socket); err == nil {
		return &supervised{dir: filepath.Join(layout.ConfigDir, "units"), socket: socket}, nil
	}
	if systemd.Running() {
		return newSystemd(layout, systemd.UnitDir), nil
	}
	return nil, fmt.Errorf("no service manager found: neither %s nor systemd is running; use a systemd machine or `kijabi up`", socket)
}

// supervised manages units of our own supervisor.
type supervised struct {
	dir    string
	socket string
}

var _ Services = (*supervised)(nil)

func (s *supervised) path(name string) string { return filepath.Join(s.dir, name+".yaml") }

func (s *supervised) Install(_ context.Context, units []supervisor.Unit) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("unit directory: %w", err)
	}
	for _, unit := range units {
		content, err := yaml.Marshal(unit)
		if err != nil {
			return fmt.Errorf("unit %s: %w", unit.Name, err)
		}
		if err := atomicfile.Write(s.path(unit.Name), content, 0o644); err != nil {
			return fmt.Errorf("unit %s: %w", unit.Name, err)
		}
	}
	return nil
}

func (s *supervised) call(ctx context.Context, command supervisor.Command, name string) error {
	if _, err := supervisor.Call(ctx, s.socket, supervisor.Request{Command: command, Unit: name}); err != nil {
		return fmt.Errorf("%s unit %s: %w", command, name, err)
	}
	return nil
}

func (s *supervised) Start(ctx context.Context, name string) error {
	return s.call(ctx, supervisor.Start, name)
}

func (s *supervised) Stop(ctx context.Context, name string) error {
	if _, err := os.Stat(s.path(name)); os.IsNotExist(err) {
		return nil
	}
	return s.call(ctx, supervisor.Stop, name)
}

func (s *supervised) Remove(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := os.Remove(s.path(name)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove unit %s: %w", name, err)
		}
	}
	_ = os.Remove(s.dir) // if empty
	// It reads the units again and forgets those that are gone.
	if _, err := supervisor.Call(ctx, s.socket, supervisor.Request{Command: supervisor.List}); err != nil {
		return fmt.Errorf("remove units: %w", err)
	}
	return nil
}

func (s *supervised) LogHint(name string) string { return "/var/log/kijabi/" + name + ".log" }
