package podworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
)

// Waits between tries of what failed: the first and the longest.
const (
	volumesRetry, volumesRetryMax = 500 * time.Millisecond, 10 * time.Second
	sandboxRetry, sandboxRetryMax = 250 * time.Millisecond, 10 * time.Second
	imageRetry, imageRetryMax     = 10 * time.Second, 5 * time.Minute
	createRetry, createRetryMax   = time.Second, 30 * time.Second
	writeRetry, writeRetryMax     = 200 * time.Millisecond, 5 * time.Second
	teardownRetry                 = time.Second
)

const (
	normal  = corev1.EventTypeNormal
	warning = corev1.EventTypeWarning
)

// mountFailed begins what is said about volumes that cannot be made.
const mountFailed = "MountVolume.SetUp failed for "

// createError carries the reason that a container could not be created.
type createError struct {
	reason string
	err    error
}

func (e *createError) Error() string { return e.err.Error() }
func (e *createError) Unwrap() error { return e.err }

func createReason(err error) status.Waiting {
	var failed *createError
	if errors.As(err, &failed) {
		return status.Waiting{Reason: failed.reason, Message: failed.Error()}
	}
	return status.Waiting{Reason: status.CreateContainerError, Message: err.Error()}
}

// operation returns what an action does beside the loop, and what the loop then learns.
// Both see the pod and the observation of now, not of later.
func (w *worker) operation(a action) (run func(context.Context) error, apply func(error)) {
	pod, now := w.current(), w.m.cfg.Clock.Now
	switch {
	case a.key == keyVolumes:
		return func(ctx context.Context) error { return w.setupVolumes(ctx, pod) }, func(err error) {
			if err != nil {
				w.memory.volumes.fail(err, now(), volumesRetry, volumesRetryMax)
				w.event(pod, "", err, "FailedMount", mountFailed)
				return
			}
			w.memory.volumes.succeed()
		}
	case a.key == keySandbox:
		return func(ctx context.Context) error { return w.runSandbox(ctx, pod, a.attempt) }, func(err error) {
			w.memory.sandboxes = a.attempt + 1 // its name may be taken even by a failure
			if err != nil {
				w.memory.sandbox.fail(err, now(), sandboxRetry, sandboxRetryMax)
				w.event(pod, "", err, "FailedCreatePodSandBox", "Failed to create pod sandbox: ")
				return
			}
			w.memory.sandbox.succeed()
		}
	case strings.HasPrefix(a.key, keyImage):
		return w.imageOperation(pod, a)
	case strings.HasPrefix(a.key, keyStart):
		return w.startOperation(pod, a)
	case strings.HasPrefix(a.key, keyKill):
		return func(ctx context.Context) error { return w.kill(ctx, pod, a) }, nil
	case strings.HasPrefix(a.key, keyRemove):
		return func(ctx context.Context) error { return w.m.cfg.Runtime.RemoveContainer(ctx, a.id) }, nil
	case strings.HasPrefix(a.key, keyStop):
		return func(ctx context.Context) error { return w.m.cfg.Runtime.StopSandbox(ctx, a.id) }, func(err error) {
			if err == nil {
				w.memory.stopped[a.id] = true
			}
		}
	case strings.HasPrefix(a.key, keyErase):
		return func(ctx context.Context) error {
			if err := w.m.cfg.Runtime.RemoveSandbox(ctx, a.id); err != nil {
				return err
			}
			if a.last {
				w.m.cfg.RemoveLogs(w.ref)
			}
			return nil
		}, nil
	case a.key == keyTeardown:
		w.readMessages(pod) // their files are about to go
		return w.teardown, func(err error) {
			if err != nil {
				w.memory.teardown.fail(err, now(), teardownRetry, teardownRetry)
				return
			}
			w.memory.toreDown = true
		}
	}
	return func(context.Context) error { return fmt.Errorf("operation %s is not known", a.key) }, nil
}

// event tells of a failure, unless it is only that the kubelet changed its mind.
// prefix is what users expect before it; container is empty if none is concerned.
func (w *worker) event(pod *corev1.Pod, container string, err error, reason, prefix string) {
	if pod != nil && !errors.Is(err, context.Canceled) {
		w.m.cfg.Event(pod, container, warning, reason, prefix+err.Error())
	}
}

func (w *worker) setupVolumes(ctx context.Context, pod *corev1.Pod) error {
	if err := os.MkdirAll(w.m.cfg.Node.PodDirectory(w.ref.UID), 0o750); err != nil {
		return fmt.Errorf("pod directory: %w", err)
	}
	if err := w.m.cfg.Objects.Await(ctx, pod); err != nil {
		return err
	}
	return w.m.cfg.Volumes.Setup(ctx, pod)
}

