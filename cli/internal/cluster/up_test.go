package cluster_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/cluster"
	"kijabi.dev/cli/internal/command"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/machine"
)

// TestMain lets this program be the kijabi that machines run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(command.Main(os.Args))
	}
	os.Exit(m.Run())
}

// sleepingPrograms makes a bin directory of programs that start and never serve.
func sleepingPrograms(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	for _, program := range install.Programs() {
		path := filepath.Join(bin, program)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

func TestUpThatFailsLeavesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("machines are namespaces: run this test as root")
	}
	root := filepath.Join(t.TempDir(), "state")
	options := cluster.Options{
		Root: root, Home: access.UserHome{Dir: filepath.Join(t.TempDir(), ".kijabi")}, Timeout: 3 * time.Second,
	}
	name := "fail" + strconv.Itoa(os.Getpid())
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(os.TempDir(), "kijabi-up-failed-"+name)) })
	plan := cluster.Plan{
		Name: name, Masters: 1, Nodes: 1, Subnet: netip.MustParsePrefix("10.213.78.0/24"), BinDir: sleepingPrograms(t),
	}
	_, err := cluster.Up(t.Context(), plan, options)
	if err == nil || !strings.Contains(err.Error(), "master-1") || !strings.Contains(err.Error(), "logs are in") {
		t.Errorf("up = %v, want an error that names the machine and where its logs are", err)
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("state is left: %v", err)
	}
	if _, err := os.Stat(options.Home.Dir); !os.IsNotExist(err) {
		t.Errorf("access is left: %v", err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/kijabi-" + name); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
	if err := cluster.Down(context.WithoutCancel(t.Context()), name, options, false); err != nil {
		t.Errorf("down of nothing: %v", err)
	}
}

func TestUpRefusesBeforeItMakesAnything(t *testing.T) {
	root := filepath.Join(t.TempDir(), "state")
	options := cluster.Options{Root: root, Home: access.UserHome{Dir: t.TempDir()}}
	empty := t.TempDir()
	for name, test := range map[string]struct {
		plan cluster.Plan
		want string
	}{
		"missing programs": {cluster.Plan{Name: "a", Masters: 1, BinDir: empty}, "programs are missing in " + empty},
		"bad name":         {cluster.Plan{Name: "A b", Masters: 1, BinDir: empty}, "cluster name"},
		"busy subnet": {cluster.Plan{
			Name: "a", Masters: 1, BinDir: sleepingPrograms(t), Subnet: netip.MustParsePrefix("127.0.0.0/24"),
		}, "is busy"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := cluster.Up(t.Context(), test.plan, options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("up = %v, want an error with %q", err, test.want)
			}
			if _, err := os.Stat(root); !os.IsNotExist(err) {
				t.Errorf("state is left: %v", err)
			}
			if _, err := machine.Open(root, "a"); err == nil {
				t.Error("a cluster is left")
			}
		})
	}
}

// TestCreate makes empty machines, adds one, and keeps them apart from clusters of up.
func TestCreate(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("machines are namespaces: run this test as root")
	}
	root := filepath.Join(t.TempDir(), "state")
	options := cluster.Options{Root: root, Home: access.UserHome{Dir: filepath.Join(t.TempDir(), ".kijabi")}}
	name := "create" + strconv.Itoa(os.Getpid())
	plan := cluster.Plan{Name: name, Masters: 1, Nodes: 0, Subnet: netip.MustParsePrefix("10.213.79.0/24")}
	down := func() {
		if err := cluster.Down(context.WithoutCancel(t.Context()), name, options, false); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(down)
	if _, err := cluster.Create(t.Context(), plan, options); err != nil {
		t.Fatal(err)
	}
	plan.Nodes = 1
	fleet, err := cluster.Create(t.Context(), plan, options)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"master-1", "node-1"} {
		if fleet.PID(name) == 0 {
			t.Errorf("machine %s is down", name)
		}
		hosts, err := os.ReadFile(filepath.Join(fleet.RootDir(name), "etc", "hosts"))
		if err != nil || !strings.Contains(string(hosts), "10.213.79.21 node-1") {
			t.Errorf("machine %s does not know node-1: %s, %v", name, hosts, err)
		}
	}
	plan.BinDir = sleepingPrograms(t)
	if _, err := cluster.Up(t.Context(), plan, options); err == nil || !strings.Contains(err.Error(), "machine create") {
		t.Errorf("up = %v, want an error that these machines are not its own", err)
	}
	down()
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("state is left: %v", err)
	}
	fleet, err = machine.New(root, machine.State{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if err := fleet.Save(); err != nil { // as up does
		t.Fatal(err)
	}
	if _, err := cluster.Create(t.Context(), plan, options); err == nil || !strings.Contains(err.Error(), "started by `kijabi up`") {
		t.Errorf("create = %v, want an error that the cluster is one of up", err)
	}
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	root := filepath.Join(t.TempDir(), "state")
	plan := cluster.Plan{Name: "a", Masters: 1, Nodes: 0, Subnet: netip.MustParsePrefix("127.0.0.0/24")}
	if _, err := cluster.Create(t.Context(), plan, cluster.Options{Root: root}); err == nil || !strings.Contains(err.Error(), "is busy") {
		t.Errorf("create = %v, want an error that the subnet is busy", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	plan.Name, plan.Subnet = "b"+strconv.Itoa(os.Getpid()), netip.MustParsePrefix("10.213.79.0/24")
	if _, err := cluster.Create(ended, plan, cluster.Options{Root: root}); err == nil {
		t.Error("create succeeded although it was interrupted")
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("state is left: %v", err)
	}
}
