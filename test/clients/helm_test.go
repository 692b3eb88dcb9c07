package clients

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"kijabi.dev/test/harness"
)

// helm runs one major version of the program in one namespace.
type helm struct {
	c         *clients
	path      string
	namespace string
}

const release = "greeter"

// greetings are of the kind that the chart defines. Helm leaves definitions behind.
const greetings = "greetings.clients.example.com"

func (h *helm) try(t *harness.T, args ...string) harness.Outcome {
	t.Helper()
	return h.c.Run(t, harness.Invocation{
		Limit: 3 * time.Minute,
		Argv:  append([]string{h.path, "--kubeconfig", h.c.Kubeconfig(), "--namespace", h.namespace}, args...),
	})
}

// ok runs helm, which must succeed and print these texts.
func (h *helm) ok(t *harness.T, args []string, texts ...string) string {
	t.Helper()
	result := h.try(t, args...)
	if result.Code != 0 {
		t.Fatal(result)
	}
	harness.Contains(t, result.Command, result.Stdout, texts...)
	return result.Stdout
}

// get asks for a part of an object.
func (h *helm) get(t *harness.T, object, path string) string {
	t.Helper()
	return h.c.Kubectl(t, "-n", h.namespace, "get", object, "-o", "jsonpath={"+path+"}", "--ignore-not-found")
}

// hook says that a hook has run for a revision.
func (h *helm) hook(t *harness.T, name string, revision int) {
	t.Helper()
	want := fmt.Sprintf("%s of revision %d", name, revision)
	harness.Contains(t, "log of the hook", h.c.Kubectl(t, "-n", h.namespace, "logs", release+"-"+name), want)
	if phase := h.get(t, "pod/"+release+"-"+name, ".status.phase"); phase != "Succeeded" {
		t.Errorf("hook %s is %s", name, phase)
	}
}

// state compares what the release has made.
func (h *helm) state(t *harness.T, message string, replicas int) {
	t.Helper()
	if got := h.get(t, "configmap/"+release, ".data.message"); got != message {
		t.Errorf("message %q, want %q", got, message)
	}
	if first := h.get(t, "configmap/"+release, ".data.only-first") == "yes"; first != (message == "first") {
		t.Errorf("message %q, and what only the first has: %t", message, first)
	}
	if got := h.get(t, greetings+"/"+release, ".spec['message','times']"); got != message+" 1" {
		t.Errorf("the custom object says %q, want %q, once", got, message)
	}
	if got := h.get(t, "deployment/"+release, ".status.readyReplicas"); got != fmt.Sprint(replicas) {
		t.Errorf("%s replicas are ready, want %d", got, replicas)
	}
}

