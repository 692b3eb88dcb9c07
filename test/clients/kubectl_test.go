package clients

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"kijabi.dev/test/harness"
)

// kubectl runs one version of the program in one namespace.
type kubectl struct {
	c         *clients
	path      string
	namespace string
	minor     int // of its version
}

// debianKubectl is the program of the distribution, which is years older.
func (c *clients) debianKubectl(t *harness.T) string {
	t.Helper()
	for _, path := range []string{os.Getenv("KIJABI_DEBIAN_KUBECTL"), filepath.Join(filepath.Dir(c.Bin), ".cache", "debian", "usr", "bin", "kubectl")} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Fatalf("%v: install it with `apt-get install kubernetes-client`", err)
	}
	return path
}

// testKubectl goes through the commands of kubectl.
func testKubectl(t *harness.T, c *clients, path string) {
	k := &kubectl{c: c, path: path}
	k.minor = k.version(t)
	t.Logf("kubectl 1.%d", k.minor)
	// Pods that use the host's programs are not baseline.
	k.namespace = c.namespace(t, fmt.Sprintf("kubectl-%d", k.minor), "pod-security.kubernetes.io/enforce=privileged")
	for _, part := range []struct {
		name string
		run  func(*harness.T, *kubectl)
	}{
		{"Apply", kubectlApply},
		{"Change", kubectlChange},
		{"Workload", kubectlWorkload},
		{"Create", kubectlCreate},
		{"Look", kubectlLook},
		{"Streams", kubectlStreams},
		{"Debug", kubectlDebug},
		{"Watch", kubectlWatch},
		{"Proxy", kubectlProxy},
		{"Access", kubectlAccess},
		{"Config", kubectlConfig},
		{"Nodes", kubectlNodes},
		{"Delete", kubectlDelete},
	} {
		t.Run(part.name, func(t *harness.T) { part.run(t, k) })
	}
}

