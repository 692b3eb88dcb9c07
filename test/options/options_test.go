package options

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kijabi.dev/test/harness"
)

const (
	subnet = "10.97.0.0/24"

	options = `
apiVersion: kijabi.dev/v1
kind: MemberOptions
network:
  podCIDR: 10.32.0.0/16
  serviceCIDR: 10.33.0.0/20
  dnsAddress: 10.33.0.53
  clusterDomain: prod.example
  nodePortFirst: 31000
  nodePortLast: 31499
etcd: {quotaBytes: 536870912}
node:
  labels: {disk: ssd}
  schedulable: true
dns: {upstream: ["127.0.0.1:5353"]}
`
	manifests = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeSelector: {disk: ssd}
  containers:
  - name: echo
    image: registry.kijabi.dev/toolbox:1
    args: [tcp-echo, ":8080"]
---
apiVersion: v1
kind: Pod
metadata: {name: resolver}
spec:
  restartPolicy: Never
  containers:
  - {name: short, image: "registry.kijabi.dev/toolbox:1", args: [nslookup, kubernetes.default]}
  - {name: whole, image: "registry.kijabi.dev/toolbox:1", args: [nslookup, web.default.svc.prod.example]}
`
)

// await waits until kijabi prints what it should.
func await(t testing.TB, c *harness.Cluster, what string, right func(out string) bool, args ...string) {
	t.Helper()
	harness.Eventually(t, time.Minute, what, func() error {
		result := c.Try(t, args...)
		if out := strings.TrimSpace(result.Stdout); result.Code != 0 || !right(out) {
			return fmt.Errorf("it is %q, %s", out, result)
		}
		return nil
	})
}

func TestOtherRanges(tt *testing.T) {
	t := harness.Begin(tt)
	c := harness.NewCluster(t, "opt", subnet)
	file := filepath.Join(t.TempDir(), "options.yaml")
	if err := os.WriteFile(file, []byte(options), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Up(t, 1, 1, "--bin", c.Bin, "--options", file)
	c.KeepArtifacts(t)

	get := func(kind, path string) string {
		t.Helper()
		return strings.TrimSpace(c.Kubectl(t, "get", kind, "-o", "jsonpath="+path))
	}
	for _, prefix := range strings.Fields(get("nodes", "{.items[*].spec.podCIDR}")) {
		if !strings.HasPrefix(prefix, "10.32.") {
			t.Errorf("a node has pod range %s", prefix)
		}
	}
	if address := get("service/kubernetes", "{.spec.clusterIP}"); address != "10.33.0.1" {
		t.Errorf("the API's service is at %s", address)
	}
	if taints := get("nodes", "{.items[*].spec.taints}"); taints != "" {
		t.Errorf("taints although the master is schedulable: %s", taints)
	}
	c.Apply(t, manifests)
	await(t, c, "the pod's address", func(out string) bool { return strings.HasPrefix(out, "10.32.") },
		"kubectl", "get", "pod/web", "-o", "jsonpath={.status.podIP}")
	await(t, c, "the resolver's end", func(out string) bool { return out == "Succeeded" },
		"kubectl", "get", "pod/resolver", "-o", "jsonpath={.status.phase}")
	for container, want := range map[string]string{"short": "10.33.0.1", "whole": get("service/web", "{.spec.clusterIP}")} {
		if out := c.Kubectl(t, "logs", "resolver", "-c", container); !strings.Contains(out, want) {
			t.Errorf("%s name resolves to %s, want %s", container, out, want)
		}
	}
	port := get("service/web", "{.spec.ports[0].nodePort}")
	if port < "31000" || port > "31499" {
		t.Errorf("node port %s", port)
	}
	config := c.Kijabi(t, "machine", "shell", "--name", c.Name, "master-1", "--", "cat", "/etc/kijabi/apiserver.yaml", "/etc/kijabi/dns.yaml")
	harness.Contains(t, "configuration", config, "quotaBytes: 536870912", "- 127.0.0.1:5353")
}
