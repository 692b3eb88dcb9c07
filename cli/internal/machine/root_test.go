package machine

import (
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kijabi.dev/cli/internal/machine/supervisor"
)

// bring copies this program into a machine with an own root, and adds a unit for it.
func bring(t *testing.T, fleet *Fleet, name string) {
	t.Helper()
	from, err := os.Open(fleet.Program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(filepath.Join(fleet.RootDir(name), "opt", "program"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	units := filepath.Join(fleet.ConfigDir(name), "units")
	if err := os.MkdirAll(units, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(units, "echo.yaml"), []byte("name: echo\nexec: [/opt/program, echo]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestOwnRoot is about machines that see nothing of the host.
func TestOwnRoot(t *testing.T) {
	fleet, err := New(t.TempDir(), State{
		Name: "roots" + strconv.Itoa(os.Getpid()), Subnet: netip.MustParsePrefix("10.213.78.0/24"), OwnRoots: true,
		Machines: []Machine{{Name: "one", Role: Master, Address: netip.MustParseAddr("10.213.78.11")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	before := footprint(t, fleet)
	t.Cleanup(func() { destroy(t, fleet) })
	if err := fleet.Save(); err != nil {
		t.Fatal(err)
	}
	if err := fleet.EnsureNetwork(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := fleet.Start(ctx, "one"); err != nil {
		console, _ := os.ReadFile(filepath.Join(fleet.MachineDir("one"), "console.log"))
		t.Fatalf("%v\n%s", err, console)
	}
	bring(t, fleet, "one") // into a machine that runs, as one copies files to any

	look := func() []string {
		t.Helper()
		command, err := fleet.Command(ctx, "one", "/opt/program", "look")
		if err != nil {
			t.Fatal(err)
		}
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	seen := look()
	for _, line := range seen {
		kind, path, _ := strings.Cut(line, " ")
		top, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		known := slices.Contains([]string{"dev", "etc", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var"}, top)
		if kind == "entry" && !known || kind == "mount" && path != "/" && !slices.Contains([]string{"dev", "proc", "run", "sys", "tmp"}, top) {
			t.Errorf("the machine sees %s", line)
		}
	}
	if !slices.Contains(seen, "host name one") {
		t.Errorf("host name is not its own: %v", seen)
	}
	if shell, err := fleet.Command(ctx, "one", "/bin/sh", "-c", "true"); err != nil {
		t.Error(err)
	} else if out, err := shell.CombinedOutput(); err == nil || !strings.Contains(string(out), "no such file") {
		t.Errorf("a shell of the host ran: %s", out)
	}
	if hosts, err := os.ReadFile(filepath.Join(fleet.RootDir("one"), "etc", "hosts")); err != nil || !strings.Contains(string(hosts), "10.213.78.11 one") {
		t.Errorf("/etc/hosts: %s, %v", hosts, err)
	}

	// Its supervisor is reached although its socket lies in the machine's own memory.
	if _, err := supervisor.Call(ctx, fleet.Socket("one"), supervisor.Request{Command: supervisor.Start, Unit: "echo"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unit", func() error { return answers(fleet.State.Machines[0].Address, "one") })
	id, err := os.ReadFile(filepath.Join(fleet.RootDir("one"), "etc", "machine-id"))
	if err != nil || len(id) != 33 {
		t.Errorf("machine-id %q, %v", id, err)
	}
	if err := fleet.Kill(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Start(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unit after a start", func() error { return answers(fleet.State.Machines[0].Address, "one") })
	if again, err := os.ReadFile(filepath.Join(fleet.RootDir("one"), "etc", "machine-id")); err != nil || string(again) != string(id) {
		t.Errorf("machine-id was %q, is %q, %v", id, again, err)
	}
	if log, err := os.ReadFile(filepath.Join(fleet.LogDir("one"), "echo.log")); err != nil || strings.Count(string(log), "listening") != 2 {
		t.Errorf("log of the unit: %q, %v", log, err)
	}
	if err := fleet.Stop(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	destroy(t, fleet)
	if after := footprint(t, fleet); !slices.Equal(before, after) {
		t.Errorf("left behind: %v", after)
	}
	if _, err := os.Stat(fleet.Dir); !os.IsNotExist(err) {
		t.Errorf("state is left: %v", err)
	}
}

func TestOwnRootThatCannotBe(t *testing.T) {
	fleet, err := New(t.TempDir(), State{
		Name: "noroot" + strconv.Itoa(os.Getpid()), Subnet: netip.MustParsePrefix("10.213.78.0/24"), OwnRoots: true,
		Machines: []Machine{{Name: "one", Role: Master, Address: netip.MustParseAddr("10.213.78.11")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { destroy(t, fleet) })
	if err := fleet.Save(); err != nil {
		t.Fatal(err)
	}
	if err := fleet.EnsureNetwork(); err != nil {
		t.Fatal(err)
	}
	// A file where a directory has to be.
	if err := os.MkdirAll(fleet.RootDir("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(fleet.RootDir("one"), "dev")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Start(t.Context(), "one"); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error = %v, want a line that names %s", err, path)
	}
	if fleet.PID("one") != 0 {
		t.Error("machine is up")
	}
	if units, err := fleet.Units(t.Context(), "one"); err == nil {
		t.Errorf("a machine that is down has units: %v", units)
	}
}