func (k *kubectl) version(t *harness.T) int {
	t.Helper()
	var v struct{ ClientVersion struct{ GitVersion string } }
	text := k.ok(t, "version", "--client", "-o", "json")
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	parts := strings.Split(v.ClientVersion.GitVersion, ".")
	if len(parts) < 3 {
		t.Fatalf("version %q", v.ClientVersion.GitVersion)
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return minor
}

func (k *kubectl) invocation(args []string) harness.Invocation {
	argv := []string{k.path, "--kubeconfig", k.c.Kubeconfig()}
	if k.namespace != "" {
		argv = append(argv, "--namespace", k.namespace)
	}
	return harness.Invocation{Argv: append(argv, args...)}
}

// try runs kubectl and returns how it ended.
func (k *kubectl) try(t *harness.T, args ...string) harness.Outcome {
	t.Helper()
	return k.c.Run(t, k.invocation(args))
}

// ok runs kubectl, which must succeed, and returns what it prints.
func (k *kubectl) ok(t *harness.T, args ...string) string {
	t.Helper()
	return k.feed(t, "", args...)
}

// feed is ok with an input.
func (k *kubectl) feed(t *harness.T, input string, args ...string) string {
	t.Helper()
	i := k.invocation(args)
	i.Input = input
	result := k.c.Run(t, i)
	if result.Code != 0 {
		t.Fatal(result)
	}
	return result.Stdout
}

// says runs kubectl, which must succeed and print these texts.
func (k *kubectl) says(t *harness.T, line string, texts ...string) {
	t.Helper()
	harness.Contains(t, "kubectl "+line, k.ok(t, strings.Fields(line)...), texts...)
}

// fails runs kubectl, which must not succeed and complain with these texts.
func (k *kubectl) fails(t *harness.T, line string, texts ...string) {
	t.Helper()
	result := k.try(t, strings.Fields(line)...)
	if result.Code == 0 {
		t.Errorf("it should fail: %s", result)
	}
	harness.Contains(t, "kubectl "+line, result.Stderr, texts...)
}

// start runs kubectl beside the test.
func (k *kubectl) start(t *harness.T, args ...string) *harness.Process {
	t.Helper()
	return k.c.Start(t, k.invocation(args))
}

// prints waits until a process has printed a text that matches, and returns its groups.
func prints(t *harness.T, p *harness.Process, pattern string) []string {
	t.Helper()
	expression := regexp.MustCompile(pattern)
	var found []string
	harness.Eventually(t, 30*time.Second, "the program prints "+pattern, func() error {
		if found = expression.FindStringSubmatch(p.Output()); found == nil {
			return fmt.Errorf("it printed %q", p.Output())
		}
		return nil
	})
	return found
}

const settings = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {set: one}}
data: {color: %s}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, labels: {set: one}}
stringData: {password: open-sesame}
`

func kubectlApply(t *harness.T, k *kubectl) {
	red, blue := fmt.Sprintf(settings, "red"), fmt.Sprintf(settings, "blue")
	color := func() string { t.Helper(); return k.ok(t, "get", "configmap/settings", "-o", "jsonpath={.data.color}") }
	dry := k.feed(t, red, "apply", "-f", "-", "--dry-run=server")
	harness.Contains(t, "dry run", dry, "configmap/settings created (server dry run)")
	k.fails(t, "get configmap/settings", "NotFound")
	k.feed(t, red, "apply", "-f", "-", "--dry-run=client")

	harness.Contains(t, "apply", k.feed(t, red, "apply", "-f", "-"), "configmap/settings created", "secret/keys created")
	harness.Contains(t, "apply again", k.feed(t, red, "apply", "-f", "-"), "configmap/settings unchanged", "secret/keys")
	diff := k.invocation([]string{"diff", "-f", "-"})
	diff.Input = blue
	if result := k.c.Run(t, diff); result.Code != 1 || !strings.Contains(result.Stdout, "-  color: red") || !strings.Contains(result.Stdout, "+  color: blue") {
		t.Errorf("diff of a change: %s", result)
	}
	harness.Contains(t, "apply a change", k.feed(t, blue, "apply", "-f", "-"), "configmap/settings configured")
	if got := color(); got != "blue" {
		t.Errorf("color %s", got)
	}
	harness.Contains(t, "last applied", k.ok(t, "apply", "view-last-applied", "configmap/settings"), "color: blue")
	diff.Input = blue
	if result := k.c.Run(t, diff); result.Code != 0 {
		t.Errorf("what was applied differs: %s", result)
	}

	// Server-side: another manager owns the field until it is forced.
	mine := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {a: \"1\"}\n"
	harness.Contains(t, "server-side apply", k.feed(t, mine, "apply", "--server-side", "-f", "-"), "configmap/shared serverside-applied")
	theirs := k.invocation([]string{"apply", "--server-side", "--field-manager=other", "-f", "-"})
	theirs.Input = strings.ReplaceAll(mine, `"1"`, `"2"`)
	if result := k.c.Run(t, theirs); result.Code == 0 || !strings.Contains(result.Stderr, ".data.a") || !strings.Contains(result.Stderr, "conflict") {
		t.Errorf("a conflict: %s", result)
	}
	theirs.Argv = append(theirs.Argv, "--force-conflicts")
	if result := k.c.Run(t, theirs); result.Code != 0 {
		t.Error(result)
	}
	if got := k.ok(t, "get", "configmap/shared", "-o", "jsonpath={.data.a}"); got != "2" {
		t.Errorf("after the forced apply a is %q", got)
	}

	if k.minor >= 26 { // older ones prune by kinds that are no more
		pruned := k.feed(t, strings.Split(blue, "---")[0], "apply", "-f", "-", "--prune", "-l", "set=one",
			"--prune-allowlist=core/v1/Secret", "--prune-allowlist=core/v1/ConfigMap")
		harness.Contains(t, "prune", pruned, "secret/keys pruned", "configmap/settings unchanged")
		k.fails(t, "get secret/keys", "NotFound")
	}
	dir := filepath.Join(t.TempDir(), "kustomize")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"kustomization.yaml": "resources: [settings.yaml]\nnamePrefix: made-\n", "settings.yaml": strings.Split(red, "---")[0],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.says(t, "apply -k "+dir, "configmap/made-settings created")
	k.says(t, "delete -k "+dir, `configmap "made-settings" deleted`)
}

func kubectlChange(t *harness.T, k *kubectl) {
	k.says(t, "create configmap note --from-literal=a=1", "configmap/note created")
	k.fails(t, "create configmap note", `configmaps "note" already exists`)
	get := func(path string) string {
		t.Helper()
		return k.ok(t, "get", "configmap/note", "-o", "jsonpath={"+path+"}")
	}
	k.says(t, "label configmap/note tier=front", "labeled")
	k.fails(t, "label configmap/note tier=back", "--overwrite")
	k.says(t, "label configmap/note tier=back --overwrite", "labeled")
	k.says(t, "annotate configmap/note why=test", "annotated")
	if got := get(".metadata.labels.tier") + get(".metadata.annotations.why"); got != "backtest" {
		t.Errorf("label and annotation: %s", got)
	}
	k.says(t, "label configmap/note tier-", "note")
	k.says(t, `patch configmap/note -p {"data":{"b":"2"}}`, "patched")
	k.says(t, `patch configmap/note --type=merge -p {"data":{"c":"3","a":null}}`, "patched")
	k.says(t, `patch configmap/note --type=json -p [{"op":"replace","path":"/data/b","value":"22"}]`, "patched")
	if got := get(".data"); got != `{"b":"22","c":"3"}` && got != "map[b:22 c:3]" {
		t.Errorf("after three patches: %s", got)
	}
	k.fails(t, `patch configmap/note --type=json -p [{"op":"test","path":"/data/b","value":"0"}]`, "")

	text := k.ok(t, "get", "configmap/note", "-o", "yaml")
	harness.Contains(t, "replace", k.feed(t, strings.Replace(text, `c: "3"`, `c: "4"`, 1), "replace", "-f", "-"), "configmap/note replaced")
	stale := k.invocation([]string{"replace", "-f", "-"})
	stale.Input = strings.Replace(text, `c: "3"`, `c: "5"`, 1)
	if result := k.c.Run(t, stale); result.Code == 0 || !strings.Contains(result.Stderr, "the object has been modified") {
		t.Errorf("a replacement of what has changed meanwhile: %s", result)
	}
	k.feed(t, strings.Replace(text, `c: "3"`, `c: "6"`, 1), "replace", "--force", "-f", "-")
	if got := get(".data.c"); got != "6" {
		t.Errorf("after replace --force c is %s", got)
	}

	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/c: \"6\"/c: \"7\"/' \"$1\"\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	edit := k.invocation([]string{"edit", "configmap/note"})
	edit.Env = []string{"KUBE_EDITOR=" + editor}
	if result := k.c.Run(t, edit); result.Code != 0 || !strings.Contains(result.Stdout, "configmap/note edited") || get(".data.c") != "7" {
		t.Errorf("edit: %s", result)
	}
	k.says(t, "delete configmap/note", "deleted")
}

func kubectlWorkload(t *harness.T, k *kubectl) {
	k.ok(t, "create", "deployment", "web", "--image="+toolbox, "--replicas=2", "--", "/toolbox", "tcp-echo", ":8080")
	k.says(t, "rollout status deployment/web --timeout=60s", "successfully rolled out")
	k.says(t, "wait --for=condition=Available deployment/web --timeout=30s", "condition met")
	k.says(t, "scale deployment/web --replicas=3 --current-replicas=2", "scaled")
	k.fails(t, "scale deployment/web --replicas=1 --current-replicas=2", "2")
	k.ok(t, "rollout", "status", "deployment/web", "--timeout=60s")
	if k.minor >= 23 {
		k.says(t, "wait --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=30s", "condition met")
	}
	k.says(t, "set env deployment/web COLOR=blue", "env updated")
	k.says(t, "annotate deployment/web kubernetes.io/change-cause=blue", "annotated")
	k.ok(t, "rollout", "status", "deployment/web", "--timeout=60s")
	k.says(t, "rollout history deployment/web", "REVISION", "CHANGE-CAUSE", "blue", "2")
	k.says(t, "rollout history deployment/web --revision=2", "COLOR:", "blue")
	k.says(t, "rollout undo deployment/web", "rolled back")
	k.ok(t, "rollout", "status", "deployment/web", "--timeout=60s")
	if got := k.ok(t, "get", "deployment/web", "-o", "jsonpath={.spec.template.spec.containers[0].env}"); got != "" {
		t.Errorf("environment after the undo: %s", got)
	}
	before := k.ok(t, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.uid}")
	k.says(t, "rollout restart deployment/web", "restarted")
	k.ok(t, "rollout", "status", "deployment/web", "--timeout=60s")
	for uid := range strings.FieldsSeq(k.ok(t, "get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "-o",
		`jsonpath={range .items[?(@.metadata.deletionTimestamp=="")]}{.metadata.uid} {end}`)) {
		if strings.Contains(before, uid) {
			t.Errorf("pod %s is of before the restart", uid)
		}
	}
	k.says(t, "rollout pause deployment/web", "paused")
	k.says(t, "rollout resume deployment/web", "resumed")
	k.says(t, "set image deployment/web toolbox="+toolbox, "")
	k.says(t, "set resources deployment/web --limits=memory=64Mi", "resource requirements updated")
	k.says(t, "expose deployment/web --port=80 --target-port=8080", "service/web exposed")
	harness.Eventually(t, 30*time.Second, "the service has endpoints", func() error {
		if got := k.ok(t, "get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "jsonpath={.items[*].endpoints[*].addresses[0]}"); len(strings.Fields(got)) == 0 {
			return fmt.Errorf("none: %q", got)
		}
		return nil
	})
	k.says(t, "autoscale deployment/web --min=1 --max=5 --cpu-percent=80", "autoscaled")
	k.says(t, "get hpa web", "Deployment/web", "5")
	k.says(t, "delete hpa web", "deleted")
	k.ok(t, "run", "single", "--image="+toolbox, "--labels=app=single,tier=front", "--", "tcp-echo", ":8080")
	k.says(t, "wait --for=condition=Ready pod/single --timeout=60s", "condition met")
	input := strings.Repeat("a line\n", 1000)
	back := k.feed(t, input, "run", "passing", "--image="+toolbox, "-i", "--rm", "--restart=Never", "--quiet", "--", "cat", "/dev/stdin")
	if !strings.HasPrefix(back, input[:7]) {
		t.Errorf("run -i --rm gave back %d bytes of %d: %s", len(back), len(input), harness.Tail(back, 3))
	}
	k.says(t, "get pod passing --ignore-not-found", "")
}

// kubectlCreate has the server accept what each generator makes.
func kubectlCreate(t *harness.T, k *kubectl) {
	lines := []string{
		"namespace other", "serviceaccount robot", "secret generic plain --from-literal=a=b",
		"secret docker-registry pull --docker-server=r.example --docker-username=u --docker-password=p",
		"service clusterip one --tcp=80:8080", "service nodeport two --tcp=80", "service externalname three --external-name=example.org",
		"service clusterip none --clusterip=None", "role reader --verb=get,list --resource=pods", "clusterrole reads --verb=get --resource=nodes",
		"rolebinding readers --role=reader --serviceaccount=default:default", "clusterrolebinding all-read --clusterrole=view --user=jane",
		"quota few --hard=pods=100", "poddisruptionbudget web --selector=app=web --min-available=1",
		"priorityclass high --value=1000", "job once --image=x", "cronjob tick --image=x --schedule=*/5__*__*__*__*",
		"ingress front --rule=example.org/*=web:80",
	}
	for _, line := range lines {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "__", " ")
		}
		if k.minor < 21 && args[0] == "cronjob" {
			continue // it makes one of a version that is no more
		}
		if k.minor < 21 && args[0] == "poddisruptionbudget" {
			continue
		}
		if got := k.ok(t, append(append([]string{"create"}, args...), "--dry-run=server", "-o", "name")...); !strings.Contains(got, "/") {
			t.Errorf("create %s: %q", line, got)
		}
	}
}

func kubectlLook(t *harness.T, k *kubectl) {
	k.says(t, "get pods -o wide", "NAME", "READY", "NODE", "single", "1/1", "Running")
	k.says(t, "get pods,deployments,services,configmaps --show-labels", "pod/single", "deployment.apps/web", "service/web", "tier=front")
	k.says(t, "get all", "pod/single", "replicaset.apps/web")
	k.says(t, "get pods -A", "NAMESPACE", k.namespace)
	k.says(t, "get pod single -o yaml", "apiVersion: v1", "name: single", "phase: Running")
	var pod struct {
		Kind   string
		Status struct{ PodIP string }
	}
	if err := json.Unmarshal([]byte(k.ok(t, "get", "pod", "single", "-o", "json")), &pod); err != nil || pod.Kind != "Pod" || pod.Status.PodIP == "" {
		t.Errorf("as JSON: %+v, %v", pod, err)
	}
	k.says(t, "get pods single -o custom-columns=WHO:.metadata.name,ADDRESS:.status.podIP", "WHO", "ADDRESS", "single", pod.Status.PodIP)
	k.says(t, "get pods -l tier=front -o name", "pod/single")
	k.says(t, "get pods --field-selector=metadata.name=single -o jsonpath={.items[*].status.podIP}", pod.Status.PodIP)
	k.says(t, "get pods single -o go-template={{.status.podIP}}", pod.Status.PodIP)
	k.says(t, "get pods --sort-by=.metadata.creationTimestamp", "single")
	k.says(t, "get pods --chunk-size=1", "single", "web-")
	k.says(t, "describe pod single", "Name:", "single", "Image:", toolbox, "Events:", "Scheduled", "Started")
	k.says(t, "describe deployment web", "StrategyType:", "RollingUpdate", "ScalingReplicaSet")
	k.says(t, "describe service web", "Endpoints:", "8080")
	k.says(t, "describe node node-1", "Capacity:", "Allocated resources:", "PodCIDR:")
	k.says(t, "get events", "LAST SEEN", "Scheduled")
	if k.minor >= 26 {
		k.says(t, "events --for=pod/single", "Started")
		k.says(t, "events --types=Normal", "Scheduled")
	}
	k.says(t, "explain deployments.spec.strategy", "rollingUpdate", "type")
	k.says(t, "explain pods --recursive", "restartPolicy", "ephemeralContainers")
	k.says(t, "explain ingress.spec.rules", "host")
	k.says(t, "api-resources", "deployments", "apps/v1", "endpointslices", "leases", "namespaces", "Ingress")
	k.says(t, "api-resources --namespaced=false --verbs=list -o name", "nodes", "namespaces")
	k.says(t, "api-versions", "apps/v1", "batch/v1", "networking.k8s.io/v1", "v1")
	k.says(t, "version", "Server Version")
	k.says(t, "cluster-info", "running at", "https://10.99.0.")
	dir := t.TempDir()
	k.ok(t, "cluster-info", "dump", "--namespaces", k.namespace, "--output-directory", dir)
	for _, name := range []string{"nodes.json", k.namespace + "/pods.json", k.namespace + "/single/logs.txt"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("cluster-info dump: %s: %v", name, err)
		}
	}
	k.says(t, "get --raw /version", `"major":`, `"gitVersion":`)
	k.says(t, "get --raw /readyz", "ok")
	// Nothing measures yet; kubectl must be able to say so.
	k.fails(t, "top nodes", "Metrics API not available")
	k.fails(t, "get nonsense", "the server doesn't have a resource type")
	k.fails(t, "get pod no-such-pod", "NotFound")
}

// shellManifest is a pod that has the host's programs, among them those that kubectl cp wants.
const shellManifest = `
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.kijabi.dev/toolbox:1
    command: [/bin/sh, -c, 'while read line; do echo "got $line"; done']
    stdin: true
    env: [{name: PATH, value: "/usr/bin:/bin"}]
    volumeMounts: &mounts
    - {name: usr, mountPath: /usr, readOnly: true}
    - {name: bin, mountPath: /bin, readOnly: true}
    - {name: lib, mountPath: /lib, readOnly: true}
    - {name: lib64, mountPath: /lib64, readOnly: true}
    - {name: work, mountPath: /work}
  - name: counter
    image: registry.kijabi.dev/toolbox:1
    command: [/bin/sh, -c, 'for i in 1 2 3 4 5 6 7 8 9 10; do echo "count $i"; sleep 0.2; done; sleep 100000']
    env: [{name: PATH, value: "/usr/bin:/bin"}]
    volumeMounts: *mounts
  volumes:
  - {name: usr, hostPath: {path: /usr}}
  - {name: bin, hostPath: {path: /bin}}
  - {name: lib, hostPath: {path: /lib}}
  - {name: lib64, hostPath: {path: /lib64}}
  - {name: work, emptyDir: {}}
