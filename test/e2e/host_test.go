package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kijabi.dev/test/harness"
)

// process is a process of a machine, as the host sees it.
type process struct {
	pid     string
	started string // with pid, it identifies a process
	program string
	args    string
}

// processesOf lists the processes of every machine: those in its cgroup.
func processesOf(t *harness.T) map[string][]process {
	t.Helper()
	found := map[string][]process{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			continue // it has ended
		}
		_, path, ok := strings.Cut(string(groups), "/kijabi-"+clusterName+"/")
		if !ok {
			continue
		}
		machine := path[:strings.IndexAny(path, "/\n")]
		p := process{pid: filepath.Base(dir)}
		if p.started, ok = harness.ProcessStart(p.pid); !ok {
			continue
		}
		if program, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
			p.program = filepath.Base(program)
		}
		if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
			p.args = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
		}
		found[machine] = append(found[machine], p)
	}
	return found
}

// host is what `up` may leave behind on the host: each entry names one thing.
type host map[string]bool

// lookAtHost lists everything that a cluster on this host leaves traces in. Other
// clusters on the same host are left out as far as they can be told apart.
func lookAtHost(t *harness.T) host {
	t.Helper()
	seen := host{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); !ofOtherCluster(fields[4]) {
			seen["mount "+fields[4]] = true
		}
	}
	_, network, err := net.ParseCIDR(subnet)
	if err != nil {
		t.Fatal(err)
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		addresses, err := link.Addrs()
		if err != nil {
			continue // removed just now
		}
		ours := !strings.HasPrefix(link.Name, "kj") && !strings.HasPrefix(link.Name, "veth") && !strings.HasPrefix(link.Name, "br-") // routes end with their link
		for _, address := range addresses {
			if ip, _, err := net.ParseCIDR(address.String()); err == nil && network.Contains(ip) {
				ours = true
			}
		}
		if ours {
			seen["link "+link.Name] = true
		}
	}
	for _, table := range hostTables(t) {
		seen["nft "+table] = true
	}
	for _, pattern := range []string{"/sys/fs/cgroup/kijabi-" + clusterName, "/sys/fs/cgroup/*/kijabi-" + clusterName,
		filepath.Join(harness.StateRoot, clusterName), "/etc/kijabi/*", "/var/log/kijabi/*", "/var/lib/kijabi/*", "/run/kijabi/*", "/run/netns/*", "/tmp/kijabi-up-failed-" + clusterName} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			seen["path "+path] = true
		}
	}
	return seen
}

// ofOtherCluster also tells what a Docker Engine mounts meanwhile.
func ofOtherCluster(mount string) bool {
	for _, engine := range []string{"/run/docker/", "/var/lib/docker/"} {
		if strings.HasPrefix(mount, engine) {
			return true
		}
	}
	return strings.HasPrefix(mount, harness.StateRoot+"/") && !strings.HasPrefix(mount, filepath.Join(harness.StateRoot, clusterName)+"/")
}

// hostTables lists the host's own nft tables.
func hostTables(t *harness.T) []string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "nft", "list", "tables").Output()
	if err != nil {
		return nil // without nft there are tables only if the kernel has none either
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// namespacesOf lists the namespaces that only the cluster's processes are in.
func namespacesOf(t *harness.T, running map[string][]process) map[string]bool {
	t.Helper()
	ours := map[string]bool{}
	for _, processes := range running {
		for _, p := range processes {
			for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc", "cgroup"} {
				space, err := os.Readlink(filepath.Join("/proc", p.pid, "ns", kind))
				if err != nil {
					continue
				}
				if own, err := os.Readlink("/proc/self/ns/" + kind); err == nil && own != space {
					ours[space] = true
				}
			}
		}
	}
	return ours
}

func testDown(t *harness.T, c *cluster, before host) {
	if os.Getenv("KIJABI_E2E_KEEP") != "" {
		t.Logf("KIJABI_E2E_KEEP is set: cluster %s stays; HOME=%s", clusterName, c.Home)
		return
	}
	running := processesOf(t)
	if len(running) != 5 {
		t.Errorf("processes in %d machines before down, want 5", len(running))
	}
	spaces := namespacesOf(t, running)
	if result := c.Try(t, "down", "--name", clusterName); result.Code != 0 {
		t.Fatal(result)
	}
	// Whoever inherited a process that has ended takes a moment to notice.
	harness.Eventually(t, 10*time.Second, "no process and no namespace is left", func() error {
		var errs []error
		for machine, processes := range running {
			for _, p := range processes {
				if started, ok := harness.ProcessStart(p.pid); ok && started == p.started {
					errs = append(errs, fmt.Errorf("process %s of machine %s: %s", p.pid, machine, p.args))
				}
			}
		}
		dirs, err := filepath.Glob("/proc/[0-9]*/ns/*")
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if space, err := os.Readlink(dir); err == nil && spaces[space] {
				errs = append(errs, fmt.Errorf("namespace %s: %s", space, dir))
			}
		}
		return errors.Join(errs...)
	})
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		for space := range spaces {
			if strings.Contains(line, space) {
				t.Errorf("namespace %s is mounted: %s", space, line)
			}
		}
	}
	after := lookAtHost(t)
	var left []string
	for thing := range after {
		if !before[thing] {
			left = append(left, thing)
		}
	}
	slices.Sort(left)
	for _, thing := range left {
		t.Errorf("left on the host: %s", thing)
	}
	if entries, err := os.ReadDir(filepath.Join(c.Home, ".kijabi")); err == nil {
		t.Errorf("left in %s: %v", c.Home, entries)
	}
	if result := c.Try(t, "down", "--name", clusterName); result.Code != 0 {
		t.Errorf("down of a cluster that is gone: %s", result)
	}
}
