package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// StateRoot is where kijabi keeps what belongs to clusters of this host.
const StateRoot = "/var/lib/kijabi-up"

// Claim makes the name the test's own until the test ends, when its cluster is removed,
// unless KIJABI_E2E_KEEP is set. What an earlier run has left of the cluster is removed
// first. A cluster that somebody else uses ends the test instead.
func (c *Cluster) Claim(t testing.TB) {
	t.Helper()
	if err := c.claim(t); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		switch owner, _ := c.owner(); {
		case owner != self(): // the test has removed it, and another may have claimed the name
		case os.Getenv("KIJABI_E2E_KEEP") != "":
			t.Logf("KIJABI_E2E_KEEP is set: cluster %q stays until `kijabi down --name %s`; HOME=%s", c.Name, c.Name, c.Home)
		default:
			c.Down(t)
		}
	})
}

func (c *Cluster) claim(t testing.TB) error {
	t.Helper()
	if err := os.MkdirAll(c.Dir(), 0o755); err != nil {
		return err
	}
	// One test at a time looks and claims. kijabi locks directories of clusters, never this.
	all, err := os.Open(StateRoot)
	if err != nil {
		return err
	}
	defer func() { _ = all.Close() }()
	if err := unix.Flock(int(all.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", StateRoot, err)
	}
	left, err := c.leftover(t)
	if err != nil {
		return err
	}
	if left {
		t.Logf("removing a cluster %q that an earlier run has left", c.Name)
		if err := c.down(t); err != nil {
			return err
		}
	}
	return c.own()
}

// leftover reports whether there is something of a cluster of the name that nobody uses. An error is
// that somebody uses it: the process that owns it lives, or its machines run and no test
// has ever owned them.
func (c *Cluster) leftover(t testing.TB) (bool, error) {
	t.Helper()
	if entries, err := os.ReadDir(c.Dir()); err != nil || len(entries) == 0 {
		return false, nil //nolint:nilerr // it was never made
	}
	if owner, owned := c.owner(); owned {
		if owner.lives() {
			return false, fmt.Errorf("cluster %q is in use by process %s (%s): wait until that has ended, or end it", c.Name, owner.pid, owner.program())
		}
		return true, nil
	}
	if _, err := os.Stat(filepath.Join(c.Dir(), "state.json")); err != nil {
		return true, nil //nolint:nilerr // its removal was cut off
	}
	for _, m := range c.Machines(t) {
		if m.Up {
			return false, fmt.Errorf("cluster %q runs, and not for a test: if nobody needs it, remove it by `kijabi down --name %s`", c.Name, c.Name)
		}
	}
	return true, nil
}

// ownerPath is a file of the cluster, which goes with it.
func (c *Cluster) ownerPath() string { return filepath.Join(c.Dir(), "test-owner") }

// own writes down that this process owns the cluster, as kijabi does for machines.
func (c *Cluster) own() error {
	if err := os.MkdirAll(c.Dir(), 0o755); err != nil {
		return err
	}
	me := self()
	return os.WriteFile(c.ownerPath(), []byte(me.pid+" "+me.started+"\n"), 0o644)
}

// owner is the process that owns the cluster, if one has ever been written down.
func (c *Cluster) owner() (owner process, ok bool) {
	content, err := os.ReadFile(c.ownerPath())
	if err != nil {
		return process{}, false
	}
	fields := strings.Fields(string(content))
	if len(fields) != 2 {
		return process{}, true // the host went down while it was written
	}
	return process{fields[0], fields[1]}, true
}

// process is one that cannot be taken for a later one of the same number.
type process struct{ pid, started string }

func self() process {
	pid := fmt.Sprint(os.Getpid())
	started, _ := ProcessStart(pid)
	return process{pid, started}
}

func (p process) lives() bool {
	started, ok := ProcessStart(p.pid)
	return ok && started == p.started
}

func (p process) program() string {
	path, _ := os.Readlink(filepath.Join("/proc", p.pid, "exe"))
	return filepath.Base(path)
}

// ProcessStart is when a process was started, in ticks since boot, if it runs.
func ProcessStart(pid string) (string, bool) {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return "", false
	}
	// The program's name, in parentheses, may hold blanks.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "", false
	}
	return fields[19], true
}