func (w *worker) runSandbox(ctx context.Context, pod *corev1.Pod, number uint32) error {
	select {
	case w.m.starts <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-w.m.starts }()
	node := w.m.cfg.Node
	spec, err := podspec.Sandbox(pod, node, w.m.cfg.Cgroups.Parent(pod), number)
	if err != nil {
		return err
	}
	for _, directory := range []string{spec.LogDirectory, node.PodDirectory(w.ref.UID)} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return fmt.Errorf("pod directory: %w", err)
		}
	}
	if err := w.m.cfg.Cgroups.Create(pod); err != nil {
		return err
	}
	_, err = w.m.cfg.Runtime.RunSandbox(ctx, spec)
	return err
}

func (w *worker) imageOperation(pod *corev1.Pod, a action) (func(context.Context) error, func(error)) {
	attempt := w.memory.images[a.container.Name]
	if attempt == nil || attempt.instance != a.attempt {
		attempt = &imageAttempt{instance: a.attempt}
		w.memory.images[a.container.Name] = attempt
	}
	var found runtime.Image
	run := func(ctx context.Context) (err error) {
		found, err = w.ensureImage(ctx, pod, a.container)
		return err
	}
	return run, func(err error) {
		if err != nil {
			attempt.never, attempt.misnamed = errors.Is(err, errNeverPull), errors.Is(err, errImageName)
			attempt.fail(err, w.m.cfg.Clock.Now(), imageRetry, imageRetryMax)
			reason, prefix := "Failed", "Failed to pull image "+strconv.Quote(a.container.Image)+": "
			switch {
			case attempt.never:
				reason, prefix = status.ErrImageNeverPull, ""
			case errors.Is(err, errImageName):
				reason, prefix = status.InvalidImageName, ""
			}
			w.event(pod, a.container.Name, err, reason, prefix)
			return
		}
		attempt.succeed()
		attempt.image, attempt.never = found, false
	}
}

var (
	errNeverPull = errors.New("the pull policy is Never")
	errImageName = errors.New("not the name of an image")
)

func (w *worker) ensureImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (runtime.Image, error) {
	images, policy := w.m.cfg.Runtime, c.ImagePullPolicy
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		return runtime.Image{}, fmt.Errorf("%q is %w: %w", c.Image, errImageName, err)
	}
	if policy != corev1.PullAlways {
		image, err := images.Image(ctx, c.Image)
		if err == nil {
			w.m.cfg.Event(pod, c.Name, normal, "Pulled", "Container image "+strconv.Quote(c.Image)+" already present on machine")
			return image, nil
		}
		if !errors.Is(err, runtime.ErrNotFound) {
			return runtime.Image{}, err
		}
		if policy == corev1.PullNever {
			return runtime.Image{}, fmt.Errorf("container image %q is not present: %w", c.Image, errNeverPull)
		}
	}
	select {
	case w.m.pulls <- struct{}{}:
	case <-ctx.Done():
		return runtime.Image{}, ctx.Err()
	}
	defer func() { <-w.m.pulls }()
	w.m.cfg.Event(pod, c.Name, normal, "Pulling", "Pulling image "+strconv.Quote(c.Image))
	began := w.m.cfg.Clock.Now()
	if _, err := images.Pull(ctx, c.Image, w.m.cfg.Objects.Credentials(pod, c.Image), runtime.SandboxSpec{Pod: w.ref}); err != nil {
		return runtime.Image{}, err
	}
	took := w.m.cfg.Clock.Since(began).Round(time.Millisecond)
	image, err := images.Image(ctx, c.Image)
	if err == nil {
		w.m.cfg.Event(pod, c.Name, normal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %s. Image size: %d bytes.", c.Image, took, image.Size))
	}
	return image, err
}

