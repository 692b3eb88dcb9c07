// Package runtimetest holds a container runtime in memory, for fast tests, and the
// suite that it and the real one pass, so that the fake cannot drift.
package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"kijabi.dev/kubelet/internal/runtime"
)

// Fake is a runtime in memory. Its containers run until they are stopped, or as
// Behave says. Safe for concurrent use.
type Fake struct {
	mu         sync.Mutex
	next       int
	sandboxes  map[string]*runtime.Sandbox
	containers map[string]*fakeContainer
	images     map[string]runtime.Image
	watchers   map[int]func(runtime.Event)
	behave     func(runtime.ContainerSpec) (exitCode int32, exits bool)
	calls      []string
}

type fakeContainer struct {
	runtime.Container
	spec runtime.ContainerSpec
}

var _ runtime.Runtime = (*Fake)(nil)

// NewFake returns a runtime that has the named images.
func NewFake(images ...string) *Fake {
	f := &Fake{
		sandboxes: map[string]*runtime.Sandbox{}, containers: map[string]*fakeContainer{},
		images: map[string]runtime.Image{}, watchers: map[int]func(runtime.Event){},
		behave: func(runtime.ContainerSpec) (int32, bool) { return 0, false },
	}
	for _, name := range images {
		f.images[name] = runtime.Image{ID: "sha256:" + name, Names: []string{name}, Size: 1}
	}
	return f
}

// Behave decides, when a container starts, whether and how it exits at once.
func (f *Fake) Behave(behave func(runtime.ContainerSpec) (exitCode int32, exits bool)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behave = behave
}

// Exit ends a running container as if by itself.
func (f *Fake) Exit(id string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil {
		f.exit(c, code)
	}
}

// LoseSandbox makes a sandbox not ready, as a reboot does.
func (f *Fake) LoseSandbox(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopSandbox(id)
}

// Calls returns the names of changing calls so far, in order.
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *Fake) id(prefix string) string {
	f.next++
	return fmt.Sprintf("%s-%d", prefix, f.next)
}

func notFound(what, id string) error { return fmt.Errorf("%s %s: %w", what, id, runtime.ErrNotFound) }

// tell is called with mu held; watchers must not call back.
func (f *Fake) tell(pod runtime.PodRef, container, sandbox string) {
	for _, watcher := range f.watchers {
		watcher(runtime.Event{Pod: pod, ContainerID: container, SandboxID: sandbox})
	}
}

// RunSandbox implements runtime.Sandboxes.
func (f *Fake) RunSandbox(ctx context.Context, spec runtime.SandboxSpec) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sandboxes {
		if s.Pod == spec.Pod && s.Attempt == spec.Attempt {
			return "", fmt.Errorf("run sandbox: %w", runtime.ErrInUse)
		}
	}
	f.calls = append(f.calls, "run sandbox "+spec.Pod.Name)
	s := &runtime.Sandbox{
		ID: f.id("sandbox"), Pod: spec.Pod, Attempt: spec.Attempt, Ready: true, CreatedAt: time.Now(),
		Labels: maps.Clone(spec.Labels), Annotations: maps.Clone(spec.Annotations),
	}
	if !spec.Security.HostNetwork {
		s.IPs = []string{fmt.Sprintf("10.0.%d.%d", f.next/250, f.next%250+2)}
	}
	f.sandboxes[s.ID] = s
	f.tell(s.Pod, s.ID, s.ID)
	return s.ID, nil
}

// StopSandbox implements runtime.Sandboxes.
func (f *Fake) StopSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "stop sandbox")
	f.stopSandbox(id)
	return nil
}

func (f *Fake) stopSandbox(id string) {
	s := f.sandboxes[id]
	if s == nil {
		return
	}
	s.Ready = false
	for _, c := range f.containers {
		if c.SandboxID == id && c.State == runtime.Running {
			f.exit(c, 137)
		}
	}
	f.tell(s.Pod, id, id)
}

// RemoveSandbox implements runtime.Sandboxes.
func (f *Fake) RemoveSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[id]
	if s == nil {
		return nil
	}
	f.calls = append(f.calls, "remove sandbox "+s.Pod.Name)
	for key, c := range f.containers {
		if c.SandboxID == id {
			delete(f.containers, key)
		}
	}
	delete(f.sandboxes, id)
	f.tell(s.Pod, id, id)
	return nil
}

// Sandbox implements runtime.Sandboxes.
func (f *Fake) Sandbox(_ context.Context, id string) (runtime.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[id]
	if s == nil {
		return runtime.Sandbox{}, notFound("sandbox", id)
	}
	return *s, nil
}

// ListSandboxes implements runtime.Sandboxes.
func (f *Fake) ListSandboxes(_ context.Context, podUID string) ([]runtime.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var result []runtime.Sandbox
	for _, s := range f.sandboxes {
		if podUID == "" || s.Pod.UID == podUID {
			listed := *s
			listed.IPs = nil
			result = append(result, listed)
		}
	}
	return result, nil
}

