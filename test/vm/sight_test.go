package vm

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kijabi.dev/test/harness"
)

// sight is everything that can be seen of a machine: each entry names one thing.
type sight map[string]bool

// without lists what a sight has that the other has not.
func (s sight) without(other sight) []string {
	var more []string
	for _, thing := range slices.Sorted(maps.Keys(s)) {
		if !other[thing] {
			more = append(more, thing)
		}
	}
	return more
}

// lookAt lists files, mounts, network interfaces, routes, packet filter tables, cgroups
// and processes of a machine. Logs may outlive what has written them.
func (l *lab) lookAt(t *harness.T, machine string) sight {
	t.Helper()
	seen := sight{}
	pid := l.pid(t, machine)
	inside := fmt.Sprintf("/proc/%d/root", pid)
	for _, dir := range []string{"/etc", "/opt", "/root", "/run", "/tmp", "/usr", "/var", "/dev"} {
		seen.addFiles(t, inside, dir)
	}
	seen.addDirectories(t, inside, "/sys/fs/cgroup")
	for _, line := range lines(t, fmt.Sprintf("/proc/%d/mountinfo", pid)) {
		seen["mount "+strings.Fields(line)[4]] = true
	}
	for _, line := range lines(t, fmt.Sprintf("/proc/%d/net/dev", pid))[2:] {
		name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		seen["link "+name] = true
	}
	for _, line := range lines(t, fmt.Sprintf("/proc/%d/net/route", pid))[1:] {
		seen["route "+strings.Join(strings.Fields(line)[:3], " ")] = true
	}
	for _, table := range tables(t, pid) {
		seen["table "+table] = true
	}
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		// A process that has ended meanwhile has no namespace.
		if own, err := os.Readlink(dir + "/ns/pid"); err == nil && own == space {
			program, _ := os.Readlink(dir + "/exe")
			seen["process "+filepath.Base(program)] = true
		}
	}
	return seen
}

func (s sight) addFiles(t *harness.T, inside, dir string) {
	t.Helper()
	err := filepath.WalkDir(inside+dir, func(path string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		path = strings.TrimPrefix(path, inside)
		if entry.IsDir() && (path == "/var/log/kijabi" || path == "/opt/kijabi-"+version+"/bin" || path == "/dev/pts") {
			return filepath.SkipDir
		}
		s["file "+path] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// addDirectories adds the directories of a file system in which files come and go with
// them.
func (s sight) addDirectories(t *harness.T, inside, dir string) {
	t.Helper()
	err := filepath.WalkDir(inside+dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			s["directory "+strings.TrimPrefix(path, inside)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func lines(t *harness.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(content)), "\n")
}

// pid is the host's number of a machine's process 1.
func (l *lab) pid(t *harness.T, machine string) int {
	t.Helper()
	m, ok := l.Machines(t)[machine]
	if !ok {
		t.Fatalf("no machine %s", machine)
	}
	return m.PID
}

// tables lists the packet filter tables in the network namespace of a process, by the
// host's nft.
func tables(t *harness.T, pid int) []string {
	t.Helper()
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = space.Close() }()
	type result struct {
		out []byte
		err error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
			results <- result{err: err}
			return
		}
		out, err := exec.CommandContext(t.Context(), "nft", "list", "tables").CombinedOutput()
		results <- result{out, err}
	}()
	r := <-results
	if r.err != nil {
		t.Fatalf("nft list tables: %v: %s", r.err, r.out)
	}
	return strings.Split(strings.TrimSpace(string(r.out)), "\n")
}
