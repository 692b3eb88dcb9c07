package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"kijabi.dev/platform/atomicfile"

	"kijabi.dev/cli/internal/machine/supervisor"
)

// Services is the machine's service manager. Names are those of units, without the
// manager's own prefix or suffix.
type Services interface {
	// Install writes units and makes them start with the machine. It replaces units
	// of the same name.
	Install(ctx context.Context, units []supervisor.Unit) error
	// Start starts a unit; nothing happens to one that runs.
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
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return &systemd{dir: "/etc/systemd/system"}, nil
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

// systemd manages kijabi-*.service units.
type systemd struct{ dir string }

var _ Services = (*systemd)(nil)

func (s *systemd) unit(name string) string { return "kijabi-" + name + ".service" }

func (s *systemd) path(name string) string { return filepath.Join(s.dir, s.unit(name)) }

func (s *systemd) Install(ctx context.Context, units []supervisor.Unit) error {
	names := make([]string, 0, len(units))
	for _, unit := range units {
		if err := atomicfile.Write(s.path(unit.Name), s.render(unit), 0o644); err != nil {
			return fmt.Errorf("unit %s: %w", unit.Name, err)
		}
		names = append(names, s.unit(unit.Name))
	}
	if err := s.run(ctx, "daemon-reload"); err != nil {
		return err
	}
	return s.run(ctx, append([]string{"enable", "--quiet"}, names...)...)
}

// render writes a unit in systemd's format.
func (s *systemd) render(unit supervisor.Unit) []byte {
	var text strings.Builder
	fmt.Fprintf(&text, "# Written by kijabi.\n[Unit]\nDescription=Kijabi %s\nWants=network-online.target\nAfter=network-online.target", unit.Name)
	for _, name := range unit.After {
		text.WriteString(" " + s.unit(name))
	}
	// Units restart for ever: a cluster member has no state in which giving up helps.
	text.WriteString("\nStartLimitIntervalSec=0\n\n[Service]\nType=exec\nExecStart=")
	for i, arg := range unit.Exec {
		if i > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(quoteSystemd(arg))
	}
	text.WriteString("\nRestart=always\nRestartSec=500ms\nRestartSteps=5\nRestartMaxDelaySec=5s\n")
	for _, entry := range unit.Env {
		text.WriteString("Environment=" + quoteSystemd(entry) + "\n")
	}
	if unit.KillMode == supervisor.KillProcess {
		text.WriteString("KillMode=process\nDelegate=yes\nTasksMax=infinity\nOOMScoreAdjust=-999\n")
	}
	if timeout := unit.StopTimeout.Duration; timeout > 0 {
		fmt.Fprintf(&text, "TimeoutStopSec=%d\n", int(timeout.Seconds()))
	}
	text.WriteString("LimitNOFILE=1048576\nLimitCORE=0\n\n[Install]\nWantedBy=multi-user.target\n")
	return []byte(text.String())
}

// quoteSystemd quotes an argument so that systemd changes nothing in it.
func quoteSystemd(arg string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\n", `\n`).Replace(arg)
	if escaped == arg && !strings.ContainsAny(arg, " \t;'") {
		return arg
	}
	return `"` + escaped + `"`
}

func (s *systemd) Start(ctx context.Context, name string) error {
	return s.run(ctx, "start", s.unit(name))
}

func (s *systemd) Stop(ctx context.Context, name string) error {
	if _, err := os.Stat(s.path(name)); os.IsNotExist(err) {
		return nil
	}
	return s.run(ctx, "disable", "--now", "--quiet", s.unit(name))
}

func (s *systemd) Remove(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := os.Remove(s.path(name)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove unit %s: %w", name, err)
		}
	}
	return s.run(ctx, "daemon-reload")
}

func (s *systemd) LogHint(name string) string { return "journalctl -u " + s.unit(name) }

func (s *systemd) run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %s", strings.Join(args, " "), lastLine(string(out), err))
	}
	return nil
}
