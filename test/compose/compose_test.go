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
)

const (
	guestbook = "http://10.90.0.21:30080/"
	web       = "app.kubernetes.io/name=guestbook"
)

// TestCompose takes one demo from its start through the drills to its end.
func TestCompose(t *testing.T) {
	d := newDemo(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.describe())
		}
		if _, err := d.try(3*time.Minute, "", filepath.Join(d.bin, "kijabi"), "compose", "down"); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	printed := d.kijabi(t, "compose", "up")
	t.Logf("all Ready %s after compose up", time.Since(began).Round(time.Second))
	if want := "KUBECONFIG=" + filepath.Join(d.home, ".kijabi", "kubeconfig"); !strings.Contains(printed, want) {
		t.Errorf("no %s in what compose up prints:\n%s", want, printed)
	}
	d.connect(t)
	d.awaitHealthy(t, time.Minute)
	d.kubectl(t, "apply", "-f", "examples/guestbook")
	eventually(t, time.Minute, "the guestbook answers on this host", func() error {
		page, err := fetch(t.Context(), guestbook)
		if err == nil && !strings.Contains(page, "The Kijabi guestbook") {
			err = fmt.Errorf("its page is %s", page)
		}
		return err
	})
	t.Logf("the guestbook answers %s after compose up", time.Since(began).Round(time.Second))
	for _, step := range []struct {
		name string
		run  func(t *testing.T, d *demo)
	}{
		{"UpAgain", testUpAgain},
		{"LeaderCrash", testLeaderCrash},
		{"KubeletRestart", testKubeletRestart},
		{"ContainerdCrash", testContainerdCrash},
		{"NodeLoss", testNodeLoss},
		{"HealthChecks", testHealthChecks},
		{"Down", testDown},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, d) }) {
			return // the next ones would only tell the same
		}
	}
}

// testUpAgain starts what runs already: nothing of it may notice.
func testUpAgain(t *testing.T, d *demo) {
	before := d.started(t)
	d.kijabi(t, "compose", "up")
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
func testLeaderCrash(t *testing.T, d *demo) {
	leader := d.awaitHealthy(t, time.Minute)
	before := d.started(t)[leader+"-apiserver"]
	l := d.load(t, guestbook)
	eventually(t, 20*time.Second, "writes go on", func() error { return atLeast(l.writes(), 20) })
	d.docker(t, "kill", "--signal", "QUIT", leader+"-apiserver")
	eventually(t, 20*time.Second, "another master leads", func() error {
		s, err := d.status()
		if err == nil && (s.Leader == "" || s.Leader == leader) {
			err = fmt.Errorf("leader %q", s.Leader)
		}
		return err
	})
	d.awaitHealthy(t, time.Minute)
	if after := d.started(t)[leader+"-apiserver"]; after == before {
		t.Errorf("%s-apiserver was not started again: %s", leader, after)
	}
	enough := l.writes() + 20
	eventually(t, 20*time.Second, "writes go on", func() error { return atLeast(l.writes(), enough) })
	l.check(t, d)
}

func atLeast(have, want int) error {
	if have < want {
		return fmt.Errorf("%d of %d", have, want)
	}
	return nil
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
func testKubeletRestart(t *testing.T, d *demo) {
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
	if out := d.kubectl(t, "exec", "first", "--", "/toolbox", "ls", "/memory"); out != "" {
		t.Errorf("the first pod's directory in memory holds %s", out)
	}
}

// secretPod starts a pod whose volumes the kubelet mounts in memory, and reads them.
func (d *demo) secretPod(t *testing.T, name string) {
	t.Helper()
	d.apply(t, fmt.Sprintf(secretPod, name))
	d.kubectl(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	if word := d.kubectl(t, "exec", name, "--", "/toolbox", "cat", "/secret/word"); word != name {
		t.Errorf("the secret in pod %s is %q", name, word)
	}
}

// testContainerdCrash ends the container of a runtime, and with it all pods of the
// machine, which come back.
func testContainerdCrash(t *testing.T, d *demo) {
	before := d.started(t)
	d.docker(t, "kill", "--signal", "QUIT", "node-1-containerd")
	eventually(t, time.Minute, "containerd and kubelet are started again", func() error {
		after := d.started(t)
		for _, name := range []string{"node-1-containerd", "node-1-kubelet"} {
			if before[name] == after[name] {
				return fmt.Errorf("%s runs since %s", name, after[name])
			}
		}
		return nil
	})
	d.awaitHealthy(t, time.Minute)
	eventually(t, time.Minute, "the pods of node-1 run again", func() error {
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
	if word := d.kubectl(t, "exec", "first", "--", "/toolbox", "cat", "/secret/word"); word == "" {
		t.Error("the pod's secret is empty")
	}
	eventually(t, 30*time.Second, "the guestbook answers", func() error {
		_, err := fetch(t.Context(), guestbook)
		return err
	})
}

func ready(pod *corev1.Pod) bool {
	return len(pod.Status.ContainerStatuses) > 0 && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// testNodeLoss kills all containers of a machine: its pods are replaced, and it comes
// back.
func testNodeLoss(t *testing.T, d *demo) {
	// By default a pod may be away for five minutes before it is replaced.
	d.kubectl(t, "patch", "deployment", "guestbook", "--patch", `{"spec":{"template":{"spec":{"tolerations":[
		{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":5},
		{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":5}]}}}}`)
	d.kubectl(t, "rollout", "status", "deployment/guestbook", "--timeout=90s")
	eventually(t, 30*time.Second, "one pod on each node", func() error { return d.readyOn(map[string]int{"node-1": 1, "node-2": 1}) })
	d.docker(t, append([]string{"kill"}, d.running(t, "node-2")...)...)
	killed := time.Now()
	eventually(t, time.Minute, "the pods of the dead node are replaced", func() error { return d.readyOn(map[string]int{"node-1": 2}) })
	t.Logf("the pods of the dead node were replaced after %s", time.Since(killed).Round(time.Second))
	if _, err := fetch(t.Context(), guestbook); err != nil {
		t.Errorf("the guestbook: %v", err)
	}
	d.kijabi(t, "compose", "up")
	d.awaitHealthy(t, time.Minute)
	eventually(t, time.Minute, "the guestbook answers on the node that came back", func() error {
		_, err := fetch(t.Context(), "http://"+machines()["node-2"]+":30080/")
		return err
	})
}

// running lists those containers of a machine that run.
func (d *demo) running(t *testing.T, machine string) []string {
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
func testHealthChecks(t *testing.T, d *demo) {
	eventually(t, 2*time.Minute, "every program is healthy for the engine", func() error {
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
func testDown(t *testing.T, d *demo) {
	d.kijabi(t, "compose", "down")
	if left := d.leftovers(t); left != "" {
		t.Errorf("left after compose down:\n%s", left)
	}
	if _, err := os.Stat(filepath.Join(d.home, ".kijabi")); !os.IsNotExist(err) {
		t.Errorf("the user's access is left: %v", err)
	}
}