func (w *worker) startOperation(pod *corev1.Pod, a action) (func(context.Context) error, func(error)) {
	var sandbox runtime.Sandbox
	if len(w.seen.sandboxes) > 0 {
		sandbox = w.seen.sandboxes[0]
	}
	var image runtime.Image
	if attempt := w.memory.images[a.container.Name]; attempt != nil {
		image = attempt.image
	}
	target, targetErr := w.target(pod, a.container.Name)
	var id string
	var hookErr error
	run := func(ctx context.Context) (err error) {
		if targetErr != nil {
			return targetErr
		}
		id, err = w.startContainer(ctx, pod, a, sandbox, image, target)
		if err != nil {
			return err
		}
		w.wake() // running is worth telling, whatever the hook does
		hookErr = w.postStart(ctx, pod, a.container, id, sandbox)
		return nil
	}
	return run, func(err error) {
		if err != nil {
			try := w.memory.creates[a.container.Name]
			if try == nil {
				try = &attempt{}
				w.memory.creates[a.container.Name] = try
			}
			try.fail(err, w.m.cfg.Clock.Now(), createRetry, createRetryMax)
			w.event(pod, a.container.Name, err, "Failed", "Error: ")
			return
		}
		delete(w.memory.creates, a.container.Name)
		if hookErr != nil {
			w.memory.hooked[id] = hookErr
			w.event(pod, a.container.Name, hookErr, "FailedPostStartHook", "")
		}
	}
}

// target returns the id of the container whose processes a debugging container asks
// to see, or nothing if it asks for none.
func (w *worker) target(pod *corev1.Pod, name string) (string, error) {
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if c.Name != name || c.TargetContainerName == "" {
			continue
		}
		if list := w.seen.containers[c.TargetContainerName]; len(list) > 0 && list[0].State == runtime.Running {
			return list[0].ID, nil
		}
		return "", &createError{status.CreateContainerError, fmt.Errorf("target container %s does not run", c.TargetContainerName)}
	}
	return "", nil
}

func (w *worker) startContainer(ctx context.Context, pod *corev1.Pod, a action, sandbox runtime.Sandbox, image runtime.Image, target string) (string, error) {
	cfg, c := w.m.cfg, a.container
	if err := podspec.WriteHosts(pod, cfg.Node, sandbox.IPs); err != nil {
		return "", err
	}
	sources := cfg.Objects.Sources(pod)
	sources.PodIPs = sandbox.IPs
	if pod.Spec.HostNetwork {
		sources.PodIPs = cfg.HostIPs
	}
	variables, err := env.Compute(pod, c, sources)
	if err != nil {
		return "", &createError{status.CreateContainerConfigError, err}
	}
	expand := func(text string) string {
		return env.Expand(text, func(name string) (string, bool) {
			for i := range variables {
				if variables[i].Name == name {
					return variables[i].Value, true
				}
			}
			return "", false
		})
	}
	mounts, err := cfg.Volumes.Mounts(pod, c, expand)
	if err != nil {
		return "", &createError{status.CreateContainerConfigError, err}
	}
	spec, err := podspec.Container(pod, c, image, a.attempt, variables, mounts, cfg.Node)
	if err != nil {
		var wrong *podspec.ConfigError
		if errors.As(err, &wrong) {
			err = &createError{status.CreateContainerConfigError, err}
		}
		return "", err
	}
	spec.Security.TargetID = target
	ground, err := podspec.Sandbox(pod, cfg.Node, cfg.Cgroups.Parent(pod), sandbox.Attempt)
	if err != nil {
		return "", err
	}
	id, err := cfg.Runtime.CreateContainer(ctx, sandbox.ID, spec, ground)
	if err != nil {
		return "", &createError{status.CreateContainerError, err}
	}
	cfg.Event(pod, c.Name, normal, "Created", "Container created: "+c.Name)
	if err := cfg.Runtime.StartContainer(ctx, id); err != nil {
		return "", &createError{"RunContainerError", err}
	}
	cfg.Event(pod, c.Name, normal, "Started", "Container started: "+c.Name)
	return id, nil
}

func containerName(a action) string {
	if a.container == nil {
		return ""
	}
	return a.container.Name
}

func (w *worker) kill(ctx context.Context, pod *corev1.Pod, a action) error {
	if pod != nil && a.reason != "" {
		w.m.cfg.Event(pod, containerName(a), normal, "Killing", a.reason)
	}
	grace := a.grace
	if a.hook && pod != nil && grace > 0 {
		grace = w.preStop(ctx, pod, a, grace)
	}
	return w.m.cfg.Runtime.StopContainer(ctx, a.id, grace)
}

// teardown removes what the pod has on the machine beside its sandboxes.
func (w *worker) teardown(ctx context.Context) error {
	if err := w.m.cfg.Volumes.Teardown(w.ref.UID); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return w.m.cfg.Cgroups.Remove(bounded, w.ref.UID)
}

// LogPath is where the runtime writes an instance's log.
func LogPath(node podspec.Node, pod runtime.PodRef, container string, number uint32) string {
	return filepath.Join(node.LogDirectory(pod), container, strconv.FormatUint(uint64(number), 10)+".log")
}
