package container

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/install"
)

func newMachine(t *testing.T) *Machine {
	t.Helper()
	dir := t.TempDir()
	m := &Machine{
		Name: "m1", Address: "127.0.0.78", BinDir: dir, Invitations: filepath.Join(dir, "join"), Timeout: time.Second,
		Layout: install.Layout{ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "lib"), RunDir: filepath.Join(dir, "run")},
	}
	for _, path := range []string{m.Invitations, m.Layout.ConfigDir, m.Layout.StateDir, m.Layout.RunDir} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *Machine) write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestClusterIsFoundedOnce(t *testing.T) {
	m := newMachine(t)
	m.write(t, m.foundedMark(), "abc\n")
	err := m.Found(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cluster abc") || !strings.Contains(err.Error(), "make compose-down") {
		t.Errorf("a first master without its disk: %v", err)
	}
}

func TestMemberIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	m.write(t, filepath.Join(m.Layout.StateDir, "member.json"), `{"name":"m1","address":"127.0.0.78","master":true,"clusterID":"abc"}`)
	m.write(t, m.tokens("m1"), "left")
	if err := m.Join(t.Context(), true, []string{"m0"}); err != nil {
		t.Errorf("join again: %v", err)
	}
	if _, err := os.Stat(m.tokens("m1")); !os.IsNotExist(err) {
		t.Errorf("the token is left: %v", err)
	}
	if err := m.Found(t.Context()); err != nil {
		t.Errorf("found again: %v", err)
	}
	if id, err := os.ReadFile(m.foundedMark()); err != nil || string(id) != "abc\n" {
		t.Errorf("nobody is told of the cluster: %q, %v", id, err)
	}
	m.Address = "127.0.0.79"
	if err := m.Found(t.Context()); err == nil || !strings.Contains(err.Error(), "127.0.0.78") {
		t.Errorf("volumes of another address: %v", err)
	}
}

func TestJoinWaitsForItsInvitation(t *testing.T) {
	m := newMachine(t)
	if err := m.Join(t.Context(), false, []string{"127.0.0.78"}); err == nil || !strings.Contains(err.Error(), "no master answers") {
		t.Errorf("without a master: %v", err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.78", strconv.Itoa(configv1.PortGRPC)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	err = m.Join(t.Context(), false, []string{"127.0.0.78"})
	if err == nil || !strings.Contains(err.Error(), "docker start 127.0.0.78-setup") {
		t.Errorf("without an invitation: %v", err)
	}
}

func TestTokenServesOneAttempt(t *testing.T) {
	m := newMachine(t)
	m.write(t, m.tokens("m1"), "first\nsecond\n")
	for _, want := range []string{"first", "second"} {
		if got, err := m.take(); err != nil || got != want {
			t.Errorf("got %q, %v; want %s", got, err, want)
		}
	}
	if got, err := m.take(); err == nil {
		t.Errorf("got %q when all were used", got)
	}
}
