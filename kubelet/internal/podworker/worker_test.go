package podworker_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/runtime"
)

func TestUpAndDown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.set(func(*corev1.Pod) {})
		w.after(time.Millisecond) // no waiting on the way up
		if s := w.status(); s.Phase != corev1.PodRunning || !s.ContainerStatuses[0].Ready {
			t.Fatalf("status %+v", s)
		}
		w.terminate(30)
		w.after(time.Millisecond)
		if !w.gone() || w.manager.Has("uid") {
			t.Fatal("still here")
		}
		want := []string{"run sandbox p", "create main", "start main", "stop main", "stop sandbox", "remove sandbox p"}
		if calls := w.runtime.Calls(); !slices.Equal(calls, want) {
			t.Fatalf("calls %q, want %q", calls, want)
		}
	})
}

// A pod that somebody holds by a finalizer stops, says how it ended and waits; nothing is asked
// again and again, and nothing of it is left on the machine once it may go.
func TestFinalizerHoldsPod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.set(func(pod *corev1.Pod) { pod.Finalizers = []string{"batch.kubernetes.io/job-tracking"} })
		w.after(time.Millisecond)
		w.terminate(30)
		w.after(time.Hour)
		if s := w.status(); w.gone() || s.Phase != corev1.PodFailed && s.Phase != corev1.PodSucceeded || w.confirmed != 1 {
			t.Fatalf("gone %v, confirmed %d times, status %+v", w.gone(), w.confirmed, s)
		}
		w.set(func(pod *corev1.Pod) { pod.Finalizers = nil })
		w.mu.Lock()
		w.remove()
		w.mu.Unlock()
		w.after(time.Millisecond)
		if w.manager.Has("uid") {
			t.Fatal("still here")
		}
	})
}

func TestBackOffDoublesAndIsForgotten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.runtime.Behave(func(runtime.ContainerSpec) (int32, bool) { return 1, true })
		began := time.Now()
		w.set(func(*corev1.Pod) {})
		var starts []time.Duration
		for len(starts) < 9 {
			w.after(100 * time.Millisecond)
			for range int(w.newest("main").Attempt) + 1 - len(starts) {
				starts = append(starts, time.Since(began).Round(time.Second))
			}
		}
		for i, wait := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
			if got := starts[i+1] - starts[i]; got != wait*time.Second {
				t.Fatalf("restart %d came after %v, want %v s (%v)", i+1, got, wait, starts)
			}
		}
		if s := w.status().ContainerStatuses[0]; s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || s.RestartCount < 8 {
			t.Fatalf("status %+v", s)
		}
		w.runtime.Behave(func(runtime.ContainerSpec) (int32, bool) { return 0, false })
		w.after(5 * time.Minute)
		w.after(11 * time.Minute) // a long run
		before := w.newest("main")
		w.runtime.Exit(before.ID, 1)
		w.after(time.Second)
		if now := w.newest("main"); now.Attempt != before.Attempt+1 || now.State != runtime.Running {
			t.Fatalf("not restarted at once after a long run: %+v", now)
		}
	})
}

func TestInitContainersComeInOrder(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		sidecarUp := false
		w.mu.Lock()
		w.probing = func(name string) probes.Result {
			return probes.Result{Started: name != "sidecar" || sidecarUp, Ready: true}
		}
		w.mu.Unlock()
		w.runtime.Behave(func(spec runtime.ContainerSpec) (int32, bool) {
			return 0, strings.HasPrefix(spec.Name, "init")
		})
		w.set(func(pod *corev1.Pod) {
			pod.Spec.InitContainers = []corev1.Container{
				{Name: "init-1", Image: "image"}, {Name: "sidecar", Image: "image", RestartPolicy: &always}, {Name: "init-2", Image: "image"},
			}
		})
		w.after(time.Second)
		if s := w.status(); s.Phase != corev1.PodPending || w.newest("init-2").ID != "" {
			t.Fatal("went on before the sidecar had started")
		}
		w.mu.Lock()
		sidecarUp = true
		w.mu.Unlock()
		w.manager.Trigger("uid")
		w.after(time.Second)
		if s := w.status(); s.Phase != corev1.PodRunning {
			t.Fatalf("phase %s", s.Phase)
		}
		w.terminate(30)
		w.after(time.Second)
		var order []string
		for _, call := range w.runtime.Calls() {
			if name, ok := strings.CutPrefix(call, "start "); ok {
				order = append(order, "+"+name)
			}
			if name, ok := strings.CutPrefix(call, "stop "); ok && name != "sandbox" {
				order = append(order, "-"+name)
			}
		}
		if want := []string{"+init-1", "+sidecar", "+init-2", "+main", "-main", "-sidecar"}; !slices.Equal(order, want) {
			t.Fatalf("order %q, want %q", order, want)
		}
	})
}

func TestMastersAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.set(func(*corev1.Pod) {})
		w.after(time.Second)
		w.mu.Lock()
		w.away = true
		w.mu.Unlock()
		w.runtime.Exit(w.newest("main").ID, 1)
		w.after(time.Minute)
		if c := w.newest("main"); c.State != runtime.Running || c.Attempt != 1 {
			t.Fatalf("a crash was not mended: %+v", c)
		}
		w.mu.Lock()
		w.away = false
		w.mu.Unlock()
		w.after(10 * time.Second)
		if s := w.status().ContainerStatuses[0]; s.RestartCount != 1 || !s.Ready {
			t.Fatalf("the masters were not told: %+v", s)
		}
	})
}

func TestIdentityWaitsForAMaster(t *testing.T) {
	yes := true
	inWorld(t, func(w *world) {
		w.set(func(pod *corev1.Pod) {
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", Controller: &yes}}
		})
		w.after(time.Minute)
		if len(w.runtime.Calls()) > 0 {
			t.Fatalf("an identity was started from a snapshot: %q", w.runtime.Calls())
		}
		w.manager.Confirm()
		w.after(time.Second)
		if s := w.status(); s.Phase != corev1.PodRunning {
			t.Fatalf("phase %s after %q", s.Phase, w.runtime.Calls())
		}
	})
}

func TestLostSandboxIsReplaced(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.set(func(*corev1.Pod) {})
		w.after(time.Second)
		before := w.newest("main")
		w.runtime.LoseSandbox(before.SandboxID)
		w.after(11 * time.Second)
		now := w.newest("main")
		if now.State != runtime.Running || now.SandboxID == before.SandboxID || now.Attempt != 1 {
			t.Fatalf("container %+v", now)
		}
		if s := w.status(); s.Phase != corev1.PodRunning || s.ContainerStatuses[0].RestartCount != 1 {
			t.Fatalf("status %+v", s)
		}
	})
}

func TestDeadline(t *testing.T) {
	limit := int64(60)
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.set(func(pod *corev1.Pod) { pod.Spec.ActiveDeadlineSeconds = &limit })
		w.after(50 * time.Second)
		if s := w.status(); s.Phase != corev1.PodRunning {
			t.Fatalf("phase %s before the deadline", s.Phase)
		}
		w.after(15 * time.Second)
		if s := w.status(); s.Phase != corev1.PodFailed || s.Reason != "DeadlineExceeded" {
			t.Fatalf("phase %s, reason %s", s.Phase, s.Reason)
		}
		if c := w.newest("main"); c.State != runtime.Exited {
			t.Fatalf("container %+v", c)
		}
	})
}

func TestFailedLivenessRestarts(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.set(func(*corev1.Pod) {})
		w.after(time.Second)
		first := w.newest("main").ID
		w.mu.Lock()
		w.probing = func(string) probes.Result {
			return probes.Result{Started: true, Ready: true, Failed: w.newest("main").ID == first}
		}
		w.mu.Unlock()
		w.manager.Trigger("uid")
		w.after(time.Second)
		if c := w.newest("main"); c.ID == first || c.State != runtime.Running {
			t.Fatalf("container %+v", c)
		}
	})
}

func TestEphemeralContainersRunOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		var mu sync.Mutex
		targets := map[string]string{}
		w.runtime.Behave(func(spec runtime.ContainerSpec) (int32, bool) {
			mu.Lock()
			defer mu.Unlock()
			targets[spec.Name] = spec.Security.TargetID
			return 7, spec.Name == "short"
		})
		w.set(func(*corev1.Pod) {})
		w.after(time.Millisecond)
		w.set(func(pod *corev1.Pod) {
			pod.Generation++
			for _, name := range []string{"short", "long"} {
				pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
					EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "image"},
					TargetContainerName:      map[string]string{"long": "main"}[name],
				})
			}
		})
		w.after(time.Minute)
		s := w.status()
		if s.Phase != corev1.PodRunning || !s.ContainerStatuses[0].Ready {
			t.Fatalf("a debugging container changed its pod: %+v", s)
		}
		if len(s.EphemeralContainerStatuses) != 2 {
			t.Fatalf("ephemeral statuses %+v", s.EphemeralContainerStatuses)
		}
		short, long := s.EphemeralContainerStatuses[0], s.EphemeralContainerStatuses[1]
		if short.State.Terminated == nil || short.State.Terminated.ExitCode != 7 || short.RestartCount != 0 {
			t.Fatalf("the one that ended: %+v", short)
		}
		if long.State.Running == nil {
			t.Fatalf("the one that runs: %+v", long)
		}
		mu.Lock()
		if targets["short"] != "" || targets["long"] != w.newest("main").ID {
			t.Fatalf("targets %v", targets)
		}
		mu.Unlock()
		// What is debugged ends without regard to them.
		w.terminate(30)
		w.after(time.Millisecond)
		if !w.gone() {
			t.Fatal("still here")
		}
	})
}

func TestRestartInPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		pod := w.set(func(*corev1.Pod) {})
		w.after(time.Second)
		first := w.newest("main")
		restart := func(name, id string) {
			t.Helper()
			if !w.manager.Restart(pod, map[string]string{name: id}, "alice") {
				t.Fatal("the pod is not known")
			}
			w.after(time.Millisecond)
		}
		// Any number of times, and never a wait: nothing crashed.
		for attempt := uint32(1); attempt < 5; attempt++ {
			restart("main", w.newest("main").ID)
			if now := w.newest("main"); now.State != runtime.Running || now.Attempt != attempt || now.SandboxID != first.SandboxID {
				t.Fatalf("container %+v", now)
			}
		}
		w.after(time.Second)
		if s := w.status().ContainerStatuses[0]; s.RestartCount != 4 || s.LastTerminationState.Terminated == nil || !s.Ready {
			t.Fatalf("status %+v", s)
		}
		restart("main", first.ID) // it ended long ago
		if now := w.newest("main"); now.Attempt != 4 {
			t.Fatalf("one that was replaced before was restarted again: %+v", now)
		}
		w.mu.Lock()
		events := strings.Join(w.events, "\n")
		w.mu.Unlock()
		for _, want := range []string{
			"main Restarting: Container main is restarted in place, as alice asked", "main Killing: Container main will be restarted in place, as was asked",
		} {
			if !strings.Contains(events, want) {
				t.Errorf("events lack %q: %s", want, events)
			}
		}

		// One that waits after crashes is started at once.
		w.runtime.Behave(func(runtime.ContainerSpec) (int32, bool) { return 1, true })
		w.runtime.Exit(w.newest("main").ID, 1)
		w.after(time.Minute)
		waits := w.newest("main")
		if s := w.status().ContainerStatuses[0]; s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" {
			t.Fatalf("status %+v", s)
		}
		w.runtime.Behave(func(runtime.ContainerSpec) (int32, bool) { return 0, false })
		restart("main", waits.ID)
		if now := w.newest("main"); now.State != runtime.Running || now.Attempt != waits.Attempt+1 {
			t.Fatalf("container %+v", now)
		}
	})
}

func TestVolumesThatCannotBeMade(t *testing.T) {
	inWorld(t, func(w *world) {
		w.manager.Confirm()
		w.mu.Lock()
		w.broken = errors.New(`volume "v" : PVC is not bound`)
		w.mu.Unlock()
		w.set(func(*corev1.Pod) {})
		w.after(time.Minute)
		const want = `MountVolume.SetUp failed for volume "v" : PVC is not bound`
		if s := w.status().ContainerStatuses[0]; s.State.Waiting == nil || s.State.Waiting.Reason != "ContainerCreating" || s.State.Waiting.Message != want {
			t.Fatalf("status %+v", s)
		}
		w.mu.Lock()
		if !slices.Contains(w.events, " FailedMount: "+want) {
			t.Errorf("events %q", w.events)
		}
		w.broken = nil
		w.mu.Unlock()
		w.manager.Refresh("uid") // the claim was bound
		w.after(time.Millisecond)
		if s := w.status(); s.Phase != corev1.PodRunning {
			t.Fatalf("phase %s", s.Phase)
		}
	})
}