`

func kubectlStreams(t *harness.T, k *kubectl) {
	k.feed(t, shellManifest, "apply", "-f", "-")
	k.says(t, "wait --for=condition=Ready pod/shell --timeout=60s", "condition met")

	follow := k.start(t, "logs", "-f", "shell", "-c", "counter")
	prints(t, follow, `(?s)count 1\n.*count 10\n`)
	follow.Stop(t)
	k.says(t, "logs shell -c counter --tail=1", "count 10")
	k.says(t, "logs shell -c counter --timestamps --since=1h", "T", "count 1")
	k.says(t, "logs -l app=single --prefix", "listening on")
	k.fails(t, "logs shell -c nonsense", "nonsense")

	if result := k.try(t, "exec", "shell", "-c", "main", "--", "sh", "-c", "echo out; echo err >&2; exit 7"); result.Code != 7 ||
		result.Stdout != "out\n" || !strings.HasPrefix(result.Stderr, "err\n") {
		t.Errorf("exec: %s", result)
	}
	input := strings.Repeat("a line of input\n", 20_000)
	if back := k.feed(t, input, "exec", "-i", "shell", "-c", "main", "--", "cat"); back != input {
		t.Errorf("exec -i gave back %d bytes of %d", len(back), len(input))
	}
	harness.Contains(t, "attach", k.attach(t), "got hello")

	// A file, and a tree there and back.
	local := t.TempDir()
	content := strings.Repeat("content\n", 100_000)
	if err := os.MkdirAll(filepath.Join(local, "tree", "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(local, "tree", "below", "file"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	k.ok(t, "cp", filepath.Join(local, "tree"), "shell:/work/tree", "-c", "main")
	k.ok(t, "cp", "shell:/work/tree", filepath.Join(local, "back"), "-c", "main")
	if back, err := os.ReadFile(filepath.Join(local, "back", "below", "file")); err != nil || string(back) != content {
		t.Errorf("a file that was copied there and back has %d bytes of %d, %v", len(back), len(content), err)
	}

	for _, target := range []string{"pod/single", "deployment/web", "service/web"} {
		port := "8080"
		if strings.HasPrefix(target, "service") {
			port = "80"
		}
		forward := k.start(t, "port-forward", "--address=127.0.0.1", target, ":"+port)
		address := "127.0.0.1:" + prints(t, forward, `Forwarding from 127\.0\.0\.1:(\d+)`)[1]
		for i := range 3 {
			if err := echoes(address, fmt.Sprintf("hello %d", i)); err != nil {
				t.Errorf("through port-forward to %s: %v\n%s", target, err, forward.Output())
			}
		}
		forward.Stop(t)
	}
}

// attach writes to a container that is under way.
func (k *kubectl) attach(t *harness.T) string {
	t.Helper()
	i := k.invocation([]string{"attach", "-i", "shell", "-c", "main"})
	i.Input = "hello\n"
	// What the container says may come after the input has ended: its log has all of it.
	result := k.c.Run(t, i)
	if result.Code != 0 {
		t.Error(result)
	}
	var log string
	harness.Eventually(t, 10*time.Second, "the attached container has answered", func() error {
		if log = k.ok(t, "logs", "shell", "-c", "main"); !strings.Contains(log, "got hello") {
			return fmt.Errorf("its log is %q", log)
		}
		return nil
	})
	return log
}

// echoes says whether what listens at an address sends back a line.
func echoes(address, line string) error {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return err
	}
	back, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && strings.TrimSpace(back) != line {
		err = fmt.Errorf("it says %q", back)
	}
	return err
}

func kubectlDebug(t *harness.T, k *kubectl) {
	if k.minor < 23 {
		t.Log("its ephemeral containers are of a form that Kubernetes no longer has")
		return
	}
	k.ok(t, "debug", "single", "--image="+toolbox, "--container=looker", "--target=single", "--profile=general", "--attach=false", "--", "/toolbox", "nslookup", "kubernetes.default")
	harness.Eventually(t, 30*time.Second, "the ephemeral container has run", func() error {
		if got := k.ok(t, "get", "pod", "single", "-o", "jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}"); got != "0" {
			return fmt.Errorf("exit code %q: %s", got, k.ok(t, "get", "pod", "single", "-o", "jsonpath={.status.ephemeralContainerStatuses}"))
		}
		return nil
	})
	k.says(t, "logs single -c looker", "10.96.0.1")
	if got := k.ok(t, "get", "pod", "single", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); got != "0" {
		t.Errorf("the pod restarted %s times", got)
	}
	k.ok(t, "debug", "single", "--image="+toolbox, "--copy-to=double", "--container=single", "--profile=general", "--attach=false", "--", "/toolbox", "tcp-echo", ":8080")
	k.says(t, "wait --for=condition=Ready pod/double --timeout=60s", "condition met")
	k.says(t, "delete pod double --grace-period=1", "deleted")
	k.ok(t, "debug", "node/node-1", "--image="+toolbox, "--profile=general", "--attach=false", "--", "/toolbox", "ls", "/host/etc")
	harness.Eventually(t, 30*time.Second, "the node's debugger has run", func() error {
		if got := k.ok(t, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.phase} {end}`); !regexp.MustCompile(`node-debugger-node-1-\w+=Succeeded`).MatchString(got) {
			return fmt.Errorf("pods: %s", got)
		}
		return nil
	})
}

