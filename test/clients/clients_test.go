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
func TestClients(tt *testing.T) {
	t := harness.Begin(tt)
	c := &clients{Cluster: harness.NewCluster(t, "clients", subnet)}
	c.programs = filepath.Join(c.Bin, "test-clients")
	file := filepath.Join(t.TempDir(), "options.yaml")
	if err := os.WriteFile(file, []byte(options), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Up(t, 3, 2, "--options", file)
	for _, step := range []struct {
		name  string
		quick bool
		run   func(*harness.T, *clients)
	}{
		{"Kubectl", true, func(t *harness.T, c *clients) { testKubectl(t, c, c.program(t, "kubectl")) }},
		{"KubectlPrevious", false, func(t *harness.T, c *clients) { testKubectl(t, c, c.program(t, "kubectl-previous")) }},
		{"KubectlDebian", false, func(t *harness.T, c *clients) { testKubectl(t, c, c.debianKubectl(t)) }},
		{"Helm3", false, func(t *harness.T, c *clients) { testHelm(t, c, "helm3") }},
		{"Helm4", true, func(t *harness.T, c *clients) { testHelm(t, c, "helm4") }},
		{"HelmMoves", false, testHelmMoves},
		{"CoreDNS", false, testCoreDNS},
		{"Prometheus", false, testPrometheus},
		{"ClientGo", true, testClientGo},
		{"Kwok", false, testKwok},
	} {
		if testing.Short() && !step.quick {
			continue
		}
		t.Run(step.name, func(t *harness.T) {
			c.KeepArtifacts(t)
			started := time.Now()
			step.run(t, c)
			t.Logf("%s took %s", step.name, time.Since(started).Round(100*time.Millisecond))
		})
	}
}

// program is a client that `make test-clients` has built.
func (c *clients) program(t *harness.T, name string) string {
	t.Helper()
	path := filepath.Join(c.programs, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make test-clients`, or `sh test/clients/programs/build.sh %s %s`", err, c.programs, name)
	}
	return path
}

// restConfig reaches the cluster as its first user, without limits of the client's own.
func (c *clients) restConfig(t *harness.T) *rest.Config {
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
func (c *clients) namespace(t *harness.T, name string, labels ...string) string {
	t.Helper()
	c.Kubectl(t, "create", "namespace", name)
	if len(labels) > 0 {
		c.Kijabi(t, append([]string{"kubectl", "label", "namespace", name}, labels...)...)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			c.Kubectl(t, "delete", "namespace", name, "--timeout=50s")
		}
	})
	return name
}
