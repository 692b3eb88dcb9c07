package compose

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

const (
	guestbook = "http://10.90.0.21:30080/"
	web       = "app.kubernetes.io/name=guestbook"
)

// TestCompose takes one demo from its start through the drills to its end.
func TestCompose(tt *testing.T) {
	t := harness.Begin(tt)
	d := newDemo(t)
	t.Cleanup(func() {
		if result := d.Try(t, "compose", "down"); result.Code != 0 {
			t.Error(result)
		}
	})
	d.describe(t)
	began := time.Now()
	printed := d.Kijabi(t, "compose", "up")
	t.Logf("all Ready %s after compose up", time.Since(began).Round(time.Second))
	if want := "KUBECONFIG=" + d.Kubeconfig(); !strings.Contains(printed, want) {
		t.Errorf("no %s in what compose up prints:\n%s", want, printed)
	}
	d.connect(t)
	d.awaitHealthy(t, time.Minute)
	d.Kubectl(t, "apply", "-f", "examples/guestbook")
	harness.Eventually(t, time.Minute, "the guestbook answers on this host", func() error {
		page, err := harness.Fetch(t.Context(), guestbook)
		if err == nil && !strings.Contains(page, "The Kijabi guestbook") {
			err = fmt.Errorf("its page is %s", page)
		}
		return err
	})
	t.Logf("the guestbook answers %s after compose up", time.Since(began).Round(time.Second))
	for _, step := range []struct {
		name string
		run  func(t *harness.T, d *demo)
	}{
		{"UpAgain", testUpAgain},
		{"LeaderCrash", testLeaderCrash},
		{"KubeletRestart", testKubeletRestart},
		{"ContainerdCrash", testContainerdCrash},
		{"NodeLoss", testNodeLoss},
		{"HealthChecks", testHealthChecks},
		{"Down", testDown},
	} {
		if !t.Run(step.name, func(t *harness.T) { step.run(t, d) }) {
			return // the next ones would only tell the same
		}
	}
}

