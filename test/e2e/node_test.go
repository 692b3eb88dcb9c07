package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const echoManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: echo}
spec:
  replicas: 4
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers:
      - name: main
        image: registry.kijabi.dev/toolbox:1
        args: [tcp-echo, ":7777"]
        readinessProbe: {tcpSocket: {port: 7777}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports: [{port: 7777, nodePort: 30081}]
`

// testNodeKilled pulls the plug of a node that runs half of an application.
func testNodeKilled(t *testing.T, c *cluster) {
	const ns, dead, alive = "echo", "node-2", "node-1"
	c.namespace(t, ns)
	c.apply(t, echoManifest)
	c.awaitDeployment(t, 30*time.Second, ns, "echo", 4)
	on := map[string]int{}
	for _, pod := range c.pods(t, ns, "app=echo") {
		on[pod.Spec.NodeName]++
	}
	if on[dead] == 0 || on[alive] == 0 {
		t.Fatalf("the pods are not spread: %v", on)
	}
	var targets []string
	for _, address := range []string{"10.97.0.11", "10.97.0.12", "10.97.0.13", "10.97.0.21"} {
		targets = append(targets, "tcp://"+address+":30081")
	}
	for _, target := range targets {
		eventually(t, 10*time.Second, target+" answers", func() error { return request(t.Context(), target) })
	}
	p := probe(t, targets...)
	awaitRequests(t, p, 20)

	killed := time.Now()
	c.power(t, "kill", dead)
	eventually(t, 20*time.Second, "the node is not Ready", func() error {
		node, err := get[*corev1.Node](c, "", dead)
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionUnknown {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", node.Status.Conditions)
	})
	t.Logf("the node was not Ready %s after the kill", time.Since(killed).Round(100*time.Millisecond))
	eventually(t, 40*time.Second, "4 Ready pods on the other node", func() error {
		ready := 0
		pods := c.pods(t, ns, "app=echo")
		for _, pod := range pods {
			if pod.Spec.NodeName == alive && isReady(pod) {
				ready++
			}
		}
		if ready != 4 {
			return fmt.Errorf("%d of %d", ready, len(pods))
		}
		return nil
	})
	t.Logf("its pods were replaced %s after the kill", time.Since(killed).Round(100*time.Millisecond))
	awaitRequests(t, p, 100)
	failures := p.stop()
	last := p.lastFailure()
	t.Logf("%d requests failed, the last one ended %s after the kill", len(failures), last.Sub(killed).Round(100*time.Millisecond))
	// An endpoint on the dead node would get half of the requests: of the hundreds sent since,
	// more than one would fail, where a machine that stalls for a moment loses one at most.
	var late []string
	for _, f := range failures {
		if f.at.Add(f.took).Sub(killed) > 10*time.Second {
			late = append(late, f.String())
		}
	}
	if len(late) > 1 {
		t.Errorf("traffic still went to the dead node %s after the kill:\n%s", last.Sub(killed), strings.Join(late, "\n"))
	}

	c.power(t, "start", dead)
	c.awaitHealthy(t, time.Minute)
	eventually(t, 30*time.Second, "nothing of the replaced pods is left on the node", func() error {
		for _, process := range processesOf(t)[dead] {
			if strings.Contains(process.args, "tcp-echo :7777") {
				return fmt.Errorf("process %s: %s", process.pid, process.args)
			}
		}
		all, err := list[*corev1.Pod](c, ns, "")
		if err != nil {
			return err
		}
		if len(all) != 4 {
			return fmt.Errorf("%d pods", len(all))
		}
		return nil
	})
	// The node takes pods again.
	c.kubectl(t, "-n", ns, "scale", "deployment/echo", "--replicas=6")
	c.awaitDeployment(t, 30*time.Second, ns, "echo", 6)
	on = map[string]int{}
	for _, pod := range c.pods(t, ns, "app=echo") {
		on[pod.Spec.NodeName]++
	}
	if on[dead] == 0 {
		t.Errorf("the node that returned gets no pods: %v", on)
	}
	for _, url := range append(targets, "tcp://10.97.0.22:30081") {
		eventually(t, 10*time.Second, url+" answers", func() error { return request(t.Context(), url) })
	}
}
