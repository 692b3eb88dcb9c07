package nodetest

import (
	"sort"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/kubelet/internal/runtime"
)

func zapLevel() zapcore.Level { return zapcore.WarnLevel }

func TestPodComesUpAndGoes(t *testing.T) {
	c, k := begin(t)
	p := pod("web", "serve")
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}}
	c.create(p)
	up := c.await(t, "web", "ready", ready)
	if up.Status.Phase != corev1.PodRunning || up.Status.PodIP == "" || up.Status.ContainerStatuses[0].State.Running == nil {
		t.Fatalf("status %+v", up.Status)
	}
	c.delete("web", 5)
	c.await(t, "web", "gone", gone)
	deadline := time.Now().Add(10 * time.Second)
	for k.manager.Has(up.UID) {
		if time.Now().After(deadline) {
			t.Fatal("worker does not end")
		}
		time.Sleep(5 * time.Millisecond)
	}
	sandboxes, err := k.runtime.ListSandboxes(t.Context(), string(up.UID))
	if err != nil || len(sandboxes) != 0 {
		t.Fatalf("left: %v %v", sandboxes, err)
	}
}

// TestCreateToReadyAgainstTheFloor prints the time from create to Ready beside that
// of bare runtime calls in the same run. It asserts nothing about time.
func TestCreateToReadyAgainstTheFloor(t *testing.T) {
	c, k := begin(t)
	const rounds = 5
	var ours, floor, deletes []time.Duration
	for i := range rounds {
		name := "probe-" + string(rune('a'+i))
		began := time.Now()
		c.create(pod(name, "serve"))
		c.await(t, name, "ready", ready)
		ours = append(ours, time.Since(began))
		began = time.Now()
		c.delete(name, 5)
		c.await(t, name, "gone", gone)
		deletes = append(deletes, time.Since(began))

		began = time.Now()
		ref := runtime.PodRef{Namespace: "default", Name: name + "-floor", UID: ""}
		spec := runtime.SandboxSpec{Pod: runtime.PodRef{Namespace: "default", Name: name + "-floor", UID: name}, LogDirectory: t.TempDir(), Hostname: "x"}
		sandbox, err := k.runtime.RunSandbox(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		id, err := k.runtime.CreateContainer(t.Context(), sandbox, runtime.ContainerSpec{Pod: ref, Name: "main", Image: testImage, Args: []string{"serve"}, LogPath: "0.log"}, spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.runtime.StartContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		floor = append(floor, time.Since(began))
		if err := k.runtime.StopSandbox(t.Context(), sandbox); err != nil {
			t.Fatal(err)
		}
		if err := k.runtime.RemoveSandbox(t.Context(), sandbox); err != nil {
			t.Fatal(err)
		}
	}
	report := func(what string, times []time.Duration) {
		sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
		t.Logf("%-16s p50 %v, max %v", what, times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
	}
	report("create to ready", ours)
	report("bare runtime", floor)
	report("delete to gone", deletes)
	t.Logf("status writes per pod: %.1f", float64(c.writes)/rounds)
}
