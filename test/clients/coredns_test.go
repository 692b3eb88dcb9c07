package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kijabi.dev/test/harness"
)

const corefile = `
cluster.local:1053 in-addr.arpa:1053 {
	bind 10.99.0.21
	errors
	kubernetes cluster.local in-addr.arpa {
		kubeconfig /tmp/coredns-kubeconfig
		pods verified
		ttl 0
	}
}
`

const named = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: coredns}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "registry.kijabi.dev/toolbox:1", args: [tcp-echo, ":8080"]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: coredns}
spec: {selector: {app: web}, ports: [{name: echo, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: each, namespace: coredns}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: echo, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: coredns}
spec: {type: ExternalName, externalName: example.org}
`

// testCoreDNS runs CoreDNS on a node, where it reaches the API by the address of its
// service, as one in a pod does.
func testCoreDNS(t *harness.T, c *clients) {
	namespace := c.namespace(t, "coredns")
	c.Apply(t, named)
	c.Kubectl(t, "-n", namespace, "rollout", "status", "deployment/web", "--timeout=60s")
	const node = "node-1"
	shell := []string{filepath.Join(c.Bin, "kijabi"), "machine", "shell", "--name", c.Name, node, "--"}
	for path, content := range map[string]string{
		"/tmp/coredns-kubeconfig": c.account(t, namespace, "coredns", "https://10.96.0.1:443"), "/tmp/coredns-corefile": corefile,
	} {
		if result := c.Run(t, harness.Invocation{Input: content, Argv: append(slices.Clone(shell), "sh", "-c", "cat > "+path)}); result.Code != 0 {
			t.Fatal(result)
		}
	}
	c.Start(t, harness.Invocation{Argv: append(slices.Clone(shell), c.program(t, "coredns"), "-conf", "/tmp/coredns-corefile")})

	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, "10.99.0.21:1053")
	}}
	get := func(object, path string) []string {
		t.Helper()
		return strings.Fields(c.Kubectl(t, "-n", namespace, "get", object, "-o", "jsonpath="+path))
	}
	resolves := func(name string, want ...string) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			got, err := resolver.LookupHost(ctx, name)
			var unknown *net.DNSError
			if errors.As(err, &unknown) && unknown.IsNotFound {
				err = nil
			}
			slices.Sort(got)
			slices.Sort(want)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("it is %v, want %v", got, want)
			}
			return err
		}
	}
	follows := func(what string, pods int) {
		t.Helper()
		harness.Eventually(t, 30*time.Second, what, func() error {
			addresses := get("pods", "{range .items[?(@.status.podIP)]}{.status.podIP} {end}")
			if len(addresses) != pods {
				return fmt.Errorf("there are %d pods: %v", len(addresses), addresses)
			}
			return resolves("each.coredns.svc.cluster.local.", addresses...)()
		})
	}
	harness.Eventually(t, 30*time.Second, "the service of the API", resolves("kubernetes.default.svc.cluster.local.", "10.96.0.1"))
	harness.Eventually(t, 10*time.Second, "a service", resolves("web.coredns.svc.cluster.local.", get("service/web", "{.spec.clusterIP}")...))
	harness.Eventually(t, 10*time.Second, "a name that is not there", resolves("nobody.coredns.svc.cluster.local."))
	follows("the pods of a service without address", 2)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, records, err := resolver.LookupSRV(ctx, "echo", "tcp", "web.coredns.svc.cluster.local."); err != nil || len(records) != 1 || records[0].Port != 80 {
		t.Errorf("SRV: %v, %v", records, err)
	}
	if name, err := resolver.LookupCNAME(ctx, "elsewhere.coredns.svc.cluster.local."); err == nil && name != "example.org." {
		t.Errorf("CNAME: %s", name)
	}
	if names, err := resolver.LookupAddr(ctx, get("service/web", "{.spec.clusterIP}")[0]); err != nil || !slices.Equal(names, []string{"web.coredns.svc.cluster.local."}) {
		t.Errorf("PTR: %v, %v", names, err)
	}
	address := get("pods", "{.items[0].status.podIP}")[0]
	harness.Eventually(t, 10*time.Second, "a pod by its address", resolves(strings.ReplaceAll(address, ".", "-")+".coredns.pod.cluster.local.", address))

	c.Kubectl(t, "-n", namespace, "scale", "deployment/web", "--replicas=4")
	follows("four pods", 4)

	// Whatever master it talks to: two of the three die in turn, and it goes on.
	for range 2 {
		status, err := c.Status(t)
		if err != nil {
			t.Fatal(err)
		}
		c.Power(t, "kill", status.Leader)
		if err := resolves("web.coredns.svc.cluster.local.", get("service/web", "{.spec.clusterIP}")...)(); err != nil {
			t.Errorf("while no master leads: %v", err)
		}
		replicas := 3
		if len(get("pods", "{.items[*].metadata.name}")) == 3 {
			replicas = 2
		}
		c.Kubectl(t, "-n", namespace, "scale", "deployment/web", fmt.Sprintf("--replicas=%d", replicas))
		killed := time.Now()
		harness.Eventually(t, 2*time.Minute, "it follows after the death of "+status.Leader, func() error {
			addresses := get("pods", `{range .items[?(@.status.phase=="Running")]}{.status.podIP} {end}`)
			if len(addresses) != replicas {
				return fmt.Errorf("there are %d pods: %v", len(addresses), addresses)
			}
			return resolves("each.coredns.svc.cluster.local.", addresses...)()
		})
		t.Logf("it followed %s after the death of %s", time.Since(killed).Round(100*time.Millisecond), status.Leader)
		c.Power(t, "start", status.Leader)
		c.AwaitHealthy(t, 90*time.Second)
	}
}
