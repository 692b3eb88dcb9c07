package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	labName   = "vm"
	subnet    = "10.98.0.0/24"
	stateRoot = "/var/lib/kijabi-up"
	version   = "0.0.0-test"
	unpacked  = "/opt/kijabi-" + version

	// guestbookPort is the NodePort of examples/guestbook.
	guestbookPort = 30080
)

// lab is the machines of the test and what they are installed from.
type lab struct {
	bin     string // directory of the programs that were built
	root    string // of the repository
	home    string // of whoever makes archive and machines
	archive string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes machines out of namespaces and needs root: run `make test-e2e`, or `sudo -E go test`")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{bin: os.Getenv("KIJABI_BIN"), root: root, home: t.TempDir()}
	if l.bin == "" {
		l.bin = filepath.Join(root, "bin")
	}
	if _, err := os.Stat(filepath.Join(l.bin, "kijabi")); err != nil {
		t.Fatalf("programs: %v: run `make build` first, or set KIJABI_BIN", err)
	}
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
func (l *lab) rootOf(machine string) string {
	return filepath.Join(stateRoot, labName, "machines", machine, "root")
}

// outcome is how a command ended.
type outcome struct {
	command        string
	stdout, stderr string
	code           int
	took           time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%s: exit code %d after %s\nstdout: %s\nstderr: %s", o.command, o.code, rounded(o.took), o.stdout, o.stderr)
}

// run runs a program of the host to its end.
func (l *lab) run(t *testing.T, dir, home, input string, argv ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Dir, command.Stdin, command.WaitDelay = dir, strings.NewReader(input), time.Second
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains([]string{"HOME", "KUBECONFIG", "KIJABI_STATE", "KIJABI_ACCESS", "SUDO_UID", "SUDO_GID"}, name) {
			command.Env = append(command.Env, entry)
		}
	}
	command.Env = append(command.Env, "HOME="+home)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	started := time.Now()
	err := command.Run()
	result := outcome{
		command: strings.Join(argv, " "), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(started),
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("does not end: %s", result)
	case errors.As(err, &exit):
		result.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", result.command, err)
	}
	return result
}

func (l *lab) succeed(t *testing.T, result outcome) outcome {
	t.Helper()
	if result.code != 0 {
		t.Fatal(result)
	}
	return result
}

// kijabi runs the host's kijabi, which makes machines; it must succeed.
func (l *lab) kijabi(t *testing.T, args ...string) outcome {
	t.Helper()
	return l.succeed(t, l.run(t, l.root, l.home, "", append([]string{filepath.Join(l.bin, "kijabi")}, args...)...))
}

// try runs a program of a machine, which only sees what was unpacked there.
func (l *lab) try(t *testing.T, machine, input string, argv ...string) outcome {
	t.Helper()
	enter := []string{filepath.Join(l.bin, "kijabi"), "machine", "shell", "--name", labName, machine, "--"}
	return l.run(t, l.root, "/root", input, append(enter, argv...)...)
}

// in is try for what must succeed.
func (l *lab) in(t *testing.T, machine string, argv ...string) outcome {
	t.Helper()
	return l.succeed(t, l.try(t, machine, "", argv...))
}

// makeArchive packs the programs that were built, as `make bundle` does.
func (l *lab) makeArchive(t *testing.T) {
	t.Helper()
	tool, out := filepath.Join(t.TempDir(), "bundletool"), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", tool, "./bundletool")
	build.Dir = filepath.Join(l.root, "tools")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build bundletool: %v: %s", err, text)
	}
	// Where Go keeps modules may depend on $HOME, which is the test's own here.
	cache, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOMODCACHE", strings.TrimSpace(string(cache)))
	made := l.succeed(t, l.run(t, l.root, l.home, "", tool, "make", "--version", version,
		"--bin", l.bin, "--license", filepath.Join(l.root, "LICENSE"), "-o", out))
	t.Logf("archive made in %s: %s", rounded(made.took), made.stdout)
	l.archive = filepath.Join(out, "kijabi-"+version+"-linux-"+runtime.GOARCH+".tar.gz")
}

// verifyArchive checks it in both ways that the README names.
func (l *lab) verifyArchive(t *testing.T) {
	t.Helper()
	key := filepath.Join(filepath.Dir(l.archive), "kijabi.pub")
	verified := l.kijabi(t, "bundle", "verify", l.archive, "--key", key)
	t.Logf("bundle verify in %s: %s", rounded(verified.took), verified.stdout)
	l.succeed(t, l.run(t, l.root, l.home, "", "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin",
		"-in", l.archive, "-sigfile", l.archive+".sig"))
}

