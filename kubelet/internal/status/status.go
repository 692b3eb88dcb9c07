// Package status computes what the API says about a pod from what the runtime and
// the probes say. It is pure: the same input gives the same status, whenever the
// kubelet was restarted.
package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/resources"
	"kijabi.dev/kubelet/internal/runtime"
)

// Reasons that a container waits for.
const (
	ContainerCreating          = "ContainerCreating"
	PodInitializing            = "PodInitializing"
	CrashLoopBackOff           = "CrashLoopBackOff"
	ErrImagePull               = "ErrImagePull"
	ImagePullBackOff           = "ImagePullBackOff"
	ErrImageNeverPull          = "ErrImageNeverPull"
	InvalidImageName           = "InvalidImageName"
	CreateContainerConfigError = "CreateContainerConfigError"
	CreateContainerError       = "CreateContainerError"
	PostStartHookError         = "PostStartHookError"
)

// Waiting says why a container does not run yet or again.
type Waiting struct{ Reason, Message string }

// Input is everything a status depends on.
type Input struct {
	// Pod as the API has it; its status is what was last written. Required.
	Pod *corev1.Pod
	// HostIPs of the machine.
	HostIPs []string
	// Sandbox that is ready; nil if none.
	Sandbox *runtime.Sandbox
	// Instances by container name, newest first, with all fields.
	Instances map[string][]runtime.Container
	// Waiting by container name overrides what instances say.
	Waiting map[string]Waiting
	// Result of a container's probes by id.
	Result func(containerID string) (probes.Result, bool)
	// Message is a finished instance's termination message.
	Message func(container *corev1.Container, instance *runtime.Container) string
	// InitDone says that all init containers have done their part.
	InitDone bool
	// Ended says that all containers have been stopped for good.
	Ended bool
	// Failure, if its Reason is set, fails the pod whatever its containers say.
	Failure Waiting
	Now     time.Time
}

