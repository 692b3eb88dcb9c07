package e2e

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/test/harness"
)

// podsManifest holds one pod for each behaviour; they run side by side.
const podsManifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: pods}
data: {color: blue, motto.txt: "small and fast\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: pods}
stringData: {password: open-sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: files, namespace: pods, labels: {app: files}}
spec:
  restartPolicy: Never
  initContainers:
  - name: first
    image: registry.kijabi.dev/toolbox:1
    args: [write, /shared/first, written by the first]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: second
    image: registry.kijabi.dev/toolbox:1
    args: [cat, /shared/first]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: reader
    image: registry.kijabi.dev/toolbox:1
    args: [cat, /shared/first, /settings/motto.txt, /keys/password]
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys, readOnly: true}
  - name: environment
    image: registry.kijabi.dev/toolbox:1
    args: [env, COLOR, PASSWORD, POD_NAME, POD_IP, NODE, ALL_color, SELF, MEMORY]
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: SELF, value: "I am $(POD_NAME)"}
    envFrom:
    - {prefix: ALL_, configMapRef: {name: settings}}
    resources: {limits: {memory: 32Mi, cpu: 100m}}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys}}
---
apiVersion: v1
kind: Pod
metadata: {name: follows, namespace: pods}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.kijabi.dev/toolbox:1
    volumeMounts: [{name: settings, mountPath: /settings}]
  volumes:
  - {name: settings, configMap: {name: settings}}
---
apiVersion: v1
kind: Pod
metadata: {name: not-alive, namespace: pods}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.kijabi.dev/toolbox:1
    livenessProbe: {exec: {command: [/toolbox, cat, /nowhere]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: becomes-ready, namespace: pods}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.kijabi.dev/toolbox:1
    args: [tcp-echo, ":8080"]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 20}
    readinessProbe: {exec: {command: [/toolbox, cat, /tmp/ready]}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: crashes, namespace: pods}
spec:
  containers:
  - {name: main, image: "registry.kijabi.dev/toolbox:1", args: [exit, "3"]}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy, namespace: pods}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "registry.kijabi.dev/toolbox:1", args: [memory, 96Mi], resources: {limits: {memory: 32Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: succeeds, namespace: pods}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "registry.kijabi.dev/toolbox:1", args: [echo, all done]}
---
apiVersion: v1
kind: Pod
metadata: {name: fails, namespace: pods}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "registry.kijabi.dev/toolbox:1", args: [exit, "5"]}
---
apiVersion: v1
kind: Pod
metadata: {name: too-large, namespace: pods}
spec:
  containers:
  - {name: main, image: "registry.kijabi.dev/toolbox:1", resources: {requests: {cpu: "900"}}}
---
apiVersion: v1
kind: Pod
metadata: {name: nowhere, namespace: pods}
spec:
  nodeSelector: {disk: fast}
  containers:
  - {name: main, image: "registry.kijabi.dev/toolbox:1"}