func kubectlWatch(t *harness.T, k *kubectl) {
	watch := k.start(t, "get", "configmaps", "--watch", "-l", "watched=yes", "-o", "name")
	table := k.start(t, "get", "configmaps", "--watch", "-l", "watched=yes")
	for _, name := range []string{"first", "second"} {
		k.ok(t, "create", "configmap", name)
		k.ok(t, "label", "configmap/"+name, "watched=yes")
	}
	prints(t, watch, `(?s)configmap/first\n.*configmap/second\n`)
	prints(t, table, `(?s)NAME\s+DATA\s+AGE\n.*first.*second`)
	k.ok(t, "delete", "configmap/first", "configmap/second")
	if k.minor >= 31 {
		created := k.start(t, "wait", "--for=create", "configmap/late", "--timeout=30s")
		k.ok(t, "create", "configmap", "late")
		prints(t, created, "condition met")
	}
	k.ok(t, "create", "configmap", "passing")
	deleted := k.start(t, "wait", "--for=delete", "configmap/passing", "--timeout=30s")
	k.ok(t, "delete", "configmap", "passing")
	select {
	case <-deleted.Ended():
	case <-time.After(30 * time.Second):
		t.Error("wait --for=delete does not end")
	}
}

func kubectlProxy(t *harness.T, k *kubectl) {
	proxy := k.start(t, "proxy", "--port=0")
	base := "http://" + prints(t, proxy, `Starting to serve on (\S+)`)[1]
	for path, want := range map[string]string{
		"/api/v1/namespaces/" + k.namespace:                      `"kind": "Namespace"`,
		"/api/v1/namespaces/" + k.namespace + "/pods/single/log": "listening on",
	} {
		var body strings.Builder
		response, err := http.Get(base + path) //nolint:noctx // the proxy ends with the test
		if err != nil {
			t.Fatal(err)
		}
		_, err = bufio.NewReader(response.Body).WriteTo(&body)
		_ = response.Body.Close()
		compact := strings.ReplaceAll(body.String(), `":"`, `": "`)
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(compact, want) {
			t.Errorf("%s through the proxy: %s, %v\n%s", path, response.Status, err, harness.Tail(body.String(), 10))
		}
	}
}

