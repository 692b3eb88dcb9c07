package podworker

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
)

// Crash back-off: none after the first end, then doubling, forgotten after a long run.
const (
	crashFirst   = 10 * time.Second
	crashLongest = 5 * time.Minute
	crashReset   = 10 * time.Minute
)

// decideContainer brings one container toward running.
func decideContainer(v view, p *plan, sandbox *runtime.Sandbox, spec *corev1.Container, policy corev1.RestartPolicy) {
	if spec.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*spec.RestartPolicy)
	}
	if v.busy[keyStart+spec.Name] {
		return
	}
	current := v.newest(spec.Name)
	if current == nil {
		decideStart(v, p, spec, firstAttempt(v.pod, spec.Name))
		return
	}
	switch current.State {
	case runtime.Running:
		decideRunning(v, p, spec, current)
	case runtime.Created:
		// A start that the kubelet did not live to finish, or that failed half way.
		p.do(action{key: keyRemove + current.ID, id: current.ID})
	case runtime.Exited, runtime.Unknown:
		if !restarts(policy, current) {
			return
		}
		due, delay := v.memory.restartAt(current)
		if v.now.Before(due) {
			p.waiting[spec.Name] = status.Waiting{Reason: status.CrashLoopBackOff, Message: fmt.Sprintf(
				"back-off %s restarting failed container=%s pod=%s_%s(%s)", delay, spec.Name, v.ref.Name, v.ref.Namespace, v.ref.UID)}
			p.wakeAt(v, due)
			return
		}
		decideStart(v, p, spec, current.Attempt+1)
	}
}

// firstAttempt continues counting when the runtime has forgotten a container.
func firstAttempt(pod *corev1.Pod, name string) uint32 {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name && list[i].ContainerID != "" {
				return uint32(list[i].RestartCount) + 1
			}
		}
	}
	return 0
}

func decideRunning(v view, p *plan, spec *corev1.Container, current *runtime.Container) {
	kill := func(reason string, grace int64) {
		if !v.busy[keyKill+current.ID] {
			p.do(action{key: keyKill + current.ID, id: current.ID, container: spec, hook: true, reason: reason, grace: time.Duration(grace) * time.Second})
		}
	}
	if hash := current.Annotations[podspec.AnnotationHash]; hash != "" && hash != podspec.Hash(spec) {
		kill("Container "+spec.Name+" definition changed, will be restarted", v.grace)
		return
	}
	if v.memory.asked[current.ID] {
		kill("Container "+spec.Name+" will be restarted in place, as was asked", v.grace)
		return
	}
	if err := v.memory.hooked[current.ID]; err != nil {
		p.waiting[spec.Name] = status.Waiting{Reason: status.PostStartHookError, Message: err.Error()}
		kill("FailedPostStartHook: "+err.Error(), v.grace)
		return
	}
	if result, known := v.result(current.ID); known && result.Failed {
		grace, which := v.grace, "liveness"
		if result.Probe != nil && result.Probe.TerminationGracePeriodSeconds != nil {
			grace = *result.Probe.TerminationGracePeriodSeconds
		}
		if !result.Started {
			which = "startup"
		}
		kill("Container "+spec.Name+" failed "+which+" probe, will be restarted", grace)
	}
}

func restarts(policy corev1.RestartPolicy, c *runtime.Container) bool {
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return c.ExitCode != 0 || c.State == runtime.Unknown
	case corev1.RestartPolicyAlways:
	}
	return true
}

// restartAt says when an ended container may run again.
func (m *memory) restartAt(c *runtime.Container) (due time.Time, delay time.Duration) {
	if m.asked[c.ID] {
		m.crashes[c.Name] = crash{id: c.ID} // whoever asks has mended what made it crash
		return time.Time{}, 0
	}
	counted, known := m.crashes[c.Name]
	if counted.id != c.ID {
		count := counted.count + 1
		if !known && c.Attempt > 0 {
			count = int(min(c.Attempt, 6)) + 1 // counted before the kubelet was restarted
		}
		if !c.StartedAt.IsZero() && c.FinishedAt.Sub(c.StartedAt) >= crashReset {
			count = 1
		}
		counted = crash{id: c.ID, count: count}
		m.crashes[c.Name] = counted
	}
	if counted.count <= 1 {
		return time.Time{}, 0
	}
	delay = min(crashFirst<<min(counted.count-2, 10), crashLongest)
	return c.FinishedAt.Add(delay), delay
}

// decideStart starts instance number attempt of a container once its image,
// the volumes and the environment are there.
func decideStart(v view, p *plan, spec *corev1.Container, number uint32) {
	if !decideImage(v, p, spec, number) {
		return
	}
	if !v.memory.volumes.ready {
		if err := v.memory.volumes.err; err != nil {
			p.waiting[spec.Name] = status.Waiting{Reason: status.ContainerCreating, Message: mountFailed + err.Error()}
		}
		return
	}
	if create := v.memory.creates[spec.Name]; create != nil && create.err != nil {
		p.waiting[spec.Name] = createReason(create.err)
		if v.now.Before(create.next) {
			p.wakeAt(v, create.next)
			return
		}
	}
	p.do(action{key: keyStart + spec.Name, container: spec, attempt: number})
}

func decideImage(v view, p *plan, spec *corev1.Container, number uint32) bool {
	image := v.memory.images[spec.Name]
	if image == nil || image.instance != number {
		p.do(action{key: keyImage + spec.Name, container: spec, attempt: number})
		return false
	}
	if image.ready {
		return true
	}
	if image.err == nil {
		return false
	}
	waits := v.now.Before(image.next)
	switch {
	case image.misnamed:
		p.waiting[spec.Name] = status.Waiting{Reason: status.InvalidImageName, Message: image.err.Error()}
	case image.never:
		p.waiting[spec.Name] = status.Waiting{Reason: status.ErrImageNeverPull, Message: image.err.Error()}
	case waits && image.failures > 1:
		p.waiting[spec.Name] = status.Waiting{Reason: status.ImagePullBackOff, Message: "Back-off pulling image " + strconv.Quote(spec.Image) + ": " + image.err.Error()}
	default:
		p.waiting[spec.Name] = status.Waiting{Reason: status.ErrImagePull, Message: image.err.Error()}
	}
	if waits {
		p.wakeAt(v, image.next)
	} else {
		p.do(action{key: keyImage + spec.Name, container: spec, attempt: number})
	}
	return false
}
