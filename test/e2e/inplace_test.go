package e2e

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/test/harness"
)

const inplaceManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: inplace}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: registry.kijabi.dev/toolbox:1
      - name: beside
        image: registry.kijabi.dev/toolbox:1
---
apiVersion: v1
kind: Pod
metadata: {name: once, namespace: inplace}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "registry.kijabi.dev/toolbox:1"}]
`

// testRestartInPlace: `kijabi restart` leaves pods where they are.
func testRestartInPlace(t *harness.T, c *cluster) {
	namespace := c.namespace(t, "inplace")
	c.Apply(t, inplaceManifest)
	c.awaitDeployment(t, 90*time.Second, namespace, "web", 3)
	before := map[string]*corev1.Pod{}
	for _, pod := range c.pods(t, namespace, "app=web") {
		before[pod.Name] = pod
	}
	said := c.Kijabi(t, "restart", "-n", namespace, "deployment/web", "-c", "main")
	for _, pod := range c.pods(t, namespace, "app=web") {
		old := before[pod.Name]
		if old == nil || old.UID != pod.UID || old.Status.PodIP != pod.Status.PodIP || old.Spec.NodeName != pod.Spec.NodeName || !isReady(pod) {
			t.Errorf("not the same pod: %s, was %s", describe(pod), describe(old))
			continue
		}
		for _, s := range pod.Status.ContainerStatuses {
			want := int32(0)
			if s.Name == "main" {
				want = 1
			}
			if s.RestartCount != want || s.State.Running == nil || want == 1 && s.LastTerminationState.Terminated == nil {
				t.Errorf("pod %s: container %+v", pod.Name, s)
			}
		}
		harness.Contains(t, "kijabi restart", said, "pod "+pod.Name+": restarted in ")
		c.awaitEvent(t, namespace, pod.Name, "Restarting", "Container main is restarted in place, as kubernetes-admin asked")
	}
	one := slices.Sorted(func(yield func(string) bool) {
		for name := range before {
			if !yield(name) {
				return
			}
		}
	})[0]
	c.Kijabi(t, "restart", "-n", namespace, one)
	c.awaitPod(t, 20*time.Second, namespace, one, "restarted as a whole", func(p *corev1.Pod) bool {
		counts := map[string]int32{}
		for _, s := range p.Status.ContainerStatuses {
			counts[s.Name] = s.RestartCount
		}
		return isReady(p) && counts["main"] == 2 && counts["beside"] == 1
	})
	c.awaitPod(t, 30*time.Second, namespace, "once", "Ready", isReady)
	if refused := c.Try(t, "restart", "-n", namespace, "once"); refused.Code == 0 || !strings.Contains(refused.Stderr, "restartPolicy Never") {
		t.Errorf("a container that would not come back: %+v", refused)
	}
	// Who may edit may restart, who may view may not.
	for role, want := range map[string]string{"edit": "yes", "view": "no"} {
		c.Kubectl(t, "create", "rolebinding", "may-"+role, "-n", namespace, "--clusterrole", role, "--user", "ann-"+role)
		if may := c.Try(t, "kubectl", "auth", "can-i", "create", "pods", "--subresource", "restart", "-n", namespace, "--as", "ann-"+role); !strings.HasPrefix(may.Stdout, want) {
			t.Errorf("role %s: %+v, want %s", role, may, want)
		}
	}
}