func kubectlAccess(t *harness.T, k *kubectl) {
	k.says(t, "auth can-i create deployments", "yes")
	k.says(t, "auth can-i --list", "*.*", "[*]")
	account := "--as=system:serviceaccount:" + k.namespace + ":robot"
	k.ok(t, "create", "serviceaccount", "robot")
	if result := k.try(t, "auth", "can-i", "get", "secrets", account); result.Code != 1 || !strings.Contains(result.Stdout, "no") {
		t.Errorf("the account without rights: %s", result)
	}
	k.ok(t, "create", "role", "looks", "--verb=get,list", "--resource=secrets,configmaps")
	k.ok(t, "create", "rolebinding", "looks", "--role=looks", "--serviceaccount="+k.namespace+":robot")
	harness.Eventually(t, 10*time.Second, "the right is there", func() error {
		if result := k.try(t, "auth", "can-i", "get", "secrets", account); result.Code != 0 {
			return fmt.Errorf("%s", result)
		}
		return nil
	})
	k.says(t, "auth can-i --list "+account, "secrets", "configmaps", "[get list]")
	harness.Contains(t, "auth reconcile", k.feed(t, "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: looks, namespace: "+k.namespace+"}\n"+
		"rules: [{apiGroups: [\"\"], resources: [services], verbs: [watch]}]\n", "auth", "reconcile", "-f", "-"), "reconciled")
	k.says(t, "get role looks -o jsonpath={.rules[*].resources}", "services", "secrets")
	if k.minor >= 24 {
		token := strings.TrimSpace(k.ok(t, "create", "token", "robot", "--duration=10m"))
		bare := k.bareConfig(t)
		allowed := k.c.Run(t, harness.Invocation{Argv: []string{k.path, "--kubeconfig", bare, "--token", token, "-n", k.namespace, "get", "configmaps"}})
		if allowed.Code != 0 {
			t.Errorf("by token: %s", allowed)
		}
		refused := k.c.Run(t, harness.Invocation{Argv: []string{k.path, "--kubeconfig", bare, "--token", token, "-n", k.namespace, "delete", "pod", "single"}})
		if refused.Code == 0 || !strings.Contains(refused.Stderr, "Forbidden") {
			t.Errorf("by token, without the right: %s", refused)
		}
	}
	if k.minor >= 28 {
		k.says(t, "auth whoami", "kubernetes-admin")
		k.says(t, "auth whoami "+account, "robot")
	}
	kubectlCertificates(t, k)
}

