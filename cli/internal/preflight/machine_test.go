package preflight

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"syscall"
	"testing/fstest"
	"time"

	testclock "k8s.io/utils/clock/testing"

	configv1 "kijabi.dev/platform/config/v1"
)

// fakeMachine is a healthy machine, until a test spoils something of it.
type fakeMachine struct {
	files   map[string]string // by path without the leading slash
	links   map[string]string
	clock   *testclock.FakeClock
	kernel  fakeKernel
	network fakeNetwork
	disk    fakeDisk
}

func (f *fakeMachine) view() *Machine {
	files := fstest.MapFS{}
	for path, content := range f.files {
		files[path] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	for path, target := range f.links {
		files[path] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
	}
	return &Machine{Files: files, Clock: f.clock, Kernel: &f.kernel, Network: &f.network, Disk: &f.disk}
}

type fakeKernel struct {
	broken   map[Feature]error
	unkept   bool
	clockErr error
}

func (k *fakeKernel) Probe(wanted Feature) error { return k.broken[wanted] }

func (k *fakeKernel) Synchronised() (bool, error) { return !k.unkept, k.clockErr }

type fakeNetwork struct {
	bind     map[int]error // by port
	routes   []Route
	chains   []Chain
	lookup   map[string]string
	greeting Greeting
	greetErr error
	told     MasterTime
	timeErr  error
	hang     chan struct{} // Greet waits for it
}

func (n *fakeNetwork) Bind(_ string, port int) error { return n.bind[port] }
func (n *fakeNetwork) Routes() ([]Route, error)      { return n.routes, nil }
func (n *fakeNetwork) Chains() ([]Chain, error)      { return n.chains, nil }

func (n *fakeNetwork) Resolve(_ context.Context, name string) ([]netip.Addr, error) {
	text, ok := n.lookup[name]
	if !ok {
		return nil, fmt.Errorf("lookup %s: no such host", name)
	}
	return []netip.Addr{netip.MustParseAddr(text)}, nil
}

func (n *fakeNetwork) Greet(context.Context, string) (Greeting, error) {
	if n.hang != nil {
		<-n.hang
	}
	return n.greeting, n.greetErr
}

func (n *fakeNetwork) Time(context.Context, string) (MasterTime, error) { return n.told, n.timeErr }

type fakeDisk struct {
	space      Space
	filesystem Filesystem
	writeErr   error
	overlayErr error
	sync       func(i int) time.Duration
	writes     int
}

func (d *fakeDisk) Space(string) (Space, error)           { return d.space, nil }
func (d *fakeDisk) Filesystem(string) (Filesystem, error) { return d.filesystem, nil }
func (d *fakeDisk) Write(string) error                    { return d.writeErr }
func (d *fakeDisk) Overlay(string) error                  { return d.overlayErr }

func (d *fakeDisk) Sync(_ string, writes int) ([]time.Duration, error) {
	d.writes = writes
	var times []time.Duration
	for i := range writes {
		times = append(times, d.sync(i))
	}
	return times, nil
}

// The machine's time in these tests.
func testNow() time.Time { return time.Date(2026, 11, 29, 22, 0, 0, 0, time.UTC) }

const (
	cgroupV2 = "30 22 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
	noSwap   = "Filename\tType\tSize\tUsed\tPriority\n"
)

// hybridCgroups is the mountinfo of a machine with cgroup v1 beside v2.
func hybridCgroups(without ...string) string {
	text := "30 22 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n40 30 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	for _, name := range []string{"cpu", "memory", "pids", "devices", "freezer", "cpuset"} {
		if !slices.Contains(without, name) {
			text += "31 30 0:28 / /sys/fs/cgroup/" + name + " rw,relatime - cgroup cgroup rw," + name + "\n"
		}
	}
	return text
}

func healthy() *fakeMachine {
	now := testNow()
	return &fakeMachine{
		files: map[string]string{
			"proc/self/status":                 "Name:\tkijabi\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3\n",
			"proc/sys/kernel/osrelease":        "6.12.1-amd64\n",
			"proc/self/mountinfo":              cgroupV2,
			"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
			"proc/meminfo":                     "MemTotal:        4000000 kB\nMemFree:          100000 kB\nMemAvailable:    3000000 kB\n",
			"proc/swaps":                       noSwap,
			"etc/resolv.conf":                  "# comment\nnameserver 192.0.2.53\nsearch example.org\n",
			"proc/7/comm":                      "sshd\n",
			"proc/9/comm":                      "kubelet\n", // of a container
		},
		links: map[string]string{
			"proc/self/ns/net": "net:[1]", "proc/7/ns/net": "net:[1]", "proc/9/ns/net": "net:[2]",
		},
		clock: testclock.NewFakeClock(now),
		network: fakeNetwork{
			bind:     map[int]error{},
			routes:   []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Device: "eth0"}, {To: netip.MustParsePrefix("10.0.0.0/24"), Device: "eth0"}},
			lookup:   map[string]string{"localhost": "127.0.0.1", "vm1": "10.0.0.11"},
			greeting: Greeting{Names: []string{"apiserver.kijabi"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)},
			told:     MasterTime{Date: now.Truncate(time.Second), Asked: now, Answered: now.Add(2 * time.Millisecond)},
		},
		disk: fakeDisk{
			space:      Space{Free: 50 * gib, Total: 100 * gib, FreeFiles: 1e6, Files: 2e6},
			filesystem: Filesystem{Kind: "ext4"},
			sync:       func(int) time.Duration { return time.Millisecond },
		},
	}
}

func target() Target {
	return Target{
		Master: true, Name: "vm1", Address: "10.0.0.11", StateDir: "/var/lib/kijabi", DataDir: "/var/lib/kijabi/apiserver",
		Ports: []int{6443, 6444, 10250}, Network: configv1.DefaultNetwork(), Join: "10.0.0.12:6444",
	}
}

func node(t *Target) { t.Master = false }

// busy and foreign are what binding an address answers.
const busy, foreign = syscall.EADDRINUSE, syscall.EADDRNOTAVAIL
