package e2e

import (
	"slices"
	"strings"

	"kijabi.dev/test/harness"
)

var (
	nodePrograms   = []string{"containerd", "dns", "kube-proxy", "kubelet", "network-agent"}
	masterPrograms = []string{"apiserver", "cloud-controller-manager", "cloud-provider-local", "controller-manager", "scheduler"}
)

// up starts the cluster; without it there is nothing to test.
func (c *cluster) up(t *harness.T) {
	t.Helper()
	result := c.Up(t, 3, 2, "--vip", virtual)
	if !strings.Contains(result.Stdout, c.Kubeconfig()) || !strings.Contains(result.Stdout, "kijabi kubectl get nodes") {
		t.Errorf("up does not print the kubeconfig and next steps: %s", result.Stdout)
	}
}

func testUp(t *harness.T, c *cluster) {
	s, err := c.Status(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(3, 5); err != nil {
		t.Errorf("up has ended, but: %v", err)
	}
	machines := c.Machines(t)
	running := processesOf(t)
	for name, m := range machines {
		want := slices.Clone(nodePrograms)
		if m.Role == "master" {
			want = append(want, masterPrograms...)
		}
		for _, program := range append(slices.Clone(nodePrograms), masterPrograms...) {
			count := 0
			for _, p := range running[name] {
				if p.program == program {
					count++
				}
			}
			switch wanted := slices.Contains(want, program); {
			case wanted && count != 1:
				t.Errorf("machine %s has %d processes of %s, want 1", name, count, program)
			case !wanted && count != 0:
				t.Errorf("machine %s has %d processes of %s, want none", name, count, program)
			}
		}
	}
	nodes := c.Kubectl(t, "get", "nodes")
	for line := range strings.Lines(nodes) {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			t.Fatalf("get nodes: %s", nodes)
		}
		if fields[0] == "NAME" {
			continue
		}
		wantRole := "<none>"
		if strings.HasPrefix(fields[0], "master-") {
			wantRole = "control-plane"
		}
		if fields[1] != "Ready" || fields[2] != wantRole || !strings.HasPrefix(fields[4], "v1.") {
			t.Errorf("want Ready, role %s and a version v1.…: %s", wantRole, line)
		}
	}
}