// bareConfig is the kubeconfig without the user's credentials.
func (k *kubectl) bareConfig(t *harness.T) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(k.c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = clientcmdapi.NewAuthInfo()
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func kubectlConfig(t *harness.T, k *kubectl) {
	path := k.bareConfig(t)
	run := func(args ...string) string {
		t.Helper()
		result := k.c.Run(t, harness.Invocation{Argv: append([]string{k.path, "--kubeconfig", path, "config"}, args...)})
		if result.Code != 0 {
			t.Fatal(result)
		}
		return result.Stdout
	}
	harness.Contains(t, "contexts", run("get-contexts", "-o", "name"), "clients", "master-1@clients", "master-3@clients")
	run("use-context", "master-2@clients")
	run("set-context", "--current", "--namespace="+k.namespace)
	harness.Contains(t, "context", run("current-context"), "master-2@clients")
	harness.Contains(t, "view", run("view", "--minify"), "namespace: "+k.namespace, "https://10.99.0.12:6443", "DATA+OMITTED")
	for _, context := range []string{"master-1@clients", "master-2@clients", "master-3@clients"} {
		k.says(t, "get pod single --context="+context, "single")
	}
}

func kubectlNodes(t *harness.T, k *kubectl) {
	const node = "node-2"
	k.says(t, "get nodes -o wide", node, "Ready", "INTERNAL-IP", "containerd://")
	k.says(t, "label node "+node+" disk=ssd", "labeled")
	k.says(t, "get nodes -l disk=ssd -o name", "node/"+node)
	k.says(t, "label node "+node+" disk-", "")
	k.says(t, "taint nodes "+node+" dedicated=me:NoSchedule", "tainted")
	k.says(t, "get node "+node+" -o jsonpath={.spec.taints}", "dedicated")
	k.says(t, "taint nodes "+node+" dedicated-", "untainted")
	k.says(t, "cordon "+node, "cordoned")
	k.says(t, "get node "+node, "Ready,SchedulingDisabled")
	result := k.c.Run(t, harness.Invocation{Limit: 3 * time.Minute, Argv: k.invocation([]string{"drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
		"--grace-period=1", "--timeout=100s"}).Argv})
	if result.Code != 0 || !strings.Contains(result.Stdout, "drained") && !strings.Contains(result.Stdout, "evicted") {
		t.Errorf("drain: %s", result)
	}
	if left := k.ok(t, "get", "pods", "-A", "--field-selector=spec.nodeName="+node+",status.phase=Running", "-o", "name"); left != "" {
		t.Errorf("after the drain there are: %s", left)
	}
	k.says(t, "uncordon "+node, "uncordoned")
	k.says(t, "rollout status deployment/web --timeout=60s", "successfully rolled out")
}

func kubectlDelete(t *harness.T, k *kubectl) {
	make1 := func(name string) {
		t.Helper()
		k.ok(t, "create", "deployment", name, "--image="+toolbox, "--", "/toolbox", "tcp-echo", ":8080")
		k.ok(t, "rollout", "status", "deployment/"+name, "--timeout=60s")
	}
	sets := func(name string) string {
		t.Helper()
		return k.ok(t, "get", "replicasets", "-l", "app="+name, "-o", "name")
	}
	make1("orphans")
	k.says(t, "delete deployment orphans --cascade=orphan", "deleted")
	if sets("orphans") == "" || k.ok(t, "get", "replicasets", "-l", "app=orphans", "-o", "jsonpath={.items[0].metadata.ownerReferences}") != "" {
		t.Error("the replica set is gone or still owned")
	}
	k.says(t, "delete rs,pods -l app=orphans --grace-period=1", "deleted")
	make1("front")
	k.says(t, "delete deployment front --cascade=foreground --timeout=60s", "deleted")
	if left := sets("front"); left != "" {
		t.Errorf("after a deletion in the foreground there is %s", left)
	}
	make1("back")
	k.says(t, "delete deployment back --cascade=background", "deleted")
	harness.Eventually(t, 30*time.Second, "the rest is collected", func() error {
		if left := sets("back"); left != "" {
			return fmt.Errorf("there is %s", left)
		}
		return nil
	})
	for _, name := range []string{"quick", "forced"} { // what was there may have been drained
		k.ok(t, "run", name, "--image="+toolbox, "--", "tcp-echo", ":8080")
	}
	k.says(t, "delete pod quick --now", "deleted")
	k.says(t, "delete pod forced --grace-period=0 --force", "deleted")
	k.says(t, "delete deployment no-such --ignore-not-found", "")
	k.says(t, "delete deployments --all", `"web" deleted`)
}

func kubectlCertificates(t *harness.T, k *kubectl) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	for verb, condition := range map[string]string{"approve": "Approved", "deny": "Denied"} {
		name := k.namespace + "-" + verb
		k.feed(t, fmt.Sprintf(`{"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": %q},
			"spec": {"request": %q, "signerName": "kijabi.dev/test", "usages": ["client auth"]}}`, name, base64.StdEncoding.EncodeToString(request)), "create", "-f", "-")
		k.says(t, "certificate "+verb+" "+name, name)
		k.says(t, "get csr "+name, "kijabi.dev/test", condition)
		k.says(t, "delete csr "+name, "deleted")
	}
}
