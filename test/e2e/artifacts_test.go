package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keepArtifacts saves the state of the cluster when a step fails, before the next step
// changes it, and shows the most telling part of it.
func (c *cluster) keepArtifacts(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		dir := filepath.Join(c.root, "test", "artifacts", strings.ReplaceAll(t.Name(), "/", "-"))
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Log(err)
			return
		}
		for name, args := range map[string][]string{
			"status.txt":      {"status", "--cluster", clusterName},
			"machines.txt":    {"machine", "list", "--name", clusterName},
			"nodes.yaml":      {"kubectl", "--request-timeout=5s", "get", "nodes", "-o", "yaml"},
			"pods.txt":        {"kubectl", "--request-timeout=5s", "get", "pods", "-A", "-o", "wide"},
			"pods.yaml":       {"kubectl", "--request-timeout=5s", "get", "pods", "-A", "-o", "yaml"},
			"events.txt":      {"kubectl", "--request-timeout=5s", "get", "events", "-A"},
			"workloads.txt":   {"kubectl", "--request-timeout=5s", "get", "deployments,replicasets,services,endpointslices", "-A", "-o", "wide"},
			"configmaps.yaml": {"kubectl", "--request-timeout=5s", "get", "deployments,replicasets", "-A", "-o", "yaml"},
		} {
			result := c.try(t, args...)
			content := result.stdout + result.stderr
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Log(err)
			}
			switch name {
			case "status.txt", "pods.txt":
				t.Logf("%s:\n%s", name, tail(content, 30))
			case "events.txt":
				t.Logf("%s, the warnings:\n%s", name, tail(warnings(content), 15))
			}
		}
		saveLogs(t, dir)
		t.Logf("state and logs are in %s", dir)
	})
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

// saveLogs copies the end of every unit's log.
func saveLogs(t *testing.T, dir string) {
	t.Helper()
	const most = 200 << 10
	logs, err := filepath.Glob(filepath.Join(stateRoot, clusterName, "machines", "*", "log", "*"))
	if err != nil {
		t.Log(err)
	}
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // a directory
		}
		machine := filepath.Base(filepath.Dir(filepath.Dir(path)))
		content = content[max(0, len(content)-most):]
		name := fmt.Sprintf("%s-%s", machine, filepath.Base(path))
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Log(err)
		}
	}
}
