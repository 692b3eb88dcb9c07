package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/test/harness"
)

// guestbook applies examples/guestbook and waits until it is Ready.
func (c *cluster) guestbook(t *harness.T) {
	t.Helper()
	c.Kubectl(t, "apply", "-f", "examples/guestbook")
	c.Kubectl(t, "rollout", "status", "deployment/guestbook-store", "--timeout=60s")
	c.Kubectl(t, "rollout", "status", "deployment/guestbook", "--timeout=60s")
	harness.Eventually(t, 10*time.Second, "guestbook answers on every machine", func() error {
		for _, url := range c.guestbookURLs(t) {
			if err := harness.Request(context.Background(), url); err != nil {
				return err
			}
		}
		return nil
	})
}

// guestbookURLs are the NodePorts of all machines but some.
func (c *cluster) guestbookURLs(t *harness.T, but ...string) []string {
	t.Helper()
	var urls []string
	for i, name := range []string{"master-1", "master-2", "master-3", "node-1", "node-2"} {
		address := []string{"10.97.0.11", "10.97.0.12", "10.97.0.13", "10.97.0.21", "10.97.0.22"}[i]
		if strings.Contains(strings.Join(but, " "), name) {
			continue
		}
		urls = append(urls, fmt.Sprintf("http://%s:%d/", address, guestbookPort))
	}
	return urls
}

// toolbox is a pod that stays and has the small programs of examples/toolbox.
func (c *cluster) toolbox(t *harness.T, namespace, name, node string) {
	t.Helper()
	c.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  nodeName: ""
  nodeSelector: {kubernetes.io/hostname: %s}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: toolbox, image: "registry.kijabi.dev/toolbox:1"}
`, name, namespace, node))
	c.awaitPod(t, 30*time.Second, namespace, name, "is Ready", isReady)
}

func testGuestbook(t *harness.T, c *cluster) {
	c.guestbook(t)
	for _, url := range c.guestbookURLs(t) {
		page, err := harness.Fetch(t.Context(), url)
		if err != nil || !strings.Contains(page, "The Kijabi guestbook") {
			t.Errorf("%s: %v, %s", url, err, page)
		}
	}
	nodes := map[string]bool{}
	for _, pod := range c.pods(t, "default", "app.kubernetes.io/name=guestbook") {
		nodes[pod.Spec.NodeName] = true
	}
	if len(nodes) != 2 {
		t.Errorf("both pods of guestbook are on the same node: %v", nodes)
	}

	t.Run("ByName", func(t *harness.T) { testByName(t, c) })
	t.Run("Restart", func(t *harness.T) { testRestart(t, c) })
	t.Run("Undo", func(t *harness.T) { testUndo(t, c) })
	t.Run("Unready", func(t *harness.T) { testUnready(t, c) })
}

// testByName asks by DNS names from the node that the store is not on.
func testByName(t *harness.T, c *cluster) {
	store := c.pods(t, "default", "app.kubernetes.io/name=guestbook-store")
	if len(store) != 1 {
		t.Fatalf("%d pods of the store, want 1", len(store))
	}
	other := "node-1"
	if store[0].Spec.NodeName == other {
		other = "node-2"
	}
	c.toolbox(t, "default", "toolbox", other)
	for _, name := range []string{"guestbook.default.svc.cluster.local", "guestbook.default", "guestbook", "guestbook-store/readyz"} {
		want := ""
		if !strings.HasPrefix(name, "guestbook-store") {
			want = "The Kijabi guestbook"
		}
		c.Kubectl(t, "exec", "toolbox", "--", "/toolbox", "get", "--fresh", "--quiet", "--count", "10", "--expect", want, "http://"+name)
	}
	address := strings.TrimSpace(c.Kubectl(t, "get", "service", "guestbook", "-o", "jsonpath={.spec.clusterIP}"))
	answer := c.Kubectl(t, "exec", "toolbox", "--", "/toolbox", "nslookup", "guestbook.default.svc.cluster.local")
	if !strings.Contains(answer, address) {
		t.Errorf("the name resolves to %q, want %s", answer, address)
	}
	// Every pod answers directly, too, whatever node it is on.
	for _, pod := range c.pods(t, "default", "app.kubernetes.io/name=guestbook") {
		c.Kubectl(t, "exec", "toolbox", "--", "/toolbox", "get", "--quiet", "http://"+pod.Status.PodIP+":8080/healthz")
	}
}

// testRestart replaces all pods while requests go on.
func testRestart(t *harness.T, c *cluster) {
	before := map[string]bool{}
	for _, pod := range c.pods(t, "default", "app.kubernetes.io/name=guestbook") {
		before[pod.Name] = true
	}
	p := harness.Probe(t, c.guestbookURLs(t)...)
	c.Kubectl(t, "rollout", "restart", "deployment/guestbook")
	c.Kubectl(t, "rollout", "status", "deployment/guestbook", "--timeout=60s")
	harness.Eventually(t, 40*time.Second, "the old pods are gone", func() error {
		all, err := list[*corev1.Pod](c, "default", "app.kubernetes.io/name=guestbook")
		if err != nil {
			return err
		}
		for _, pod := range all {
			if before[pod.Name] {
				return fmt.Errorf("%s is there: %s", pod.Name, describe(pod))
			}
		}
		return nil
	})
	p.MustNotHaveFailed(t)
}