// Compute returns the status.
func Compute(in Input) corev1.PodStatus {
	pod, old := in.Pod, in.Pod.Status
	result := corev1.PodStatus{
		QOSClass: resources.QOSClass(pod), StartTime: old.StartTime, ObservedGeneration: pod.Generation,
		NominatedNodeName: old.NominatedNodeName, Resize: old.Resize, ResourceClaimStatuses: old.ResourceClaimStatuses,
		Reason: old.Reason, Message: old.Message,
	}
	if result.StartTime == nil {
		now := metav1.NewTime(in.Now)
		result.StartTime = &now
	}
	for _, ip := range in.HostIPs {
		result.HostIPs = append(result.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(in.HostIPs) > 0 {
		result.HostIP = in.HostIPs[0]
	}
	setPodIPs(&result, in)
	result.InitContainerStatuses = containerStatuses(in, pod.Spec.InitContainers, old.InitContainerStatuses, true)
	result.ContainerStatuses = containerStatuses(in, pod.Spec.Containers, old.ContainerStatuses, false)
	result.EphemeralContainerStatuses = containerStatuses(in, EphemeralContainers(pod), old.EphemeralContainerStatuses, false)
	result.Phase = phase(in, &result)
	if in.Failure.Reason != "" {
		result.Phase, result.Reason, result.Message = corev1.PodFailed, in.Failure.Reason, in.Failure.Message
	}
	result.Conditions = conditions(in, &result)
	return result
}

// setPodIPs keeps the last addresses of a pod that has no sandbox any more.
func setPodIPs(result *corev1.PodStatus, in Input) {
	var ips []string
	switch {
	case in.Pod.Spec.HostNetwork:
		if in.Sandbox != nil || in.Pod.Status.PodIP != "" {
			ips = in.HostIPs
		}
	case in.Sandbox != nil:
		ips = in.Sandbox.IPs
	default:
		result.PodIP, result.PodIPs = in.Pod.Status.PodIP, in.Pod.Status.PodIPs
		return
	}
	for _, ip := range ips {
		result.PodIPs = append(result.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		result.PodIP = ips[0]
	}
}

// IsSidecar says whether an init container runs beside the pod's containers.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// EphemeralContainers returns copies of the containers that were added to a pod to
// debug it, as ordinary ones. They run beside the others and are never restarted.
func EphemeralContainers(pod *corev1.Pod) []corev1.Container {
	var out []corev1.Container
	for i := range pod.Spec.EphemeralContainers {
		out = append(out, corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return out
}

func containerStatuses(in Input, specs []corev1.Container, old []corev1.ContainerStatus, init bool) []corev1.ContainerStatus {
	if len(specs) == 0 {
		return nil
	}
	result := make([]corev1.ContainerStatus, 0, len(specs))
	for i := range specs {
		var before *corev1.ContainerStatus
		if at := slices.IndexFunc(old, func(s corev1.ContainerStatus) bool { return s.Name == specs[i].Name }); at >= 0 {
			before = &old[at]
		}
		result = append(result, containerStatus(in, &specs[i], before, init))
	}
	return result
}

func containerStatus(in Input, spec *corev1.Container, old *corev1.ContainerStatus, init bool) corev1.ContainerStatus {
	no := false
	status := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: &no}
	if old != nil {
		status.RestartCount, status.LastTerminationState = old.RestartCount, old.LastTerminationState
		status.ImageID, status.ContainerID = old.ImageID, old.ContainerID
	}
	instances := in.Instances[spec.Name]
	if len(instances) == 0 {
		if old != nil && old.State.Terminated != nil && in.Waiting[spec.Name].Reason == "" {
			status.State, status.Ready = old.State, old.Ready // its instance was removed since
			return status
		}
		status.State.Waiting = waiting(in, spec.Name, init)
		return status
	}
	newest := &instances[0]
	status.ContainerID = ContainerID(newest.ID)
	status.ImageID = newest.ImageID
	status.RestartCount = max(status.RestartCount, int32(newest.Attempt))
	if len(instances) > 1 && instances[1].State == runtime.Exited {
		status.LastTerminationState = corev1.ContainerState{Terminated: terminated(in, spec, &instances[1])}
	}
	switch newest.State {
	case runtime.Running:
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(newest.StartedAt)}
		if probed, known := in.Result(newest.ID); known {
			started := probed.Started
			status.Started = &started
			status.Ready = probed.Ready && (!init || IsSidecar(spec))
		}
	case runtime.Exited:
		end := terminated(in, spec, newest)
		if reason, waits := in.Waiting[spec.Name]; waits {
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason.Reason, Message: reason.Message}
			status.LastTerminationState = corev1.ContainerState{Terminated: end}
		} else {
			status.State.Terminated = end
			status.Ready = init && end.ExitCode == 0 && !IsSidecar(spec)
		}
	case runtime.Created, runtime.Unknown:
		status.State.Waiting = waiting(in, spec.Name, init)
	}
	return status
}

// ContainerID is an id as the API writes it.
func ContainerID(id string) string { return "containerd://" + id }

func waiting(in Input, name string, init bool) *corev1.ContainerStateWaiting {
	if reason, ok := in.Waiting[name]; ok {
		return &corev1.ContainerStateWaiting{Reason: reason.Reason, Message: reason.Message}
	}
	if !init && len(in.Pod.Spec.InitContainers) > 0 && !in.InitDone {
		return &corev1.ContainerStateWaiting{Reason: PodInitializing}
	}
	if init && len(in.Pod.Spec.InitContainers) > 1 {
		return &corev1.ContainerStateWaiting{Reason: PodInitializing}
	}
	return &corev1.ContainerStateWaiting{Reason: ContainerCreating}
}

func terminated(in Input, spec *corev1.Container, c *runtime.Container) *corev1.ContainerStateTerminated {
	end := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: ContainerID(c.ID),
		StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt),
	}
	if end.Reason == "" {
		end.Reason = "Completed"
		if c.ExitCode != 0 {
			end.Reason = "Error"
		}
	}
	if message := in.Message(spec, c); message != "" {
		end.Message = message
	}
	return end
}

