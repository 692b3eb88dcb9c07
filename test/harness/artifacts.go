package harness

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// KeepArtifacts saves the state of the cluster, and the ends of its logs, when the test
// fails, before the next one changes it, and shows the most telling part of it.
func (c *Cluster) KeepArtifacts(t testing.TB) {
	t.Helper()
	c.keep(t, func(dir string) {
		for name, args := range map[string][]string{
			"status.txt":     {"status", "--cluster", c.Name},
			"machines.txt":   {"machine", "list", "--name", c.Name},
			"nodes.yaml":     {"kubectl", "--request-timeout=10s", "get", "nodes", "-o", "yaml"},
			"pods.txt":       {"kubectl", "--request-timeout=10s", "get", "pods", "-A", "-o", "wide"},
			"pods.yaml":      {"kubectl", "--request-timeout=10s", "get", "pods", "-A", "-o", "yaml"},
			"events.txt":     {"kubectl", "--request-timeout=10s", "get", "events", "-A"},
			"workloads.txt":  {"kubectl", "--request-timeout=10s", "get", "deployments,replicasets,services,endpointslices", "-A", "-o", "wide"},
			"workloads.yaml": {"kubectl", "--request-timeout=10s", "get", "deployments,replicasets", "-A", "-o", "yaml"},
		} {
			result := c.Try(t, args...)
			content := result.Stdout + result.Stderr
			save(t, filepath.Join(dir, name), content)
			switch name {
			case "status.txt", "pods.txt":
				t.Logf("%s:\n%s", name, Tail(content, 30))
			case "events.txt":
				t.Logf("%s, the warnings:\n%s", name, Tail(warnings(content), 15))
			}
		}
	})
}

// KeepLogs saves the ends of the logs only: of machines whose cluster the user has no
// access to.
func (c *Cluster) KeepLogs(t testing.TB) {
	t.Helper()
	c.keep(t, func(string) {})
}

func (c *Cluster) keep(t testing.TB, more func(dir string)) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		dir := filepath.Join(c.Root, "test", "artifacts", strings.ReplaceAll(t.Name(), "/", "-"))
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Log(err)
			return
		}
		more(dir)
		c.saveLogs(t, dir)
		t.Logf("state and logs are in %s", dir)
	})
}

func (c *Cluster) saveLogs(t testing.TB, dir string) {
	t.Helper()
	const most = 200 << 10
	for _, logs := range []string{"log", "root/var/log/kijabi"} { // the latter in a root directory of its own
		paths, err := filepath.Glob(filepath.Join(c.MachineDir("*"), logs, "*"))
		if err != nil {
			t.Log(err)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				continue // a directory
			}
			machine, _, _ := strings.Cut(strings.TrimPrefix(path, c.MachineDir("")+"/"), "/")
			save(t, filepath.Join(dir, machine+"-"+filepath.Base(path)), string(content[max(0, len(content)-most):]))
		}
	}
}

func save(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Log(err)
	}
}

func warnings(events string) string {
	var kept []string
	for line := range strings.Lines(events) {
		if strings.Contains(line, " Warning ") {
			kept = append(kept, strings.TrimRight(line, "\n"))
		}
	}
	return strings.Join(kept, "\n")
}
