package clients

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"kijabi.dev/test/harness"
)

const (
	// subnet is not in the ranges of services and pods.
	subnet = "10.99.0.0/24"
	// options give pods a range that has room for a thousand nodes.
	options = `
apiVersion: kijabi.dev/v1
kind: MemberOptions
network: {podCIDR: 10.104.0.0/13}
`
	toolbox = "registry.kijabi.dev/toolbox:1"
)

// clients is the cluster and the programs that work against it.
type clients struct {
	*harness.Cluster

	programs string // directory
}

// TestClients has one client after the other work on one cluster.
func TestClients(t *testing.T) {
	c := &clients{Cluster: harness.New(t, "clients", subnet, "../..")}
	c.programs = filepath.Join(c.Bin, "test-clients")
	file := filepath.Join(t.TempDir(), "options.yaml")
	if err := os.WriteFile(file, []byte(options), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Up(t, 3, 2, "--options", file)
	for _, step := range []struct {
		name  string
		quick bool
		run   func(*testing.T, *clients)
	}{
		{"Kubectl", true, func(t *testing.T, c *clients) { testKubectl(t, c, c.program(t, "kubectl")) }},
		{"KubectlPrevious", false, func(t *testing.T, c *clients) { testKubectl(t, c, c.program(t, "kubectl-previous")) }},
		{"KubectlDebian", false, func(t *testing.T, c *clients) { testKubectl(t, c, c.debianKubectl(t)) }},
		{"Helm3", false, func(t *testing.T, c *clients) { testHelm(t, c, "helm3") }},
		{"Helm4", true, func(t *testing.T, c *clients) { testHelm(t, c, "helm4") }},
		{"HelmMoves", false, testHelmMoves},
		{"CoreDNS", false, testCoreDNS},
		{"Prometheus", false, testPrometheus},
		{"ClientGo", true, testClientGo},
		{"Kwok", false, testKwok},
	} {
		if testing.Short() && !step.quick {
			continue
		}
		t.Run(step.name, func(t *testing.T) {
			c.KeepArtifacts(t, map[string][]string{
				"status.txt": {"status"},
				"nodes.yaml": {"kubectl", "--request-timeout=10s", "get", "nodes", "-o", "yaml"},
				"pods.yaml":  {"kubectl", "--request-timeout=10s", "get", "pods", "-A", "-o", "yaml"},
				"events.txt": {"kubectl", "--request-timeout=10s", "get", "events", "-A"},
				"other.txt":  {"kubectl", "--request-timeout=10s", "get", "deployments,replicasets,services,endpointslices", "-A", "-o", "wide"},
			})
			started := time.Now()
			step.run(t, c)
			t.Logf("%s took %s", step.name, time.Since(started).Round(100*time.Millisecond))
		})
	}
}

// program is a client that `make test-clients` has built.
func (c *clients) program(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(c.programs, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make test-clients`, or `sh test/clients/programs/build.sh %s %s`", err, c.programs, name)
	}
	return path
}

// restConfig reaches the cluster as its first user, without limits of the client's own.
func (c *clients) restConfig(t *testing.T) *rest.Config {
	t.Helper()
	// The credential plugin that the file names finds the user by this.
	t.Setenv("HOME", c.Home)
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.Burst = -1, -1
	return cfg
}

// namespace makes a namespace and removes it after the test, unless that failed.
func (c *clients) namespace(t *testing.T, name string, labels ...string) string {
	t.Helper()
	c.Kijabi(t, "kubectl", "create", "namespace", name)
	if len(labels) > 0 {
		c.Kijabi(t, append([]string{"kubectl", "label", "namespace", name}, labels...)...)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			c.Kijabi(t, "kubectl", "delete", "namespace", name, "--timeout=50s")
		}
	})
	return name
}