// unpack brings the archive to every machine: unpacked once, and the same files linked
// into the others, for five copies would say no more and take their time and space.
func (l *lab) unpack(t *testing.T) {
	t.Helper()
	first := l.rootOf("master-1")
	result := l.succeed(t, l.run(t, l.root, l.home, "", "tar", "-C", filepath.Join(first, "opt"), "-xf", l.archive))
	t.Logf("archive unpacked in %s", rounded(result.took))
	for _, machine := range l.names() {
		root := l.rootOf(machine)
		if machine != "master-1" {
			l.succeed(t, l.run(t, l.root, l.home, "", "cp", "-al", first+unpacked, root+"/opt/"))
		}
		if err := os.Symlink(unpacked+"/bin/kijabi", filepath.Join(root, "usr", "local", "bin", "kijabi")); err != nil {
			t.Fatal(err)
		}
	}
}

// status is what `kijabi status -o json` prints, as far as the test looks at it.
type status struct {
	Leader string   `json:"leader"`
	Epoch  uint64   `json:"epoch"`
	Voters []string `json:"voters"`
	Nodes  []struct {
		Name   string `json:"name"`
		Ready  bool   `json:"ready"`
		Reason string `json:"reason"`
	} `json:"nodes"`
	Components []struct {
		Machine   string `json:"machine"`
		Component string `json:"component"`
		Healthy   bool   `json:"healthy"`
		Reason    string `json:"reason"`
	} `json:"components"`
}

// status asks a master. An error is that no master leads.
func (l *lab) status(t *testing.T, machine string) (status, error) {
	t.Helper()
	result := l.try(t, machine, "", "kijabi", "status", "-o", "json")
	var s status
	if err := json.Unmarshal([]byte(result.stdout), &s); err != nil {
		return s, fmt.Errorf("%w in %s", err, result)
	}
	if result.code != 0 || s.Leader == "" {
		return s, fmt.Errorf("exit code %d, leader %q: %s", result.code, s.Leader, result.stderr)
	}
	return s, nil
}

// awaitHealthy waits until a master finds all five machines well.
func (l *lab) awaitHealthy(t *testing.T, machine string, limit time.Duration) {
	t.Helper()
	eventually(t, limit, "3 voters, 5 Ready nodes, all programs healthy", func() error {
		s, err := l.status(t, machine)
		if err != nil {
			return err
		}
		var sick []string
		for _, node := range s.Nodes {
			if !node.Ready {
				sick = append(sick, node.Name+": "+node.Reason)
			}
		}
		for _, c := range s.Components {
			if !c.Healthy {
				sick = append(sick, c.Component+" on "+c.Machine+": "+c.Reason)
			}
		}
		if len(s.Voters) != 3 || len(s.Nodes) != 5 || len(sick) > 0 {
			return fmt.Errorf("voters %v, %d nodes, not well: %s", s.Voters, len(s.Nodes), strings.Join(sick, "; "))
		}
		return nil
	})
}

// guestbookAnswers asks for its page at the node port of machines.
func (l *lab) guestbookAnswers(t *testing.T, machines ...string) {
	t.Helper()
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, machine := range machines {
		url := fmt.Sprintf("http://%s:%d/", l.address(machine), guestbookPort)
		eventually(t, 20*time.Second, "guestbook at "+url, func() error {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			page, err := io.ReadAll(response.Body)
			if err != nil {
				return err
			}
			if response.StatusCode != http.StatusOK || !strings.Contains(string(page), "The Kijabi guestbook") {
				return fmt.Errorf("%s: %s", response.Status, page)
			}
			return nil
		})
	}
}

// keepLogs prints the ends of all logs when the test fails.
func (l *lab) keepLogs(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(stateRoot, labName, "machines", "*", "root", "var", "log", "kijabi", "*.log"))
		for _, path := range logs {
			content, _ := os.ReadFile(path)
			lines := strings.Split(strings.TrimSpace(string(content)), "\n")
			t.Logf("%s\n%s", path, strings.Join(lines[max(0, len(lines)-8):], "\n"))
		}
	})
}

// eventually waits for a condition: check returns nil once it holds.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-retry.C:
		}
	}
}