// testHelm takes a release through its life.
func testHelm(t *harness.T, c *clients, program string) {
	h := &helm{c: c, path: c.program(t, program), namespace: c.namespace(t, program)}
	chart := filepath.Join(c.Root, "test", "clients", "testdata", "chart")
	wait, onFailure := "--wait", "--atomic"
	if program == "helm4" {
		onFailure = "--rollback-on-failure"
	}
	h.ok(t, []string{"version"}, "v")
	h.ok(t, []string{"lint", chart}, "0 chart(s) failed")
	// A dry run defines no kinds, so that it finds none for objects of those.
	h.ok(t, []string{"install", release, chart, "--dry-run=server", "--set", "greeting=false"}, "STATUS: pending-install", "kind: Deployment")
	if got := h.get(t, "deployments,configmaps,pods", ".items[?(@.metadata.name==\""+release+"\")]"); got != "" {
		t.Errorf("a dry run made %s", got)
	}
	refused := h.try(t, "install", release, chart, "--set", "replicas=-1")
	if refused.Code == 0 || !strings.Contains(refused.Stderr, "replicas") {
		t.Errorf("values that the chart's schema refuses: %s", refused)
	}

	h.ok(t, []string{"install", release, chart, wait, "--timeout=90s"}, "STATUS: deployed", "REVISION: 1")
	h.state(t, "first", 1)
	h.hook(t, "pre-install", 1)
	managers := h.get(t, "deployment/"+release, ".metadata.managedFields[*]['manager','operation']")
	if applied := strings.Contains(managers, "helm Apply") || strings.Contains(managers, "Apply"); applied != (program == "helm4") {
		t.Errorf("%s's fields are managed by: %s", program, managers)
	}
	if again := h.try(t, "install", release, chart); again.Code == 0 || !strings.Contains(strings.ReplaceAll(again.Stderr, "re-use", "reuse"), "cannot reuse a name") {
		t.Errorf("a second install: %s", again)
	}
	var list []struct{ Name, Status, Chart string }
	text := h.ok(t, []string{"list", "-o", "json"})
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 1 || list[0].Name != release || list[0].Status != "deployed" || list[0].Chart != "greeter-1.0.0" {
		t.Errorf("list: %s, %v", text, err)
	}

	h.ok(t, []string{"upgrade", release, chart, "--set", "message=second,replicas=2", wait, "--timeout=90s"}, "REVISION: 2", "STATUS: deployed")
	h.state(t, "second", 2)
	h.hook(t, "post-upgrade", 2)
	h.ok(t, []string{"get", "values", release}, "message: second")
	h.ok(t, []string{"get", "manifest", release}, "kind: Service")
	h.ok(t, []string{"get", "hooks", release}, "post-upgrade")
	h.ok(t, []string{"status", release}, "STATUS: deployed", "REVISION: 2")
	h.ok(t, []string{"test", release, "--timeout=60s"}, "Phase:", "Succeeded")

	// Upgrades that fail: the hook says no, or the pods never become Ready.
	if failed := h.try(t, "upgrade", release, chart, "--reuse-values", "--set", "refuse=true", "--timeout=60s"); failed.Code == 0 || !strings.Contains(failed.Stderr, "pre-upgrade") {
		t.Errorf("an upgrade whose hook refuses: %s", failed)
	}
	h.state(t, "second", 2)
	failed := h.try(t, "upgrade", release, chart, "--set", "message=broken,replicas=2,image=127.0.0.1:1/no-such-image:9", onFailure, "--timeout=15s")
	if failed.Code == 0 {
		t.Errorf("an upgrade to an image that is not there: %s", failed)
	}
	h.ok(t, []string{"status", release}, "STATUS: deployed")
	h.state(t, "second", 2)
	h.ok(t, []string{"history", release}, "superseded", "failed", "Rollback to 2")

	h.ok(t, []string{"rollback", release, "1", wait, "--timeout=90s"}, "Rollback was a success")
	h.state(t, "first", 1)
	h.ok(t, []string{"upgrade", "--install", release, chart, "--set", "message=third", wait, "--timeout=90s"}, "STATUS: deployed")
	h.state(t, "third", 1)
	h.ok(t, []string{"uninstall", release, wait, "--timeout=90s"}, "uninstalled")
	h.gone(t)
}

// gone says that nothing of the release is left.
func (h *helm) gone(t *harness.T) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "nothing of the release is left", func() error {
		left := h.c.Kubectl(t, "-n", h.namespace, "get", "deployments,replicasets,services,configmaps,pods,secrets,"+greetings, "-o", "name",
			"-l", "app.kubernetes.io/instance="+release)
		left += h.c.Kubectl(t, "-n", h.namespace, "get", "secrets", "-l", "owner=helm", "-o", "name")
		if left != "" {
			return fmt.Errorf("there is %s", left)
		}
		return nil
	})
	var list []any
	if text := h.ok(t, []string{"list", "--all-namespaces", "-o", "json"}); json.Unmarshal([]byte(text), &list) != nil || len(list) != 0 {
		t.Errorf("list: %s", text)
	}
}

// testHelmMoves hands a release of helm 3 over to helm 4, which applies on the server.
func testHelmMoves(t *harness.T, c *clients) {
	namespace := c.namespace(t, "helm-moves")
	chart := filepath.Join(c.Root, "test", "clients", "testdata", "chart")
	old := &helm{c: c, path: c.program(t, "helm3"), namespace: namespace}
	h := &helm{c: c, path: c.program(t, "helm4"), namespace: namespace}
	old.ok(t, []string{"install", release, chart, "--wait", "--timeout=90s"}, "STATUS: deployed")
	h.ok(t, []string{"list"}, release, "deployed")
	h.ok(t, []string{"upgrade", release, chart, "--set", "message=second", "--server-side=true", "--wait", "--timeout=90s"}, "REVISION: 2", "STATUS: deployed")
	h.state(t, "second", 1) // the key that only the first has is gone, though another manager wrote it
	operations := h.get(t, "configmap/"+release, ".metadata.managedFields[*].operation")
	if !strings.Contains(operations, "Apply") || strings.Contains(operations, "Update") {
		t.Errorf("fields of the moved release are managed by operations %s", operations)
	}
	h.ok(t, []string{"upgrade", release, chart, "--set", "message=third", "--wait", "--timeout=90s"}, "REVISION: 3", "STATUS: deployed")
	h.state(t, "third", 1)
	h.ok(t, []string{"rollback", release, "1", "--wait", "--timeout=90s"}, "Rollback was a success")
	h.state(t, "first", 1)
	h.ok(t, []string{"uninstall", release, "--wait", "--timeout=90s"}, "uninstalled")
	h.gone(t)
}