`

func phase(want corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Status.Phase == want }
}

// testPods looks at what containers see and how they end.
func testPods(t *harness.T, c *cluster) {
	const ns = "pods"
	c.namespace(t, ns)
	c.Apply(t, podsManifest)
	logs := func(args ...string) string {
		t.Helper()
		return c.Kubectl(t, append([]string{"-n", ns, "logs"}, args...)...)
	}
	const limit = 40 * time.Second

	t.Run("VolumesAndEnvironment", func(t *harness.T) {
		pod := c.awaitPod(t, limit, ns, "files", "has succeeded", phase(corev1.PodSucceeded))
		harness.Contains(t, "the second init container's log", logs("files", "-c", "second"), "written by the first")
		harness.Contains(t, "the reader's log", logs("files", "-c", "reader"), "written by the first", "small and fast", "open-sesame")
		harness.Contains(t, "the environment", logs("files", "-c", "environment"),
			"blue\nopen-sesame\nfiles\n"+pod.Status.PodIP+"\n"+pod.Spec.NodeName+"\nblue\nI am files\n33554432\n")
	})
	t.Run("Proxy", func(t *harness.T) {
		c.guestbook(t)
		raw := func(path string) string { return c.Kubectl(t, "get", "--raw", path) }
		raw("/api/v1/namespaces/default/services/guestbook-store/proxy/readyz")
		pod := c.pods(t, "default", "app.kubernetes.io/name=guestbook-store")[0]
		raw("/api/v1/namespaces/default/pods/http:" + pod.Name + ":8080/proxy/readyz")
		node := "/api/v1/nodes/" + pod.Spec.NodeName + "/proxy/"
		harness.Contains(t, "health of the kubelet", raw(node+"healthz"), "ok")
		harness.Contains(t, "pods of the kubelet", raw(node+"pods"), `"kind":"PodList"`, pod.Name)
		harness.Contains(t, "figures of the kubelet", raw(node+"stats/summary"), `"nodeName":"`+pod.Spec.NodeName+`"`, pod.Name)
		harness.Contains(t, "metrics of the kubelet", raw(node+"metrics"), "kubelet_running_pods")
		harness.Contains(t, "metrics of containers", raw(node+"metrics/resource"), "container_memory_working_set_bytes{", "resource_scrape_error 0")
		harness.Contains(t, "configuration of the kubelet", raw(node+"configz"), `"kubeletconfig":{`)
	})
	t.Run("ConfigMapChanges", func(t *harness.T) {
		c.awaitPod(t, limit, ns, "follows", "is Ready", isReady)
		c.Kubectl(t, "-n", ns, "patch", "configmap", "settings", "-p", `{"data":{"color":"green"}}`)
		harness.Eventually(t, 90*time.Second, "the volume has the new color", func() error {
			if color := c.Kubectl(t, "-n", ns, "exec", "follows", "--", "/toolbox", "cat", "/settings/color"); color != "green" {
				return fmt.Errorf("it has %q", color)
			}
			return nil
		})
	})
	t.Run("Succeeds", func(t *harness.T) {
		c.awaitPod(t, limit, ns, "succeeds", "has succeeded", phase(corev1.PodSucceeded))
		harness.Contains(t, "its log", logs("succeeds"), "all done")
		pod := c.awaitPod(t, limit, ns, "fails", "has failed", phase(corev1.PodFailed))
		if s := pod.Status.ContainerStatuses[0]; s.State.Terminated == nil || s.State.Terminated.ExitCode != 5 || s.RestartCount != 0 {
			t.Errorf("fails: %s", describe(pod))
		}
	})
	t.Run("OOMKilled", func(t *harness.T) {
		pod := c.awaitPod(t, limit, ns, "greedy", "has failed", phase(corev1.PodFailed))
		if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
			t.Errorf("greedy: %s", describe(pod))
		}
	})
	t.Run("Liveness", func(t *harness.T) {
		c.awaitPod(t, limit, ns, "not-alive", "is restarted", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
		})
		c.awaitEvent(t, ns, "not-alive", "Unhealthy", "Liveness probe failed")
	})
	t.Run("Readiness", func(t *harness.T) {
		pod := c.awaitPod(t, limit, ns, "becomes-ready", "has started", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Started != nil && *p.Status.ContainerStatuses[0].Started
		})
		if isReady(pod) {
			t.Errorf("it is Ready too early: %s", describe(pod))
		}
		c.awaitEvent(t, ns, "becomes-ready", "Unhealthy", "Readiness probe failed")
		c.Kubectl(t, "-n", ns, "exec", "becomes-ready", "--", "/toolbox", "write", "/tmp/ready", "yes")
		c.awaitPod(t, limit, ns, "becomes-ready", "is Ready", isReady)
	})
	t.Run("BackOff", func(t *harness.T) {
		c.awaitPod(t, limit, ns, "crashes", "backs off after restarts", func(p *corev1.Pod) bool {
			if len(p.Status.ContainerStatuses) != 1 {
				return false
			}
			s := p.Status.ContainerStatuses[0]
			return s.RestartCount >= 1 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" &&
				s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 3
		})
		c.awaitEvent(t, ns, "crashes", "BackOff", "")
		harness.Contains(t, "get pods", c.Kubectl(t, "-n", ns, "get", "pod", "crashes"), "CrashLoopBackOff")
	})
	t.Run("DoesNotFit", func(t *harness.T) {
		for name, why := range map[string]string{"too-large": "Insufficient cpu", "nowhere": "node"} {
			c.awaitPod(t, limit, ns, name, "says why it is not placed", func(p *corev1.Pod) bool {
				for _, condition := range p.Status.Conditions {
					if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
						return condition.Reason == corev1.PodReasonUnschedulable && strings.Contains(condition.Message, why)
					}
				}
				return false
			})
			c.awaitEvent(t, ns, name, "FailedScheduling", why)
		}
		// It is placed as soon as a node suits it.
		c.Kubectl(t, "label", "node", "node-2", "disk=fast")
		t.Cleanup(func() { c.Kubectl(t, "label", "node", "node-2", "disk-") })
		pod := c.awaitPod(t, limit, ns, "nowhere", "is Ready", isReady)
		if pod.Spec.NodeName != "node-2" {
			t.Errorf("it is on %s", pod.Spec.NodeName)
		}
	})
	var token string
	t.Run("Token", func(t *harness.T) {
		const secrets = "/var/run/secrets/kubernetes.io/serviceaccount/"
		ask := []string{"kubectl", "-n", ns, "exec", "follows", "--", "/toolbox", "get",
			"-ca", secrets + "ca.crt", "-bearer", secrets + "token", "https://kubernetes.default.svc/api/v1/namespaces/pods/pods"}
		if got := c.Try(t, ask...); got.Code == 0 || !strings.Contains(got.Stdout+got.Stderr, "system:serviceaccount:pods:default") {
			t.Errorf("a pod reads pods without a right: %s", got)
		}
		c.Kubectl(t, "-n", ns, "create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount="+ns+":default")
		harness.Contains(t, "the list of pods", c.Kijabi(t, ask...), `"kind":"PodList"`)
		token = c.Kubectl(t, "-n", ns, "exec", "follows", "--", "/toolbox", "cat", secrets+"token")
		if _, err := c.clientset(t, "10.97.0.12", token).CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("the token at another master: %v", err)
		}
	})
	t.Run("Deletion", func(t *harness.T) {
		c.Kubectl(t, "-n", ns, "delete", "pods", "--all", "--timeout=45s")
		// A token ends with its pod.
		if _, err := c.clientset(t, "10.97.0.12", token).CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("the token of a pod that is gone: %v", err)
		}
		harness.Eventually(t, 10*time.Second, "no container of theirs runs", func() error {
			var errs []error
			for machine, processes := range processesOf(t) {
				for _, p := range processes {
					if p.program == "toolbox" && !strings.HasPrefix(p.args, "/toolbox sleep") {
						errs = append(errs, fmt.Errorf("%s on %s", p.args, machine))
					}
				}
			}
			return errors.Join(errs...)
		})
	})
}
