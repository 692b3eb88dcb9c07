package systemd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func service(name string) Service {
	return Service{
		Name: name, Description: "Test " + name, Exec: []string{"/bin/true"}, Target: "kijabi-node", StopTimeout: time.Second,
	}
}

// recorder stands in for systemctl: it notes what it is asked, does what enable and disable
// do to directories, and fails when told to.
type recorder struct {
	dir     string
	version string
	fail    string
	asked   []string
}

func (r *recorder) run(_ context.Context, args ...string) ([]byte, error) {
	line := strings.Join(args, " ")
	if line == "--version" {
		return []byte(r.version), nil
	}
	r.asked = append(r.asked, line)
	if r.fail != "" && strings.HasPrefix(line, r.fail) {
		return nil, errors.New(line + " failed")
	}
	for _, unit := range args {
		if !strings.HasSuffix(unit, ".service") {
			continue
		}
		link := filepath.Join(r.dir, "kijabi-node.target.wants", unit)
		switch args[0] {
		case "enable":
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				return nil, err
			}
			if err := os.Symlink(filepath.Join(r.dir, unit), link); err != nil {
				return nil, err
			}
		case "disable":
			if err := os.Remove(link); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func newManager(t *testing.T) (*Manager, *recorder) {
	t.Helper()
	r := &recorder{dir: t.TempDir(), version: "systemd 252 (252.38-1~deb12u1)\n+PAM +AUDIT\n"}
	return &Manager{Dir: r.dir, Prefix: "kijabi-", Systemctl: r.run}, r
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}

func TestInstallAndRemove(t *testing.T) {
	m, r := newManager(t)
	writable := filepath.Join(t.TempDir(), "data", "agent")
	agent := service("kijabi-agent")
	agent.Sandbox = &Sandbox{Writable: []string{writable}}
	targets := []Target{{Name: "kijabi-node", Description: "Test"}}
	if err := m.Install(t.Context(), targets, []Service{service("kijabi-runtime"), agent}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(writable); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory to write to: %v, %v; a sandbox without it does not start", info, err)
	}
	if err := m.Start(t.Context(), "kijabi-node"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kijabi-agent", "kijabi-runtime", "kijabi-unknown"} {
		if err := m.Stop(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if err := m.Remove(t.Context(), []string{"kijabi-agent", "kijabi-runtime", "kijabi-unknown"}, []string{"kijabi-master", "kijabi-node"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"enable --quiet kijabi-node.target kijabi-runtime.service kijabi-agent.service",
		"start --no-block kijabi-node.target",
		"stop kijabi-agent.service", "stop kijabi-runtime.service",
		"disable --no-reload --quiet kijabi-agent.service kijabi-runtime.service",
		"stop kijabi-node.target kijabi-node.slice", "disable --no-reload --quiet kijabi-node.target",
		"stop kijabi.slice", "daemon-reload", "reset-failed kijabi-*",
	}
	if diff := cmp.Diff(want, r.asked); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if left := entries(t, m.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTargetWithServicesStays(t *testing.T) {
	m, _ := newManager(t)
	services := []Service{service("kijabi-a"), service("kijabi-b")}
	if err := m.Install(t.Context(), []Target{{Name: "kijabi-node", Description: "Test"}}, services); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Stop(t.Context(), "kijabi-a"), m.Remove(t.Context(), []string{"kijabi-a"}, []string{"kijabi-node"})); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, m.Dir); !slices.Contains(left, "kijabi-node.target") || !slices.Contains(left, "kijabi-b.service") || slices.Contains(left, "kijabi-a.service") {
		t.Errorf("left: %v", left)
	}
}

func TestRemoveDoesWhatItCan(t *testing.T) {
	m, r := newManager(t)
	if err := m.Install(t.Context(), []Target{{Name: "kijabi-node", Description: "Test"}}, []Service{service("kijabi-a")}); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context(), "kijabi-a"); err != nil {
		t.Fatal(err)
	}
	r.fail = "daemon-reload"
	if err := m.Remove(t.Context(), []string{"kijabi-a"}, []string{"kijabi-node"}); err == nil || !strings.Contains(err.Error(), "daemon-reload failed") {
		t.Errorf("got %v", err)
	}
	if left := entries(t, m.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDelaysGrowWhereSystemdCan(t *testing.T) {
	for version, want := range map[string]bool{
		"systemd 252 (252.38-1~deb12u1)\n+PAM": false, "systemd 253\n": false, "systemd 254 (254-1)\n": true, "systemd 257~rc1 (x)\n": true,
	} {
		m, r := newManager(t)
		r.version = version
		if err := m.Install(t.Context(), nil, []Service{service("kijabi-a")}); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(m.Dir, "kijabi-a.service"))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(content), "RestartSteps="); got != want {
			t.Errorf("%q: growing delay %v, want %v", version, got, want)
		}
	}
	m, r := newManager(t)
	r.version = "upstart"
	if err := m.Install(t.Context(), nil, []Service{service("kijabi-a")}); err == nil || !strings.Contains(err.Error(), "upstart") {
		t.Errorf("no version: %v", err)
	}
}

func TestRenderQuotes(t *testing.T) {
	s := service("kijabi-a")
	s.Exec = []string{"/opt/a b/kubelet", "--config", "/etc/kijabi/100%.yaml", "$HOME", `"`}
	s.Env = []string{"PATH=/bin", "NOTE=a b"}
	for _, line := range []string{
		`ExecStart="/opt/a b/kubelet" --config "/etc/kijabi/100%%.yaml" "$$HOME" "\""`, "Environment=PATH=/bin", `Environment="NOTE=a b"`,
	} {
		if text := s.Render(); !strings.Contains(text, line+"\n") {
			t.Errorf("unit lacks %s:\n%s", line, text)
		}
	}
}

func TestProgramThatKeepsChildrenIsNotSandboxed(t *testing.T) {
	s := service("kijabi-a")
	s.KeepChildren = true
	text := s.Render()
	for _, line := range []string{"KillMode=process", "Delegate=yes"} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("unit lacks %s:\n%s", line, text)
		}
	}
	// Each of these gives a unit mounts of its own, or binds what containers inherit.
	for _, key := range []string{"Protect", "Private", "ReadWritePaths", "InaccessiblePaths", "SystemCall", "NoNewPrivileges", "MountFlags", "Restrict"} {
		if strings.Contains(text, "\n"+key) {
			t.Errorf("unit has %s:\n%s", key, text)
		}
	}
}
