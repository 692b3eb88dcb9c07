package preflight

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	configv1 "kijabi.dev/platform/config/v1"
)

func TestCheckThatHangsIsReported(t *testing.T) {
	m := healthy()
	m.network.hang = make(chan struct{})
	defer close(m.network.hang)
	done := make(chan *Report)
	go func() { done <- Run(t.Context(), m.view(), target(), Options{}) }()
	for deadline := time.Now().Add(10 * time.Second); !m.clock.HasWaiters(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing waits for the check that hangs")
		}
	}
	m.clock.Step(time.Minute)
	report := <-done
	got := find(t, report, "master")
	if report.OK || got.Level != Failure || !strings.Contains(got.Text, "no result within 5s") {
		t.Errorf("finding = %+v", got)
	}
	if ok := find(t, report, "disk-latency"); ok.Level != OK {
		t.Errorf("a check beside it = %+v", ok)
	}
}

func TestIgnore(t *testing.T) {
	m := healthy()
	m.network.bind[10250], m.disk.writeErr = busy, errors.New("read-only file system")
	for _, test := range []struct {
		ignore []string
		fails  string
	}{
		{nil, "--ignore-preflight ports,filesystem"},
		{[]string{"ports"}, "--ignore-preflight filesystem"},
		{[]string{"ports", "filesystem"}, ""},
		{[]string{"all"}, ""},
	} {
		report := Run(t.Context(), m.view(), target(), Options{Ignore: test.ignore})
		err := report.Err()
		if report.OK != (test.fails == "") || (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("ignoring %v: ok %v, %v", test.ignore, report.OK, err)
		}
		if got := report.Count(Failure) + report.Count(Warning); got != 2 {
			t.Errorf("ignoring %v: %d findings", test.ignore, got)
		}
	}
	if err := CheckIgnore([]string{"ports", "prots"}); err == nil || !strings.Contains(err.Error(), `"prots"`) || !strings.Contains(err.Error(), "disk-latency") {
		t.Errorf("unknown name: %v", err)
	}
}

func TestProgramsElsewhere(t *testing.T) {
	m := healthy()
	m.network.bind[10250] = busy
	report := Run(t.Context(), m.view(), target(), Options{ProgramsElsewhere: true})
	if report.OK {
		t.Error("a port in use, which no program's rights would change, is no failure")
	}
	for _, f := range report.Findings {
		if slices.Contains(ofPrograms(), f.Check) {
			t.Errorf("%s was asked for programs that run elsewhere", f.Check)
		}
	}
	for _, name := range ofPrograms() {
		if !slices.Contains(Names(), name) {
			t.Errorf("there is no check %s", name)
		}
	}
}

func TestQuickAsksLess(t *testing.T) {
	m := healthy()
	// One hiccup in few writes is no failure; a disk that is slow every time is.
	m.disk.sync = func(i int) time.Duration {
		if i == 0 {
			return time.Second
		}
		return time.Millisecond
	}
	report := Run(t.Context(), m.view(), target(), Options{Quick: true})
	if !report.OK || m.disk.writes >= syncWrites {
		t.Errorf("%d writes, %v", m.disk.writes, report.Err())
	}
	for _, f := range report.Findings {
		if f.Check == "names" || f.Check == "swap" {
			t.Errorf("%s cannot fail, and was asked", f.Check)
		}
	}
	m.disk.sync = func(int) time.Duration { return time.Second }
	if report := Run(t.Context(), m.view(), target(), Options{Quick: true}); report.OK {
		t.Error("a disk that takes a second for each write is good enough")
	}
}

// TestThisMachine runs every check for real. Tests run as root, on a machine that can be
// a member.
func TestThisMachine(t *testing.T) {
	state := filepath.Join(t.TempDir(), "lib")
	wanted := Target{
		Master: true, Name: "vm1", Address: "127.0.77.201", StateDir: state, DataDir: filepath.Join(state, "apiserver"),
		Ports: []int{10250}, Network: configv1.DefaultNetwork(), Join: "127.0.77.202:6444",
	}
	began := clock.RealClock{}.Now()
	report := Run(t.Context(), Local(), wanted, Options{Quick: true, Ignore: []string{"address-scope", "master"}})
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	t.Logf("quick: %s", time.Since(began))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a quick preflight took %s", took)
	}
	if got := find(t, report, "master"); got.Level != Failure || !strings.Contains(got.Text, "connection refused") {
		t.Errorf("nobody listens there: %+v", got)
	}
	began = time.Now()
	full := Run(t.Context(), Local(), wanted, Options{})
	t.Logf("full: %s", time.Since(began))
	for _, f := range full.Findings {
		t.Logf("%-8s %s", f.Level, f)
	}
	left, err := os.ReadDir(filepath.Dir(state))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRealDiskSaysWhatIsWrong(t *testing.T) {
	disk := localDisk{}
	if found, err := disk.Filesystem("/proc/no/such"); err != nil || found.Kind == "ext4" {
		t.Errorf("file system of /proc: %+v, %v", found, err)
	}
	if err := disk.Write("/proc/no/such"); err == nil {
		t.Error("a file was written into /proc")
	}
	if err := disk.Overlay("/proc/no/such"); err == nil {
		t.Error("an overlay was put on /proc")
	}
	if times, err := disk.Sync(t.TempDir(), 5); err != nil || len(times) != 5 {
		t.Errorf("sync: %v, %v", times, err)
	}
}

// TestProbesLeaveNothing makes sure that no probe changes this process's own namespaces.
func TestProbesLeaveNothing(t *testing.T) {
	spaces := func() map[string]string {
		found := map[string]string{}
		for _, kind := range []string{"mnt", "pid_for_children", "uts", "ipc", "net", "cgroup"} {
			tasks, err := filepath.Glob("/proc/self/task/*/ns/" + kind)
			if err != nil {
				t.Fatal(err)
			}
			for _, task := range tasks {
				if space, err := os.Readlink(task); err == nil { // the thread may have ended
					found[kind+" "+space] = space
				}
			}
		}
		return found
	}
	before := spaces()
	for _, wanted := range []Feature{Namespaces, NFTables, Bridge, Veth, VXLAN, Seccomp} {
		if err := (localKernel{}).Probe(wanted); err != nil {
			t.Errorf("%s: %v", wanted, err)
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(spaces()) != len(before) {
		if time.Now().After(deadline) {
			t.Fatalf("namespaces before %v, after %v", before, spaces())
		}
		time.Sleep(time.Millisecond)
	}
}
