package options

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	clusterName = "opt"
	subnet      = "10.97.0.0/24"

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

// user runs kijabi as somebody with a home of their own.
type user struct {
	t       *testing.T
	program string
	home    string
}

func newUser(t *testing.T) *user {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes machines out of namespaces and needs root: run `make test-e2e`, or `sudo -E go test`")
	}
	bin := os.Getenv("KIJABI_BIN")
	if bin == "" {
		bin = "../../bin"
	}
	program, err := filepath.Abs(filepath.Join(bin, "kijabi"))
	if err != nil {
		t.Fatal(err)
	}
	return &user{t, program, t.TempDir()}
}

// try runs kijabi and returns what it prints.
func (u *user) try(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, u.program, args...)
	command.Env = append(slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "HOME=") || strings.HasPrefix(entry, "KUBECONFIG=") || strings.HasPrefix(entry, "SUDO_")
	}), "HOME="+u.home)
	command.Stdin = strings.NewReader(input)
	out, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kijabi %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// kijabi runs kijabi, which must succeed.
func (u *user) kijabi(args ...string) string {
	u.t.Helper()
	out, err := u.try("", args...)
	if err != nil {
		u.t.Fatal(err)
	}
	return out
}

// await waits until kijabi prints what it should.
func (u *user) await(what string, right func(out string) bool, args ...string) {
	u.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		out, err := u.try("", args...)
		if err == nil && right(out) {
			return
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("%s: after a minute it is %q, %v", what, out, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestOtherRanges(t *testing.T) {
	u := newUser(t)
	file := filepath.Join(t.TempDir(), "options.yaml")
	if err := os.WriteFile(file, []byte(options), 0o600); err != nil {
		t.Fatal(err)
	}
	down := func() {
		if _, err := u.try("", "down", "--name", clusterName); err != nil {
			t.Error(err)
		}
	}
	down() // what an earlier run has left
	t.Cleanup(down)
	u.kijabi("up", "--name", clusterName, "--subnet", subnet, "--masters", "1", "--nodes", "1",
		"--bin", filepath.Dir(u.program), "--options", file)

	get := func(kind, path string) string {
		t.Helper()
		return u.kijabi("kubectl", "get", kind, "-o", "jsonpath="+path)
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
	if _, err := u.try(manifests, "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	u.await("the pod's address", func(out string) bool { return strings.HasPrefix(out, "10.32.") },
		"kubectl", "get", "pod/web", "-o", "jsonpath={.status.podIP}")
	u.await("the resolver's end", func(out string) bool { return out == "Succeeded" },
		"kubectl", "get", "pod/resolver", "-o", "jsonpath={.status.phase}")
	for container, want := range map[string]string{"short": "10.33.0.1", "whole": get("service/web", "{.spec.clusterIP}")} {
		if out := u.kijabi("kubectl", "logs", "resolver", "-c", container); !strings.Contains(out, want) {
			t.Errorf("%s name resolves to %s, want %s", container, out, want)
		}
	}
	port := get("service/web", "{.spec.ports[0].nodePort}")
	if port < "31000" || port > "31499" {
		t.Errorf("node port %s", port)
	}
	config := u.kijabi("machine", "shell", "--name", clusterName, "master-1", "--", "cat", "/etc/kijabi/apiserver.yaml", "/etc/kijabi/dns.yaml")
	for _, line := range []string{"quotaBytes: 536870912", "- 127.0.0.1:5353"} {
		if !strings.Contains(config, line) {
			t.Errorf("configuration lacks %q:\n%s", line, config)
		}
	}
}
