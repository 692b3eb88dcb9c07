package machine

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"kijabi.dev/cli/internal/machine/kernelfs"
	"kijabi.dev/cli/internal/machine/supervisor"
)

// TestMain lets this program be process 1 of a machine, enter one, and serve as a unit.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case InitCommand:
			fmt.Fprintln(os.Stderr, Init())
			os.Exit(1)
		case RunCommand:
			if err := Run(context.Background(), zap.NewExample()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case EnterCommand:
			pid, _ := strconv.Atoi(os.Args[2])
			code, err := Enter(pid, os.Args[3], os.Args[5:])
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(125)
			}
			os.Exit(code)
		case "echo":
			serveName()
		case "look":
			look()
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// serveName is a unit that tells its host name to whoever connects.
func serveName() {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", ":7000")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for {
		conn, err := listener.Accept()
		if err != nil {
			os.Exit(1)
		}
		name, _ := os.Hostname()
		fmt.Fprint(conn, name)
		_ = conn.Close()
	}
}

// look is a program of a machine without any other: it lists the root directory and the
// mounted file systems.
func look() {
	entries, err := os.ReadDir("/")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, entry := range entries {
		fmt.Println("entry /" + entry.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		fmt.Println("mount", fields[4])
	}
	name, _ := os.Hostname()
	fmt.Println("host name", name)
}

// testFleet returns a fleet of two machines, each with a unit that answers on port 7000.
func testFleet(t *testing.T) *Fleet {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("machines are namespaces: run this test as root")
	}
	subnet := netip.MustParsePrefix("10.213.77.0/24")
	fleet, err := New(t.TempDir(), State{
		Name: "test" + strconv.Itoa(os.Getpid()), Subnet: subnet, BinDir: t.TempDir(),
		Machines: []Machine{
			{Name: "one", Role: Master, Address: netip.MustParseAddr("10.213.77.11")},
			{Name: "two", Role: Node, Address: netip.MustParseAddr("10.213.77.21")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := fleet.Save(); err != nil {
		t.Fatal(err)
	}
	for _, name := range fleet.Names() {
		unit := fmt.Sprintf("name: echo\nexec: [%q, echo]\n", fleet.Program)
		dir := filepath.Join(fleet.ConfigDir(name), "units")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "echo.yaml"), []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { destroy(t, fleet) })
	return fleet
}

func destroy(t *testing.T, fleet *Fleet) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := fleet.Destroy(ctx, false); err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// answers asks the unit of a machine from the host.
func answers(address netip.Addr, want string) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(context.Background(), "tcp", netip.AddrPortFrom(address, 7000).String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var got bytes.Buffer
	if _, err := got.ReadFrom(conn); err != nil {
		return err
	}
	if got.String() != want {
		return fmt.Errorf("answered %q, want %q", got.String(), want)
	}
	return nil
}

// footprint is everything of ours that the host could be left with.
func footprint(t *testing.T, fleet *Fleet) []string {
	t.Helper()
	name := fleet.State.Name
	var found []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Attrs().Name == fleet.hostLink() {
			found = append(found, "link "+link.Attrs().Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/"+name) {
			found = append(found, "mount "+strings.Fields(line)[4])
		}
	}
	all, err := kernelfs.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range all {
		if _, err := os.Stat(filepath.Join(h.Path, "kijabi-"+name)); err == nil {
			found = append(found, "cgroup in "+h.Path)
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, path := range processes {
		content, _ := os.ReadFile(path)
		if strings.Contains(string(content), "kijabi-"+name) {
			found = append(found, "process "+path)
		}
	}
	return found
}

func TestFleet(t *testing.T) {
	fleet := testFleet(t)
	name := fleet.State.Name // as it shows up in cgroups
	before := footprint(t, fleet)
	ctx := t.Context()
	if err := fleet.CheckSubnet(); err != nil {
		t.Fatal(err)
	}
	start := func(name string) {
		t.Helper()
		if err := fleet.Start(ctx, name); err != nil {
			console, _ := os.ReadFile(filepath.Join(fleet.MachineDir(name), "console.log"))
			t.Fatalf("%v\n%s", err, console)
		}
	}
	for range 2 { // the second time nothing happens
		if err := fleet.EnsureNetwork(); err != nil {
			t.Fatal(err)
		}
		start("one")
		start("two")
	}
	run := func(machine string, argv ...string) string {
		t.Helper()
		command, err := fleet.Command(ctx, machine, argv...)
		if err != nil {
			t.Fatal(err)
		}
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%v in %s: %v: %s", argv, machine, err, out)
		}
		return strings.TrimSpace(string(out))
	}

	for _, m := range fleet.State.Machines {
		eventually(t, "unit of "+m.Name, func() error { return answers(m.Address, m.Name) })
	}
	if got := run("one", "hostname"); got != "one" {
		t.Errorf("host name = %q", got)
	}
	if got := run("one", "sh", "-c", "cat /proc/1/comm; ls /etc/kijabi; readlink /proc/self/ns/pid; cat /etc/hosts"); !strings.Contains(got, "10.213.77.21 two") {
		t.Errorf("inside: %s", got)
	}
	if got := run("two", "sh", "-c", "echo kept > /var/lib/kijabi/disk; echo lost > /run/memory; cat /proc/self/cgroup"); strings.Contains(got, name) {
		t.Errorf("machine sees cgroups outside its own: %s", got)
	}
	// Another machine by name, through the bridge.
	if got := run("one", "bash", "-c", "cat < /dev/tcp/two/7000"); got != "two" {
		t.Errorf("two as seen by one = %q", got)
	}
	// The host as seen by a machine.
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", netip.AddrPortFrom(fleet.HostAddress(), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	run("one", "bash", "-c", "true < /dev/tcp/10.213.77.1/"+port)

	t.Run("exit code", func(t *testing.T) {
		command, err := fleet.Command(ctx, "one", "sh", "-c", "exit 7")
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Run(); err == nil || command.ProcessState.ExitCode() != 7 {
			t.Errorf("exit code = %v, want 7", err)
		}
	})

	t.Run("kill", func(t *testing.T) {
		pid := fleet.PID("two")
		orphan, err := fleet.Command(ctx, "two", "sleep", "1000")
		if err != nil {
			t.Fatal(err)
		}
		if err := orphan.Start(); err != nil {
			t.Fatal(err)
		}
		if err := fleet.Kill(ctx, "two"); err != nil {
			t.Fatal(err)
		}
		if err := orphan.Wait(); err == nil {
			t.Error("a process outlived its machine")
		}
		if fleet.PID("two") != 0 || (processID{pid: pid}).alive() {
			t.Error("machine is still up")
		}
		if _, err := fleet.Command(ctx, "two", "true"); err == nil || !strings.Contains(err.Error(), "is down") {
			t.Errorf("command in a dead machine: %v", err)
		}
		start("two")
		eventually(t, "unit after the start", func() error { return answers(fleet.State.Machines[1].Address, "two") })
		if got := run("two", "sh", "-c", "cat /var/lib/kijabi/disk; ls /run"); !strings.HasPrefix(got, "kept") || strings.Contains(got, "memory") {
			t.Errorf("after kill and start: %q", got)
		}
	})

	t.Run("stop", func(t *testing.T) {
		if err := fleet.Stop(ctx, "one"); err != nil {
			t.Fatal(err)
		}
		if fleet.PID("one") != 0 {
			t.Error("machine is still up")
		}
		start("one")
		units, err := fleet.Units(ctx, "one")
		if err != nil || len(units) != 1 || units[0].State != supervisor.Running {
			t.Errorf("units = %+v, %v", units, err)
		}
	})

	t.Run("unit restart", func(t *testing.T) {
		for range 3 {
			before, err := fleet.Units(ctx, "two")
			if err != nil {
				t.Fatal(err)
			}
			request := supervisor.Request{Command: supervisor.Restart, Unit: "echo"}
			after, err := supervisor.Call(ctx, fleet.Socket("two"), request)
			if err != nil || after[0].PID == before[0].PID {
				t.Fatalf("restart: %+v, %v", after, err)
			}
			eventually(t, "unit after its restart", func() error { return answers(fleet.State.Machines[1].Address, "two") })
		}
		if units, err := fleet.Units(ctx, "two"); err != nil || units[0].Restarts != 0 {
			t.Errorf("unit ended by itself: %+v, %v", units, err)
		}
	})

	t.Run("orphans are reaped", func(t *testing.T) {
		run("one", "sh", "-c", "(sleep 0.05 &) ; (sleep 0.05 &)")
		eventually(t, "zombies", func() error {
			got := run("one", "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null || true")
			if got != "" {
				return fmt.Errorf("zombies: %s", got)
			}
			return nil
		})
	})

	if err := fleet.Destroy(ctx, false); err != nil {
		t.Fatal(err)
	}
	if after := footprint(t, fleet); !cmp.Equal(before, after) {
		t.Errorf("left behind: %s", cmp.Diff(before, after))
	}
	if _, err := os.Stat(fleet.Dir); !os.IsNotExist(err) {
		t.Errorf("state is left: %v", err)
	}
}

func TestStartFailureLeavesNothing(t *testing.T) {
	fleet := testFleet(t)
	before := footprint(t, fleet)
	if err := fleet.EnsureNetwork(); err != nil {
		t.Fatal(err)
	}
	fleet.State.BinDir = "/does/not/exist" // process 1 cannot keep it visible
	err := fleet.Start(t.Context(), "one")
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Fatalf("start = %v, want an error that names the missing directory", err)
	}
	if fleet.PID("one") != 0 {
		t.Error("machine is up")
	}
	if err := fleet.Destroy(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if after := footprint(t, fleet); !slices.Equal(before, after) {
		t.Errorf("left behind: %v", after)
	}
}

func TestCheckSubnet(t *testing.T) {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil || len(addresses) == 0 {
		t.Fatalf("addresses of the host: %v, %v", addresses, err)
	}
	busy, _ := prefixOf(addresses[0].IPNet)
	fleet, err := New(t.TempDir(), State{Name: "busy", Subnet: busy})
	if err != nil {
		t.Fatal(err)
	}
	if err := fleet.CheckSubnet(); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("subnet %s of the host accepted: %v", busy, err)
	}
}
