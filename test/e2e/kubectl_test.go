package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/test/harness"
)

// testKubectl goes through kubectl's commands on a Deployment of its own.
func testKubectl(t *harness.T, c *cluster) {
	ns := c.namespace(t, "shop")
	in := func(args ...string) []string { return append([]string{"--namespace", ns}, args...) }
	run := func(args ...string) string { t.Helper(); return c.Kubectl(t, in(args...)...) }

	run("create", "deployment", "web", "--image=registry.kijabi.dev/toolbox:1", "--replicas=2", "--", "/toolbox", "tcp-echo", ":8080")
	harness.Contains(t, "rollout status", run("rollout", "status", "deployment/web", "--timeout=30s"), "successfully rolled out")
	harness.Contains(t, "wait", run("wait", "--for=condition=Available", "deployment/web", "--timeout=30s"), "condition met")
	harness.Contains(t, "get", run("get", "deployments,pods,replicasets", "-o", "wide"), "deployment.apps/web", "2/2", "replicaset.apps/web-", "Running", "node-")
	harness.Contains(t, "get all namespaces", c.Kubectl(t, "get", "pods", "-A"), "NAMESPACE", "shop", "web-")

	t.Run("LogsAndExec", func(t *harness.T) {
		harness.Contains(t, "logs", run("logs", "deployment/web"), "listening on")
		result := c.Try(t, append([]string{"kubectl"}, in("exec", "deployment/web", "--", "/toolbox", "exit", "7")...)...)
		if result.Code != 7 {
			t.Errorf("exit code %d, want the container's 7: %s", result.Code, result)
		}
		harness.Contains(t, "exec", run("exec", "deployment/web", "--", "/toolbox", "echo", "from", "inside"), "from inside")
		input := strings.Repeat("a line of input\n", 10_000)
		cat := c.Run(t, harness.Invocation{Input: input, Argv: append([]string{filepath.Join(c.Bin, "kijabi"), "kubectl"},
			in("exec", "-i", "deployment/web", "--", "/toolbox", "cat", "/dev/stdin")...)})
		if cat.Code != 0 || cat.Stdout != input {
			t.Errorf("%d bytes came back of %d, exit code %d: %s", len(cat.Stdout), len(input), cat.Code, cat.Stderr)
		}
		missing := c.Try(t, append([]string{"kubectl"}, in("exec", "deployment/web", "--", "/no-such-program")...)...)
		if missing.Code == 0 || !strings.Contains(missing.Stderr, "no-such-program") {
			t.Errorf("exec of a program that is not there: %s", missing)
		}
	})

	t.Run("Scale", func(t *harness.T) {
		run("scale", "deployment/web", "--replicas=5")
		c.awaitDeployment(t, 30*time.Second, ns, "web", 5)
		run("scale", "deployment/web", "--replicas=1")
		c.awaitDeployment(t, 30*time.Second, ns, "web", 1)
	})

	t.Run("EditLabelPatch", func(t *harness.T) {
		editor := filepath.Join(t.TempDir(), "editor")
		script := "#!/bin/sh\nsed -i 's/replicas: 1/replicas: 2/' \"$1\"\n"
		if err := os.WriteFile(editor, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		edited := c.Run(t, harness.Invocation{Env: []string{"KUBE_EDITOR=" + editor}, Argv: append([]string{filepath.Join(c.Bin, "kijabi"), "kubectl"}, in("edit", "deployment/web")...)})
		if edited.Code != 0 || !strings.Contains(edited.Stdout, "edited") {
			t.Error(edited)
		}
		c.awaitDeployment(t, 30*time.Second, ns, "web", 2)
		run("label", "deployment/web", "tier=front")
		run("annotate", "deployment/web", "note=seen")
		run("patch", "deployment/web", "-p", `{"spec":{"template":{"metadata":{"annotations":{"patched":"yes"}}}}}`)
		run("rollout", "status", "deployment/web", "--timeout=30s")
		harness.Contains(t, "get by label", run("get", "deployments", "-l", "tier=front", "-o", "name"), "deployment.apps/web")
		harness.Contains(t, "jsonpath", run("get", "deployment/web", "-o", "jsonpath={.metadata.annotations.note} {.spec.template.metadata.annotations.patched}"), "seen yes")
		harness.Contains(t, "describe", run("describe", "deployment/web"), "Name:", "web", "StrategyType:", "RollingUpdate", "tier=front")
		harness.Contains(t, "describe pods", run("describe", "pods"), "registry.kijabi.dev/toolbox:1", "Started")
	})

	t.Run("ApplyChangeDelete", func(t *harness.T) {
		manifest := `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {color: %s%s}
`
		harness.Contains(t, "apply", c.Apply(t, fmt.Sprintf(manifest, "red", ", size: large")), "configmap/settings created")
		harness.Contains(t, "apply again", c.Apply(t, fmt.Sprintf(manifest, "red", ", size: large")), "configmap/settings unchanged")
		harness.Contains(t, "apply a change", c.Apply(t, fmt.Sprintf(manifest, "blue", "")), "configmap/settings configured")
		if data := run("get", "configmap/settings", "-o", "jsonpath={.data}"); data != `{"color":"blue"}` {
			t.Errorf("data after the change: %s", data)
		}
		harness.Contains(t, "delete", run("delete", "configmap/settings"), `configmap "settings" deleted`)
		gone := c.Try(t, append([]string{"kubectl"}, in("get", "configmap/settings")...)...)
		if gone.Code != 1 || !strings.Contains(gone.Stderr, "NotFound") {
			t.Errorf("get after delete: %s", gone)
		}
		server := c.Run(t, harness.Invocation{Input: fmt.Sprintf(manifest, "green", ""), Argv: []string{
			filepath.Join(c.Bin, "kijabi"), "kubectl", "create", "-f", "-"}})
		if server.Code != 0 {
			t.Error(server)
		}
	})

	t.Run("Discovery", func(t *harness.T) {
		harness.Contains(t, "explain", c.Kubectl(t, "explain", "deployment.spec.strategy.rollingUpdate"), "maxSurge", "maxUnavailable")
		harness.Contains(t, "explain", c.Kubectl(t, "explain", "pods", "--recursive"), "restartPolicy")
		harness.Contains(t, "api-resources", c.Kubectl(t, "api-resources"), "deployments", "deploy", "apps/v1", "endpointslices", "leases", "namespaces")
		harness.Contains(t, "api-versions", c.Kubectl(t, "api-versions"), "apps/v1", "v1")
		harness.Contains(t, "version", c.Kubectl(t, "version"), "Client Version: v1.37", "Server Version: v1.37")
		harness.Contains(t, "cluster-info", c.Kubectl(t, "cluster-info"), "https://10.97.0.")
		harness.Contains(t, "auth", c.Kubectl(t, "auth", "whoami"), "kubernetes-admin")
	})

	t.Run("GarbageCollection", func(t *harness.T) {
		run("delete", "deployment/web")
		harness.Eventually(t, 30*time.Second, "the deployment's replica sets and pods are gone", func() error {
			sets, err := list[*appsv1.ReplicaSet](c, ns, "")
			if err != nil {
				return err
			}
			pods, err := list[*corev1.Pod](c, ns, "")
			if err != nil {
				return err
			}
			if len(sets)+len(pods) > 0 {
				return fmt.Errorf("%d replica sets, %d pods", len(sets), len(pods))
			}
			return nil
		})
	})

	t.Run("NamespaceWithContents", func(t *harness.T) {
		c.Kubectl(t, "create", "namespace", "full")
		c.Kubectl(t, "-n", "full", "create", "deployment", "web", "--image=registry.kijabi.dev/toolbox:1", "--replicas=2")
		c.Kubectl(t, "-n", "full", "create", "configmap", "note", "--from-literal=a=b")
		c.Kubectl(t, "-n", "full", "expose", "deployment", "web", "--port=80")
		c.awaitDeployment(t, 30*time.Second, "full", "web", 2)
		c.Kubectl(t, "delete", "namespace", "full", "--timeout=50s")
		if _, err := get[*corev1.Namespace](c, "", "full"); !apierrors.IsNotFound(err) {
			t.Errorf("namespace after its deletion: %v", err)
		}
		for kind, remaining := range map[string]func() (int, error){
			"pods":        func() (int, error) { all, err := list[*corev1.Pod](c, "full", ""); return len(all), err },
			"deployments": func() (int, error) { all, err := list[*appsv1.Deployment](c, "full", ""); return len(all), err },
			"services":    func() (int, error) { all, err := list[*corev1.Service](c, "full", ""); return len(all), err },
		} {
			if n, err := remaining(); err != nil || n > 0 {
				t.Errorf("%d %s are left in the deleted namespace, %v", n, kind, err)
			}
		}
	})
}

// testUndo rolls out an image that does not exist, and takes it back. Meanwhile
// guestbook answers.
func testUndo(t *harness.T, c *cluster) {
	p := harness.Probe(t, c.guestbookURLs(t)...)
	c.Kubectl(t, "set", "image", "deployment/guestbook", "web=127.0.0.1:1/no-such-image:9")
	harness.Eventually(t, 30*time.Second, "a pod says that its image cannot be had", func() error {
		for _, pod := range c.pods(t, "default", "app.kubernetes.io/name=guestbook") {
			for _, s := range pod.Status.ContainerStatuses {
				if s.State.Waiting != nil && strings.Contains(s.State.Waiting.Reason, "Image") {
					c.awaitEvent(t, "default", pod.Name, "Failed", "no-such-image")
					return nil
				}
			}
		}
		return fmt.Errorf("none does")
	})
	stuck := c.Try(t, "kubectl", "rollout", "status", "deployment/guestbook", "--timeout=1s")
	if stuck.Code == 0 {
		t.Errorf("rollout status says that it is done: %s", stuck)
	}
	harness.Contains(t, "history", c.Kubectl(t, "rollout", "history", "deployment/guestbook"), "REVISION")
	harness.Contains(t, "undo", c.Kubectl(t, "rollout", "undo", "deployment/guestbook"), "rolled back")
	c.Kubectl(t, "rollout", "status", "deployment/guestbook", "--timeout=30s")
	image := c.Kubectl(t, "get", "deployment/guestbook", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	harness.Contains(t, "the image", image, "registry.kijabi.dev/guestbook-web:1")
	c.awaitDeployment(t, 30*time.Second, "default", "guestbook", 2)
	p.MustNotHaveFailed(t)
}

// testUnready takes the store away: guestbook's pods leave the endpoints until it is back.
func testUnready(t *harness.T, c *cluster) {
	ready := func(want int) func() error {
		return func() error {
			text := c.Kubectl(t, "get", "endpointslices", "-l", "kubernetes.io/service-name=guestbook", "-o",
				"jsonpath={.items[*].endpoints[*].conditions.ready}")
			if n := strings.Count(text, "true"); n != want {
				return fmt.Errorf("%d are ready: %q", n, text)
			}
			return nil
		}
	}
	c.Kubectl(t, "scale", "deployment/guestbook-store", "--replicas=0")
	harness.Eventually(t, 30*time.Second, "no endpoint of guestbook is ready", ready(0))
	c.Kubectl(t, "scale", "deployment/guestbook-store", "--replicas=1")
	harness.Eventually(t, 30*time.Second, "both endpoints of guestbook are ready", ready(2))
	for _, pod := range c.pods(t, "default", "app.kubernetes.io/name=guestbook") {
		if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("pod %s was restarted %d times, though it was alive", pod.Name, n)
		}
	}
}

// testOtherKubectl uses the kubectl of the distribution: a program that knows nothing
// of Kijabi.
func testOtherKubectl(t *harness.T, c *cluster) {
	program := os.Getenv("KIJABI_DEBIAN_KUBECTL")
	if program == "" {
		program = filepath.Join(filepath.Dir(c.Bin), ".cache", "debian", "usr", "bin", "kubectl")
	}
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("kubectl"); err != nil {
			t.Fatalf("%v: install it with `apt-get install kubernetes-client`", err)
		}
	}
	t.Logf("%s", c.Run(t, harness.Invocation{Argv: []string{program, "version", "--client"}}).Stdout)
	kubectl := func(input string, args ...string) string {
		t.Helper()
		result := c.Run(t, harness.Invocation{Input: input, Env: []string{"KUBECONFIG=" + c.Kubeconfig()}, Argv: append([]string{program}, args...)})
		if result.Code != 0 {
			t.Fatal(result)
		}
		return result.Stdout
	}
	manifest := `
apiVersion: v1
kind: Pod
metadata: {name: foreign, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "registry.kijabi.dev/toolbox:1", args: [tcp-echo]}
`
	harness.Contains(t, "apply", kubectl(manifest, "apply", "-f", "-"), "pod/foreign created")
	c.awaitPod(t, 30*time.Second, "default", "foreign", "is Ready", isReady)
	harness.Contains(t, "get", kubectl("", "get", "pods", "foreign"), "NAME", "READY", "foreign", "1/1", "Running")
	harness.Contains(t, "get nodes", kubectl("", "get", "nodes"), "master-1", "control-plane", "node-2")
	harness.Contains(t, "logs", kubectl("", "logs", "foreign"), "listening on")
	harness.Contains(t, "exec", kubectl("", "exec", "foreign", "--", "/toolbox", "echo", "hello"), "hello")
	harness.Contains(t, "apply again", kubectl(manifest, "apply", "-f", "-"), "pod/foreign unchanged")
	harness.Contains(t, "delete", kubectl("", "delete", "pod", "foreign"), "deleted")
	if _, err := get[*corev1.Pod](c, "default", "foreign"); !apierrors.IsNotFound(err) {
		t.Errorf("pod after its deletion: %v", err)
	}
}
