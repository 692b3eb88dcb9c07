package runtimetest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/platform/lifecycle"
)

// Run checks a runtime against the contract of runtime.Runtime. image is one that
// it has and that runs, with the given arguments, until it is told to stop.
func Run(t *testing.T, r runtime.Runtime, image string, arguments []string) {
	t.Helper()
	pod := runtime.PodRef{Namespace: "suite", Name: "pod", UID: "suite-uid"}
	labels := map[string]string{
		runtime.LabelPodNamespace: pod.Namespace, runtime.LabelPodName: pod.Name, runtime.LabelPodUID: pod.UID,
	}
	sandbox := runtime.SandboxSpec{
		Pod: pod, Hostname: "suite", LogDirectory: t.TempDir(), Labels: labels, Annotations: map[string]string{"kept": "yes"},
	}
	spec := runtime.ContainerSpec{
		Pod: pod, Name: "main", Attempt: 3, Image: image, Args: arguments, Labels: labels,
		Annotations: map[string]string{"hash": "x"}, LogPath: "main.log",
	}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	events := make(chan runtime.Event, 100)
	opened := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	group := lifecycle.NewGroup(watching)
	group.Go(func(ctx context.Context) error {
		return r.Events(ctx, func() { close(opened) }, func(event runtime.Event) { events <- event })
	})
	<-opened
	heard := func(what, id string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case event := <-events:
				if event.Pod.UID == pod.UID && event.ContainerID == id {
					return
				}
			case <-deadline:
				t.Fatalf("no event about %s", what)
			}
		}
	}

	status, err := r.Status(ctx)
	must(err)
	if !status.Ready || !status.NetworkReady || status.Name == "" || status.Version == "" {
		t.Fatalf("status %+v", status)
	}

	sandboxID, err := r.RunSandbox(ctx, sandbox)
	must(err)
	if _, err := r.RunSandbox(ctx, sandbox); !errors.Is(err, runtime.ErrInUse) {
		t.Fatalf("second sandbox of one attempt: %v, want ErrInUse", err)
	}
	full, err := r.Sandbox(ctx, sandboxID)
	must(err)
	if !full.Ready || full.Pod != pod || len(full.IPs) == 0 || full.Annotations["kept"] != "yes" {
		t.Fatalf("sandbox %+v", full)
	}
	list, err := r.ListSandboxes(ctx, pod.UID)
	must(err)
	if len(list) != 1 || list[0].ID != sandboxID || list[0].Pod != pod {
		t.Fatalf("sandboxes %+v", list)
	}
	if list, err = r.ListSandboxes(ctx, "nobody"); err != nil || len(list) != 0 {
		t.Fatalf("sandboxes of nobody: %v %v", list, err)
	}

	id, err := r.CreateContainer(ctx, sandboxID, spec, sandbox)
	must(err)
	if _, err := r.CreateContainer(ctx, sandboxID, spec, sandbox); !errors.Is(err, runtime.ErrInUse) {
		t.Fatalf("second container of one attempt: %v, want ErrInUse", err)
	}
	state := func(want runtime.State) runtime.Container {
		t.Helper()
		c, err := r.Container(ctx, id)
		must(err)
		if c.State != want || c.Name != "main" || c.Attempt != 3 || c.Pod != pod || c.Annotations["hash"] != "x" {
			t.Fatalf("container %+v, want it %s", c, want)
		}
		return c
	}
	state(runtime.Created)
	must(r.StartContainer(ctx, id))
	heard("the start", id)
	if c := state(runtime.Running); c.StartedAt.IsZero() || c.ImageID == "" || filepath.Base(c.LogPath) != "main.log" {
		t.Fatalf("running container %+v", c)
	}
	containers, err := r.ListContainers(ctx, pod.UID)
	must(err)
	if len(containers) != 1 || containers[0].ID != id || containers[0].SandboxID != sandboxID || containers[0].State != runtime.Running {
		t.Fatalf("containers %+v", containers)
	}
	for range 2 { // idempotent
		must(r.StopContainer(ctx, id, time.Second))
	}
	heard("the end", id)
	if c := state(runtime.Exited); c.FinishedAt.Before(c.StartedAt) || c.Reason == "" {
		t.Fatalf("ended container %+v", c)
	}
	must(r.RemoveContainer(ctx, id))
	must(r.RemoveContainer(ctx, id))
	if _, err := r.Container(ctx, id); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("removed container: %v, want ErrNotFound", err)
	}

	// Stopping a sandbox ends its containers, removing it removes them.
	id, err = r.CreateContainer(ctx, sandboxID, spec, sandbox)
	must(err)
	must(r.StartContainer(ctx, id))
	for range 2 {
		must(r.StopSandbox(ctx, sandboxID))
	}
	state(runtime.Exited)
	if full, err = r.Sandbox(ctx, sandboxID); err != nil || full.Ready {
		t.Fatalf("stopped sandbox %+v %v", full, err)
	}
	for range 2 {
		must(r.RemoveSandbox(ctx, sandboxID))
	}
	if containers, err = r.ListContainers(ctx, pod.UID); err != nil || len(containers) != 0 {
		t.Fatalf("containers of a removed sandbox: %v %v", containers, err)
	}
	if _, err := r.Sandbox(ctx, sandboxID); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("removed sandbox: %v, want ErrNotFound", err)
	}

	if found, err := r.Image(ctx, image); err != nil || found.ID == "" {
		t.Fatalf("image %+v %v", found, err)
	}
	if _, err := r.Image(ctx, "registry.kijabi.dev/none:none"); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("absent image: %v, want ErrNotFound", err)
	}
	stop()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}