// CreateContainer implements runtime.Containers.
func (f *Fake) CreateContainer(ctx context.Context, id string, spec runtime.ContainerSpec, _ runtime.SandboxSpec) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[id]
	if s == nil {
		return "", notFound("sandbox", id)
	}
	if _, ok := f.images[spec.Image]; !ok {
		return "", notFound("image", spec.Image)
	}
	for _, c := range f.containers {
		if c.SandboxID == id && c.Name == spec.Name && c.Attempt == spec.Attempt {
			return "", fmt.Errorf("create container %s: %w", spec.Name, runtime.ErrInUse)
		}
	}
	f.calls = append(f.calls, "create "+spec.Name)
	c := &fakeContainer{spec: spec, Container: runtime.Container{
		ID: f.id("container"), SandboxID: id, Pod: spec.Pod, Name: spec.Name, Attempt: spec.Attempt, State: runtime.Created,
		CreatedAt: time.Now(), Image: spec.Image, ImageID: "sha256:" + spec.Image, LogPath: spec.LogPath,
		Labels: maps.Clone(spec.Labels), Annotations: maps.Clone(spec.Annotations),
	}}
	f.containers[c.ID] = c
	f.tell(c.Pod, c.ID, id)
	return c.ID, nil
}

// StartContainer implements runtime.Containers.
func (f *Fake) StartContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil {
		return notFound("container", id)
	}
	if c.State != runtime.Created {
		return fmt.Errorf("start container %s: it is %s", id, c.State)
	}
	f.calls = append(f.calls, "start "+c.Name)
	c.State, c.StartedAt = runtime.Running, time.Now()
	f.tell(c.Pod, id, c.SandboxID)
	if code, exits := f.behave(c.spec); exits {
		f.exit(c, code)
	}
	return nil
}

func (f *Fake) exit(c *fakeContainer, code int32) {
	if c.State != runtime.Running {
		return
	}
	c.State, c.ExitCode, c.FinishedAt = runtime.Exited, code, time.Now()
	c.Reason = "Completed"
	if code != 0 {
		c.Reason = "Error"
	}
	f.tell(c.Pod, c.ID, c.SandboxID)
}

// StopContainer implements runtime.Containers.
func (f *Fake) StopContainer(_ context.Context, id string, _ time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil && c.State == runtime.Running {
		f.calls = append(f.calls, "stop "+c.Name)
		f.exit(c, 0)
	}
	return nil
}

// RemoveContainer implements runtime.Containers.
func (f *Fake) RemoveContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil {
		f.exit(c, 137)
		delete(f.containers, id)
		f.tell(c.Pod, id, c.SandboxID)
	}
	return nil
}

// Container implements runtime.Containers.
func (f *Fake) Container(_ context.Context, id string) (runtime.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil {
		return runtime.Container{}, notFound("container", id)
	}
	return c.Container, nil
}

// ListContainers implements runtime.Containers.
func (f *Fake) ListContainers(_ context.Context, podUID string) ([]runtime.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var result []runtime.Container
	for _, c := range f.containers {
		if podUID == "" || c.Pod.UID == podUID {
			result = append(result, c.Container)
		}
	}
	return result, nil
}

// ReopenLog implements runtime.Containers.
func (f *Fake) ReopenLog(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.containers[id] == nil {
		return notFound("container", id)
	}
	return nil
}

// Image implements runtime.Images.
func (f *Fake) Image(_ context.Context, name string) (runtime.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	image, ok := f.images[name]
	if !ok {
		return runtime.Image{}, notFound("image", name)
	}
	return image, nil
}

// Pull implements runtime.Images; there is no registry.
func (f *Fake) Pull(_ context.Context, name string, _ []runtime.Credentials, _ runtime.SandboxSpec) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if image, ok := f.images[name]; ok {
		return image.ID, nil
	}
	return "", fmt.Errorf("pull image %s: no registry", name)
}

// ListImages implements runtime.Images.
func (f *Fake) ListImages(context.Context) ([]runtime.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var result []runtime.Image
	for _, image := range f.images {
		result = append(result, image)
	}
	return result, nil
}

// RemoveImage implements runtime.Images.
func (f *Fake) RemoveImage(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.images, func(_ string, image runtime.Image) bool { return image.ID == id })
	return nil
}

// ImageFilesystem implements runtime.Images.
func (f *Fake) ImageFilesystem(context.Context) (string, error) { return "/", nil }

// ExecSync implements runtime.Streams; every command succeeds.
func (f *Fake) ExecSync(_ context.Context, id string, _ []string, _ time.Duration) ([]byte, int32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c == nil || c.State != runtime.Running {
		return nil, 0, notFound("running container", id)
	}
	return nil, 0, nil
}

var errNoStreams = errors.New("the fake has no streams")

// Exec implements runtime.Streams.
func (f *Fake) Exec(context.Context, string, []string, runtime.StreamOptions) (int32, error) {
	return 0, errNoStreams
}

// Attach implements runtime.Streams.
func (f *Fake) Attach(context.Context, string, runtime.StreamOptions) error { return errNoStreams }

// PortForward implements runtime.Streams.
func (f *Fake) PortForward(context.Context, string, uint32, io.ReadWriteCloser) error {
	return errNoStreams
}

// Status implements runtime.Observer.
func (f *Fake) Status(context.Context) (runtime.Status, error) {
	return runtime.Status{Name: "fake", Version: "1", Ready: true, NetworkReady: true}, nil
}

// Events implements runtime.Observer.
func (f *Fake) Events(ctx context.Context, opened func(), observe func(runtime.Event)) error {
	f.mu.Lock()
	f.next++
	key := f.next
	f.watchers[key] = observe
	f.mu.Unlock()
	opened()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, key)
	return ctx.Err()
}

// Stats implements runtime.Observer.
func (f *Fake) Stats(context.Context) ([]runtime.Stats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var result []runtime.Stats
	for _, c := range f.containers {
		if c.State == runtime.Running {
			result = append(result, runtime.Stats{Pod: c.Pod, Container: c.Name, MemoryBytes: 1, CPUNanoseconds: 1, Time: time.Now()})
		}
	}
	return result, nil
}
