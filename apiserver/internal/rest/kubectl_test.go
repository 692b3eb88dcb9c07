package rest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kubectl is the unmodified client, built once per test from its own module.
type kubectl struct {
	h    *harness
	path string
	env  []string
}

func newKubectl(h *harness) *kubectl {
	h.t.Helper()
	k := &kubectl{h: h, path: h.build("../../../test/kubectl")}
	k.env = append(os.Environ(), "KUBECONFIG="+h.kubeconfig(), "HOME="+h.dir)
	return k
}

// build builds a program of another module and returns its path.
func (h *harness) build(relative string) string {
	h.t.Helper()
	dir, err := filepath.Abs(relative)
	h.must(err)
	path := filepath.Join(h.dir, filepath.Base(relative))
	ctx, cancel := context.WithTimeout(h.t.Context(), 15*time.Minute) // a cold build compiles much
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", path, ".") //nolint:gosec // fixed words
	build.Dir, build.Env = dir, append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		h.t.Fatalf("build %s: %v\n%s", relative, err, out)
	}
	return path
}

// TestClientGo runs typed clients and informers of client-go against the door.
func TestClientGo(t *testing.T) {
	h := newRealHarness(t)
	out, err := exec.CommandContext(t.Context(), h.build("../../../test/rest"), "-kubeconfig", h.kubeconfig()).CombinedOutput() //nolint:gosec // a test
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// run calls kubectl and returns its whole output, and whether it succeeded.
func (k *kubectl) run(stdin string, args ...string) (string, bool) {
	k.h.t.Helper()
	ctx, cancel := context.WithTimeout(k.h.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.path, args...) //nolint:gosec // a test
	var out bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = k.env, strings.NewReader(stdin), &out, &out
	err := cmd.Run()
	return out.String(), err == nil
}

// ok expects success and the texts.
func (k *kubectl) ok(line string, texts ...string) {
	k.h.t.Helper()
	k.feed("", line, texts...)
}

func (k *kubectl) feed(stdin, line string, texts ...string) {
	k.h.t.Helper()
	out, good := k.run(stdin, strings.Fields(line)...)
	if !good {
		k.h.t.Errorf("kubectl %s failed: %s", line, out)
	}
	k.says(line, out, texts)
}

// fails expects failure and the texts.
func (k *kubectl) fails(stdin, line string, texts ...string) {
	k.h.t.Helper()
	out, good := k.run(stdin, strings.Fields(line)...)
	if good {
		k.h.t.Errorf("kubectl %s should fail: %s", line, out)
	}
	k.says(line, out, texts)
}

func (k *kubectl) says(line, out string, texts []string) {
	k.h.t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			k.h.t.Errorf("kubectl %s lacks %q: %s", line, text, out)
		}
	}
}

const webManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80}]
`

func TestKubectl(t *testing.T) {
	h := newRealHarness(t)
	h.node()
	k := newKubectl(h)

	k.ok("api-resources", "configmaps", "deploy", "apps/v1")
	k.ok("api-versions", "apps/v1", "discovery.k8s.io/v1")
	k.ok("cluster-info", "control plane")
	k.ok("auth whoami", "kubernetes-admin", "system:masters")
	k.ok("auth can-i create pods", "yes")
	k.ok("explain deployment.spec.strategy.type", "ENUM:", "RollingUpdate")
	k.ok("get --raw /readyz?verbose", "readyz check passed")

	k.feed(webManifest, "apply -f -", "deployment.apps/web created", "service/web created")
	k.feed(webManifest, "apply -f -", "deployment.apps/web unchanged", "service/web unchanged")
	changed := strings.Replace(webManifest, "replicas: 2", "replicas: 3", 1)
	k.fails(changed, "diff -f -", "+  replicas: 3") // differences are its exit code
	k.feed(changed, "apply -f -", "deployment.apps/web configured", "service/web unchanged")
	changed = strings.Replace(webManifest, "replicas: 2", "replicas: 4", 1)
	k.fails(changed, "apply --server-side -f - --field-manager=other", "conflict", "spec.replicas")
	k.feed(changed, "apply --server-side -f - --field-manager=other --force-conflicts", "serverside-applied")
	bad := strings.Replace(webManifest, "image: nginx", "image: nginx, bad: 1", 1)
	k.fails(bad, "apply -f -", `unknown field "spec.template.spec.containers[0].bad"`)
	k.feed(bad, "apply --validate=warn -f -", `Warning: unknown field "spec.template.spec.containers[0].bad"`)

	k.ok("scale deployment web --replicas=5", "scaled")
	k.ok("get deployment web -o jsonpath={.spec.replicas}", "5")
	k.ok("label deployment web tier=front", "labeled")
	k.ok("annotate deployment web note=x", "annotated")
	k.ok("get deployments,services -l tier=front -o wide", "web", "0/5", "nginx", "app=web")
	k.ok("patch deployment web --type=merge -p {\"spec\":{\"paused\":true}}", "patched")
	k.ok("patch deployment web --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/paused\"}]", "patched")
	k.ok("set image deployment/web c=other", "image updated")
	k.ok("rollout restart deployment/web", "restarted")
	k.ok("describe deployment web", "RollingUpdateStrategy", "other")
	k.env = append(k.env, "EDITOR=sed -i s/replicas:.5/replicas:6/")
	k.fails("", "edit deployment web") // the space is gone: no valid YAML, so nothing may change
	k.env = append(k.env, `EDITOR=sed -i s/tier:.front/tier:\ back/`)
	k.ok("edit deployment web", "edited")
	k.ok("get deployment web --show-labels", "tier=back")
	out, _ := k.run("", "get", "deployment", "web", "-o", "yaml")
	k.feed(out, "replace -f -", "replaced")

	for _, name := range []string{"c1", "c2", "c3"} {
		k.ok("create configmap "+name+" --from-literal=a=b", "created")
	}
	k.ok("get configmaps --chunk-size=2", "c1", "c2", "c3")
	k.ok("get configmaps -A --field-selector=metadata.name=c2 --no-headers", "c2")
	k.ok("wait --for=jsonpath={.data.a}=b configmap/c1 --timeout=5s", "condition met")
	k.fails("", "wait --for=condition=Available deployment/web --timeout=1s", "timed out")
	k.fails("", "create configmap c1", "already exists")
	k.ok("create configmap c9 --dry-run=server", "created (server dry run)")
	k.fails("", "get configmap c9", "NotFound")
	k.ok("delete configmap --all", `"c1" deleted`, `"c3" deleted`)
	k.ok("delete deployment web", "deleted")
	k.ok("delete service web --wait=false", "deleted")
	k.ok("get deployments", "No resources found")

	k.ok("logs p", "line 0\nline 1\nline 2\n")
	k.ok("exec p -- echo hello", "hello")
	k.feed("to stdin", "exec -i p -- cat", "to stdin")
	k.fails("", "exec p -- false", "exit code 1")
	k.feed("ping\n", "attach -i p", "attached", "ping")
	from, to := filepath.Join(h.dir, "from"), filepath.Join(h.dir, "to")
	h.must(os.WriteFile(from, []byte("carried"), 0o600))
	k.ok("cp " + from + " p:" + to)
	if data, err := os.ReadFile(to); err != nil || string(data) != "carried" {
		t.Errorf("cp: %q %v", data, err)
	}
	k.ok("delete pod p --force --grace-period=0", "deleted")
}

// TestKubectlAccess works with roles, bindings and tokens as people do.
func TestKubectlAccess(t *testing.T) {
	h := newRealHarness(t)
	k := newKubectl(h)

	k.ok("auth whoami --as=eve --as-group=dev --as-uid=7", "eve", "[dev system:authenticated]", "7")
	k.fails("", "auth can-i list pods --as=eve", "no")
	k.ok("create role reader --verb=get,list,watch --resource=pods,pods/log", "created")
	k.ok("create rolebinding eve-reads --role=reader --user=eve", "created")
	k.ok("create clusterrolebinding dev-views --clusterrole=view --group=dev", "created")
	k.ok("auth can-i list pods --as=eve", "yes")
	k.ok("auth can-i get pods --subresource=log --as=eve", "yes")
	k.fails("", "auth can-i list pods -A --as=eve", "no")
	k.ok("auth can-i list pods -A --as=eve --as-group=dev", "yes")
	k.ok("auth can-i get /version --as=eve", "yes")
	k.fails("", "auth can-i get /metrics --as=eve", "no")
	k.ok("auth can-i --list --as=eve", "pods/log", "[get list watch]", "selfsubjectaccessreviews.authorization.k8s.io", "[/version]")
	k.ok("get pods --as=eve", "No resources found")
	k.fails("", "get secrets --as=eve", `secrets is forbidden: User "eve" cannot list resource "secrets" in API group "" in the namespace "default"`)
	k.fails("", "create role more --verb=* --resource=secrets --as=eve", `cannot create resource "roles"`)
	k.ok("get roles,rolebindings -o wide", "reader", "Role/reader", "eve", "CREATED AT")
	k.ok("get clusterrole view -o jsonpath={.rules[*].resources}", "configmaps", "endpointslices")
	k.ok("describe clusterrole edit", "deployments.apps", "PolicyRule")
	k.ok("create clusterrole sum --aggregation-rule=to=sum", "created")
	k.ok("create clusterrole part --verb=get --resource=nodes", "created")
	k.ok("label clusterrole part to=sum", "labeled")
	k.ok("get clusterrole sum -o jsonpath={.rules[*].resources}", `["nodes"]`)
	k.feed(`apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: eve-reads, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: other}
subjects: [{kind: User, name: eve}]
`, "auth reconcile -f -", "reconciled")
	k.fails("", "patch rolebinding eve-reads --type=merge -p {\"roleRef\":{\"name\":\"reader\"}}", "cannot change roleRef")

	k.ok("create serviceaccount robot", "created")
	token, good := k.run("", "create", "token", "robot", "--duration=1h")
	if !good || strings.Count(token, ".") != 2 {
		t.Fatalf("create token: %s", token)
	}
	k.fails("", "create token robot --duration=1m", "less than 10 minutes")
	k.fails("", "create token nobody", `serviceaccounts "nobody" not found`)
	k.ok("create rolebinding robot-edits --clusterrole=edit --serviceaccount=default:robot", "created")
	robot := []string{"--token=" + strings.TrimSpace(token), "--server=" + h.http.URL, "--tls-server-name=localhost", "--certificate-authority=" + filepath.Join(h.dir, "ca.crt")}
	k.env = append(k.env, "KUBECONFIG="+filepath.Join(h.dir, "none")) // the administrator's certificate would go before the token
	as := func(line string) (string, bool) { return k.run("", append(strings.Fields(line), robot...)...) }
	for line, want := range map[string]string{
		"auth whoami": "system:serviceaccount:default:robot", "auth can-i create deployments": "yes", "create configmap made --from-literal=a=b": "created",
	} {
		if out, good := as(line); !good || !strings.Contains(out, want) {
			t.Errorf("kubectl %s by token: %s", line, out)
		}
	}
	if out, good := as("get nodes"); good || !strings.Contains(out, `User "system:serviceaccount:default:robot" cannot list resource "nodes"`) {
		t.Errorf("nodes by token: %s", out)
	}
}