// testUpAgain starts what runs already: nothing of it may notice.
func testUpAgain(t *harness.T, d *demo) {
	before := d.started(t)
	d.Kijabi(t, "compose", "up")
	after := d.started(t)
	for name, when := range before {
		if !strings.HasSuffix(name, "-setup") && after[name] != when {
			t.Errorf("%s was started again: %s, before %s", name, after[name], when)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d containers, %d before", len(after), len(before))
	}
}

// testLeaderCrash crashes the apiserver of the master that leads, under load.
func testLeaderCrash(t *harness.T, d *demo) {
	leader := d.awaitHealthy(t, time.Minute)
	before := d.started(t)[leader+"-apiserver"]
	p, w := harness.Probe(t, guestbook), d.write(t)
	w.Await(t, 20)
	d.docker(t, "kill", "--signal", "QUIT", leader+"-apiserver")
	harness.Eventually(t, 20*time.Second, "another master leads", func() error {
		s, err := d.Status(t)
		if err == nil && (s.Leader == "" || s.Leader == leader) {
			err = fmt.Errorf("leader %q", s.Leader)
		}
		return err
	})
	d.awaitHealthy(t, time.Minute)
	if after := d.started(t)[leader+"-apiserver"]; after == before {
		t.Errorf("%s-apiserver was not started again: %s", leader, after)
	}
	w.Await(t, 20)
	p.Await(t, 20)
	p.MustNotHaveFailed(t)
	w.MustBeThere(t, 20, func() ([]*corev1.ConfigMap, error) {
		page, err := client.List[*corev1.ConfigMap](t.Context(), d.api, client.ListOptions{Namespace: "default"})
		return page.Items, err
	})
}

const secretPod = `
apiVersion: v1
kind: Secret
metadata: {name: word, namespace: default}
stringData: {word: %[1]s}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: default}
spec:
  nodeSelector: {kubernetes.io/hostname: node-1}
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: word, secret: {secretName: word}}
  - {name: memory, emptyDir: {medium: Memory}}
  containers:
  - name: toolbox
    image: registry.kijabi.dev/toolbox:1
    volumeMounts:
    - {name: word, mountPath: /secret}
    - {name: memory, mountPath: /memory}
`

// testKubeletRestart restarts a kubelet: pods do not notice, and what the new one mounts
// reaches containers.
func testKubeletRestart(t *harness.T, d *demo) {
	d.secretPod(t, "first")
	before := d.processes(t, "node-1")
	if len(before) < 4 {
		t.Fatalf("too few processes to tell: %v", before)
	}
	d.docker(t, "restart", "node-1-kubelet")
	d.awaitHealthy(t, time.Minute)
	if after := d.processes(t, "node-1"); !slices.Equal(before, after) {
		t.Errorf("processes of node-1 before the restart of its kubelet:\n%s\nafter:\n%s",
			strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	d.secretPod(t, "second")
	if out := strings.TrimSpace(d.Kubectl(t, "exec", "first", "--", "/toolbox", "ls", "/memory")); out != "" {
		t.Errorf("the first pod's directory in memory holds %s", out)
	}
}

// secretPod starts a pod whose volumes the kubelet mounts in memory, and reads them.
func (d *demo) secretPod(t *harness.T, name string) {
	t.Helper()
	d.Apply(t, fmt.Sprintf(secretPod, name))
	d.Kubectl(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	if word := strings.TrimSpace(d.Kubectl(t, "exec", name, "--", "/toolbox", "cat", "/secret/word")); word != name {
		t.Errorf("the secret in pod %s is %q", name, word)
	}
}

// testContainerdCrash ends the container of a runtime, and with it all pods of the
// machine, which come back.
func testContainerdCrash(t *harness.T, d *demo) {
	before := d.started(t)
	d.docker(t, "kill", "--signal", "QUIT", "node-1-containerd")
	harness.Eventually(t, time.Minute, "containerd and kubelet are started again", func() error {
		after := d.started(t)
		for _, name := range []string{"node-1-containerd", "node-1-kubelet"} {
			if before[name] == after[name] {
				return fmt.Errorf("%s runs since %s", name, after[name])
			}
		}
		return nil
	})
	d.awaitHealthy(t, time.Minute)
	harness.Eventually(t, time.Minute, "the pods of node-1 run again", func() error {
		page, err := client.List[*corev1.Pod](t.Context(), d.api, client.ListOptions{Namespace: "default"})
		if err != nil {
			return err
		}
		for _, pod := range page.Items {
			if pod.Spec.NodeName != "node-1" {
				continue
			}
			if !ready(pod) || pod.Status.ContainerStatuses[0].RestartCount == 0 {
				return fmt.Errorf("pod %s: %+v", pod.Name, pod.Status.ContainerStatuses)
			}
		}
		return nil
	})
	if word := strings.TrimSpace(d.Kubectl(t, "exec", "first", "--", "/toolbox", "cat", "/secret/word")); word == "" {
		t.Error("the pod's secret is empty")
	}
	harness.Eventually(t, 30*time.Second, "the guestbook answers", func() error {
		_, err := harness.Fetch(t.Context(), guestbook)
		return err
	})
}

func ready(pod *corev1.Pod) bool {
	return len(pod.Status.ContainerStatuses) > 0 && harness.PodReady(pod) == corev1.ConditionTrue
}

// testNodeLoss kills all containers of a machine: its pods are replaced, and it comes
// back.
func testNodeLoss(t *harness.T, d *demo) {
	// By default a pod may be away for five minutes before it is replaced.
	d.Kubectl(t, "patch", "deployment", "guestbook", "--patch", `{"spec":{"template":{"spec":{"tolerations":[
		{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":5},
		{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":5}]}}}}`)
	d.Kubectl(t, "rollout", "status", "deployment/guestbook", "--timeout=90s")
	harness.Eventually(t, 30*time.Second, "one pod on each node", func() error { return d.readyOn(map[string]int{"node-1": 1, "node-2": 1}) })
	d.docker(t, append([]string{"kill"}, d.running(t, "node-2")...)...)
	killed := time.Now()
	harness.Eventually(t, time.Minute, "the pods of the dead node are replaced", func() error { return d.readyOn(map[string]int{"node-1": 2}) })
	t.Logf("the pods of the dead node were replaced after %s", time.Since(killed).Round(time.Second))
	if _, err := harness.Fetch(t.Context(), guestbook); err != nil {
		t.Errorf("the guestbook: %v", err)
	}
	d.Kijabi(t, "compose", "up")
	d.awaitHealthy(t, time.Minute)
	harness.Eventually(t, time.Minute, "the guestbook answers on the node that came back", func() error {
		_, err := harness.Fetch(t.Context(), "http://"+machines()["node-2"]+":30080/")
		return err
	})
}

// running lists those containers of a machine that run.
func (d *demo) running(t *harness.T, machine string) []string {
	t.Helper()
	return strings.Fields(d.docker(t, "ps", "--quiet", "--filter", project, "--filter", "label=dev.kijabi.machine="+machine))
}

// readyOn returns nil if the Ready pods of the guestbook are spread over the nodes like
// that.
func (d *demo) readyOn(want map[string]int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	page, err := client.List[*corev1.Pod](ctx, d.api, client.ListOptions{Namespace: "default", LabelSelector: web})
	if err != nil {
		return err
	}
	on := map[string]int{}
	for _, pod := range page.Items {
		if ready(pod) && pod.DeletionTimestamp == nil {
			on[pod.Spec.NodeName]++
		}
	}
	if !maps.Equal(on, want) {
		return fmt.Errorf("Ready pods by node: %v, want %v", on, want)
	}
	return nil
}

// testHealthChecks waits until the engine has found every program healthy.
func testHealthChecks(t *harness.T, d *demo) {
	harness.Eventually(t, 2*time.Minute, "every program is healthy for the engine", func() error {
		for line := range strings.Lines(d.docker(t, "ps", "--filter", project, "--format", "{{.Names}} {{.Status}}")) {
			name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
			if _, holder := machines()[name]; !holder && !strings.Contains(state, "(healthy)") {
				return fmt.Errorf("%s is %s", name, state)
			}
		}
		return nil
	})
}

// testDown removes the demo: nothing of it may be left.
func testDown(t *harness.T, d *demo) {
	d.Kijabi(t, "compose", "down")
	if left := d.leftovers(t); left != "" {
		t.Errorf("left after compose down:\n%s", left)
	}
	if _, err := os.Stat(filepath.Join(d.Home, ".kijabi")); !os.IsNotExist(err) {
		t.Errorf("the user's access is left: %v", err)
	}
}
