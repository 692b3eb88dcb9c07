package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"kijabi.dev/test/harness"
)

const (
	labName  = "vm"
	subnet   = "10.98.0.0/24"
	version  = "0.0.0-test"
	unpacked = "/opt/kijabi-" + version

	// guestbookPort is the NodePort of examples/guestbook.
	guestbookPort = 30080
)

// lab is the machines of the test, made by a user of the host, and what they are
// installed from.
type lab struct {
	*harness.Cluster

	archive string
}

func newLab(t *harness.T) *lab {
	t.Helper()
	l := &lab{Cluster: harness.NewCluster(t, labName, subnet)}
	l.Limit = 10 * time.Minute
	return l
}

func (l *lab) masters() []string { return []string{"master-1", "master-2", "master-3"} }

func (l *lab) names() []string { return append(l.masters(), "node-1", "node-2") }

func (l *lab) address(machine string) string {
	return map[string]string{
		"master-1": "10.98.0.11", "master-2": "10.98.0.12", "master-3": "10.98.0.13",
		"node-1": "10.98.0.21", "node-2": "10.98.0.22",
	}[machine]
}

// rootOf is the root directory of a machine as the host sees it.
func (l *lab) rootOf(machine string) string { return filepath.Join(l.MachineDir(machine), "root") }

// host runs a program of the host, which must succeed.
func (l *lab) host(t *harness.T, argv ...string) harness.Outcome {
	t.Helper()
	return l.Must(t, harness.Invocation{Argv: argv})
}

// inside is a program of a machine, which only sees what was unpacked there.
func (l *lab) inside(machine string, argv ...string) harness.Invocation {
	enter := []string{filepath.Join(l.Bin, "kijabi"), "machine", "shell", "--name", labName, machine, "--"}
	return harness.Invocation{Env: []string{"HOME=/root"}, Argv: append(enter, argv...)}
}

// in runs a program of a machine, which must succeed.
func (l *lab) in(t *harness.T, machine string, argv ...string) harness.Outcome {
	t.Helper()
	return l.Must(t, l.inside(machine, argv...))
}

// makeArchive packs the programs that were built, as `make bundle` does.
func (l *lab) makeArchive(t *harness.T) {
	t.Helper()
	tool, out := filepath.Join(t.TempDir(), "bundletool"), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", tool, "./bundletool")
	build.Dir = filepath.Join(l.Root, "tools")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build bundletool: %v: %s", err, text)
	}
	// Where Go keeps modules may depend on $HOME, which is the test's own here.
	cache, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOMODCACHE", strings.TrimSpace(string(cache)))
	made := l.host(t, tool, "make", "--version", version,
		"--bin", l.Bin, "--license", filepath.Join(l.Root, "LICENSE"), "-o", out)
	t.Logf("archive made in %s: %s", rounded(made.Took), made.Stdout)
	l.archive = filepath.Join(out, "kijabi-"+version+"-linux-"+runtime.GOARCH+".tar.gz")
}

// verifyArchive checks it in both ways that the README names.
func (l *lab) verifyArchive(t *harness.T) {
	t.Helper()
	key := filepath.Join(filepath.Dir(l.archive), "kijabi.pub")
	verified := l.host(t, filepath.Join(l.Bin, "kijabi"), "bundle", "verify", l.archive, "--key", key)
	t.Logf("bundle verify in %s: %s", rounded(verified.Took), verified.Stdout)
	l.host(t, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin",
		"-in", l.archive, "-sigfile", l.archive+".sig")
}

// unpack brings the archive to every machine: unpacked once, and the same files linked
// into the others, for five copies would say no more and take their time and space.
func (l *lab) unpack(t *harness.T) {
	t.Helper()
	first := l.rootOf("master-1")
	result := l.host(t, "tar", "-C", filepath.Join(first, "opt"), "-xf", l.archive)
	t.Logf("archive unpacked in %s", rounded(result.Took))
	for _, machine := range l.names() {
		root := l.rootOf(machine)
		if machine != "master-1" {
			l.host(t, "cp", "-al", first+unpacked, root+"/opt/")
		}
		if err := os.Symlink(unpacked+"/bin/kijabi", filepath.Join(root, "usr", "local", "bin", "kijabi")); err != nil {
			t.Fatal(err)
		}
	}
}

// status asks a master. An error is that no master leads.
func (l *lab) status(t *harness.T, machine string) (harness.Status, error) {
	t.Helper()
	return harness.ReadStatus(l.Run(t, l.inside(machine, "kijabi", "status", "-o", "json")))
}

// awaitHealthy waits until a master finds all five machines well.
func (l *lab) awaitHealthy(t *harness.T, machine string, limit time.Duration) {
	t.Helper()
	harness.Eventually(t, limit, "3 voters, 5 Ready nodes, all programs healthy", func() error {
		s, err := l.status(t, machine)
		if err != nil {
			return err
		}
		return s.Healthy(3, 5)
	})
}

// guestbookAnswers asks for its page at the node port of machines.
func (l *lab) guestbookAnswers(t *harness.T, machines ...string) {
	t.Helper()
	for _, machine := range machines {
		url := fmt.Sprintf("http://%s:%d/", l.address(machine), guestbookPort)
		harness.Eventually(t, 20*time.Second, "guestbook at "+url, func() error {
			page, err := harness.Fetch(t.Context(), url)
			if err == nil && !strings.Contains(page, "The Kijabi guestbook") {
				err = fmt.Errorf("its page is %s", page)
			}
			return err
		})
	}
}