// phase follows what the API documents: pending until every container has started
// once, running while any runs or will run again, then succeeded or failed.
func phase(in Input, status *corev1.PodStatus) corev1.PodPhase {
	if was := in.Pod.Status.Phase; was == corev1.PodSucceeded || was == corev1.PodFailed {
		return was
	}
	policy := in.Pod.Spec.RestartPolicy
	if !in.InitDone && !in.Ended {
		for i := range status.InitContainerStatuses {
			end := status.InitContainerStatuses[i].State.Terminated
			if end != nil && end.ExitCode != 0 && policy == corev1.RestartPolicyNever && !IsSidecar(&in.Pod.Spec.InitContainers[i]) {
				return corev1.PodFailed
			}
		}
		return corev1.PodPending
	}
	running, waiting, stopped, failed := 0, 0, 0, 0
	for i := range status.ContainerStatuses {
		state := &status.ContainerStatuses[i]
		switch {
		case state.State.Running != nil:
			running++
		case state.State.Terminated != nil:
			stopped++
			if state.State.Terminated.ExitCode != 0 {
				failed++
			}
		case state.LastTerminationState.Terminated != nil:
			stopped++
			failed++ // it is to run again, so it has not succeeded
		default:
			waiting++
		}
	}
	switch {
	case in.Ended && running == 0:
		if failed > 0 || stopped == 0 || waiting > 0 {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	case waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case policy == corev1.RestartPolicyAlways:
		return corev1.PodRunning
	case failed == 0:
		return corev1.PodSucceeded
	case policy == corev1.RestartPolicyNever:
		return corev1.PodFailed
	}
	return corev1.PodRunning
}

func conditions(in Input, status *corev1.PodStatus) []corev1.PodCondition {
	var result []corev1.PodCondition
	set := func(kind corev1.PodConditionType, ok bool, reason, message string) {
		condition := corev1.PodCondition{
			Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message,
			LastTransitionTime: metav1.NewTime(in.Now), ObservedGeneration: in.Pod.Generation,
		}
		if ok {
			condition.Status, condition.Reason, condition.Message = corev1.ConditionTrue, "", ""
		}
		if reason == completed {
			condition.Reason = completed
		}
		for i := range in.Pod.Status.Conditions {
			if old := &in.Pod.Status.Conditions[i]; old.Type == kind && old.Status == condition.Status {
				condition.LastTransitionTime = old.LastTransitionTime
			}
		}
		result = append(result, condition)
	}
	done := status.Phase == corev1.PodSucceeded
	set(corev1.PodReadyToStartContainers, in.Sandbox != nil, "", "")
	initReason, initMessage := "", ""
	initialized := in.InitDone || len(in.Pod.Spec.InitContainers) == 0
	if done {
		initialized, initReason = true, completed
	} else if !initialized {
		initReason = "ContainersNotInitialized"
		initMessage = "containers with incomplete status: " + names(status.InitContainerStatuses, func(s *corev1.ContainerStatus) bool { return !s.Ready })
	}
	set(corev1.PodInitialized, initialized, initReason, initMessage)

	unready := func(s *corev1.ContainerStatus) bool { return !s.Ready }
	ready, reason, message := true, "", ""
	switch {
	case done:
		ready, reason = false, completed
	case status.Phase == corev1.PodFailed:
		ready, reason = false, "PodFailed"
	case slices.ContainsFunc(status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return !s.Ready }):
		ready, reason = false, "ContainersNotReady"
		message = "containers with unready status: " + names(status.ContainerStatuses, unready)
	case sidecarUnready(in, status):
		ready, reason, message = false, "ContainersNotReady", "a sidecar is not ready"
	}
	set(corev1.ContainersReady, ready, reason, message)
	if ready {
		if missing := missingGates(in.Pod); missing != "" {
			ready, reason, message = false, "ReadinessGatesNotReady", missing
		}
	}
	set(corev1.PodReady, ready, reason, message)
	if !slices.ContainsFunc(in.Pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled }) {
		set(corev1.PodScheduled, true, "", "")
	}
	return MergeConditions(in.Pod.Status.Conditions, result)
}

const completed = "PodCompleted"

// MergeConditions keeps conditions that are not the kubelet's.
func MergeConditions(theirs, ours []corev1.PodCondition) []corev1.PodCondition {
	result := slices.Clone(ours)
	for _, condition := range theirs {
		if !slices.ContainsFunc(ours, func(c corev1.PodCondition) bool { return c.Type == condition.Type }) {
			result = append(result, condition)
		}
	}
	slices.SortStableFunc(result, func(a, b corev1.PodCondition) int { return strings.Compare(string(a.Type), string(b.Type)) })
	return result
}

func sidecarUnready(in Input, status *corev1.PodStatus) bool {
	for i := range status.InitContainerStatuses {
		if IsSidecar(&in.Pod.Spec.InitContainers[i]) && !status.InitContainerStatuses[i].Ready {
			return true
		}
	}
	return false
}

func missingGates(pod *corev1.Pod) string {
	var missing []string
	for _, gate := range pod.Spec.ReadinessGates {
		if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == gate.ConditionType && c.Status == corev1.ConditionTrue
		}) {
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not True", gate.ConditionType))
		}
	}
	return strings.Join(missing, ", ")
}

func names(statuses []corev1.ContainerStatus, which func(*corev1.ContainerStatus) bool) string {
	var list []string
	for i := range statuses {
		if which(&statuses[i]) {
			list = append(list, statuses[i].Name)
		}
	}
	return "[" + strings.Join(list, " ") + "]"
}
