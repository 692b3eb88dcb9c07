package nodetest

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/runtime"
)

func refOf(pod *corev1.Pod) runtime.PodRef { return podspec.Ref(pod) }

func containerOf(t *testing.T, k *kubelet, pod *corev1.Pod) runtime.Container {
	t.Helper()
	list, err := k.runtime.ListContainers(t.Context(), string(pod.UID))
	if err != nil || len(list) != 1 {
		t.Fatalf("containers of %s: %v %v", pod.Name, list, err)
	}
	full, err := k.runtime.Container(t.Context(), list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return full
}

// TestRestartLeavesPodsAlone covers promises I8 and I9: containers keep running, pods stay
// Ready, and nothing is stopped while masters are silent.
func TestRestartLeavesPodsAlone(t *testing.T) {
	c := newCluster()
	directory := dataDirectory(t)
	k := start(t, c, directory)
	k.manager.Confirm()
	p := pod("stay", "serve")
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1,
	}
	c.create(p)
	c.create(pod("forgotten", "serve"))
	stay := c.await(t, "stay", "ready", ready)
	forgotten := c.await(t, "forgotten", "ready", ready)
	before, lost := containerOf(t, k, stay), containerOf(t, k, forgotten)
	k.stop()

	c.mu.Lock()
	delete(c.pods, "forgotten") // deleted while no kubelet ran, or missing from a snapshot
	writes := c.writes
	c.mu.Unlock()
	k = start(t, c, directory)
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if !ready(c.get("stay")) {
			t.Fatal("a restart made the pod unready")
		}
	}
	after := containerOf(t, k, stay)
	if after.ID != before.ID || !after.StartedAt.Equal(before.StartedAt) || after.State != runtime.Running {
		t.Fatalf("container changed: %+v, was %+v", after, before)
	}
	if now := containerOf(t, k, forgotten); now.ID != lost.ID || now.State != runtime.Running {
		t.Fatal("an unknown pod was stopped although no master had confirmed the list")
	}
	c.mu.Lock()
	if c.writes != writes {
		t.Errorf("a restart wrote %d statuses that say nothing new", c.writes-writes)
	}
	c.mu.Unlock()
	k.manager.Confirm()
	for deadline := time.Now().Add(20 * time.Second); k.manager.Has(forgotten.UID); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the unknown pod is still here after a master confirmed the list")
		}
	}
	// A crash while masters are away is mended without them.
	if err := k.runtime.StopContainer(t.Context(), before.ID, 0); err != nil {
		t.Fatal(err)
	}
	c.await(t, "stay", "restarted", func(p *corev1.Pod) bool { return main(p).RestartCount == 1 && ready(p) })
	c.delete("stay", 1)
	c.await(t, "stay", "gone", gone)
}

// TestNameIsReused covers B15: the former holder of a name ends before the next one starts.
func TestNameIsReused(t *testing.T) {
	c, k := begin(t)
	c.create(pod("twin", "stubborn"))
	first := c.await(t, "twin", "ready", ready)
	c.delete("twin", 0) // forced: the object goes at once, the containers are still here
	c.create(pod("twin", "serve"))
	second := c.await(t, "twin", "ready", func(p *corev1.Pod) bool { return ready(p) && p.UID != first.UID })
	if list, err := k.runtime.ListContainers(t.Context(), string(first.UID)); err != nil || len(list) > 0 {
		t.Fatalf("first pod's containers beside the second's: %v %v", list, err)
	}
	if second.Status.PodIP == "" {
		t.Fatal("no address")
	}
}

// TestContainerdRestart covers F17.
func TestContainerdRestart(t *testing.T) {
	c, k := begin(t)
	c.create(pod("steady", "serve"))
	p := c.await(t, "steady", "ready", ready)
	before := containerOf(t, k, p)
	d := containerd(t)
	if err := d.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.command.Wait() // killed
	if err := d.start(bin(t)); err != nil {
		t.Fatal(err)
	}
	c.create(pod("next", "serve"))
	c.await(t, "next", "ready", ready)
	if after := containerOf(t, k, p); after.ID != before.ID || after.State != runtime.Running || !ready(c.get("steady")) {
		t.Fatalf("container changed: %+v", after)
	}
}
