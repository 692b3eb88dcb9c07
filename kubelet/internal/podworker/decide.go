package podworker

import (
	"fmt"
	"slices"
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

// Keys of operations; one of a key at a time.
const (
	keyVolumes  = "volumes"
	keySandbox  = "sandbox"
	keyImage    = "image/"
	keyStart    = "start/"
	keyKill     = "kill/"
	keyRemove   = "remove/"
	keyStop     = "stop-sandbox/"
	keyErase    = "remove-sandbox/"
	keyTeardown = "teardown"
	keyDelete   = "delete"
	keyStatus   = "status"
)

// action is one thing to do.
type action struct {
	key       string
	container *corev1.Container
	id        string // of a container or sandbox
	attempt   uint32
	grace     time.Duration
	reason    string
	hook      bool // run the preStop hook first
	last      bool // remove the logs with the sandbox, too
}

// plan is a decision.
type plan struct {
	actions  []action
	waiting  map[string]status.Waiting
	initDone bool
	ended    bool // all containers are stopped for good
	finished bool // nothing of the pod is left
	wait     time.Duration
}

func (p *plan) wakeIn(d time.Duration) { p.wait = min(p.wait, max(d, time.Millisecond)) }

func (p *plan) wakeAt(v view, t time.Time) { p.wakeIn(t.Sub(v.now)) }

func (p *plan) do(a action) { p.actions = append(p.actions, a) }

// ending says that the pod is to stop for good.
func (v *view) ending() bool {
	if v.gone || v.pod == nil {
		return v.gone
	}
	return v.pod.DeletionTimestamp != nil || v.terminal()
}

// terminal says that the pod has ended by itself.
func (v *view) terminal() bool {
	if v.pod == nil {
		return false
	}
	phase := v.pod.Status.Phase
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed || v.memory.failure.Reason != ""
}

func (v *view) ready() *runtime.Sandbox {
	if len(v.sandboxes) > 0 && v.sandboxes[0].Ready {
		return &v.sandboxes[0]
	}
	return nil
}

func (v *view) newest(name string) *runtime.Container {
	if list := v.containers[name]; len(list) > 0 {
		return &list[0]
	}
	return nil
}

func decide(v view) plan {
	p := plan{waiting: map[string]status.Waiting{}, wait: time.Hour}
	switch {
	case v.ending():
		decideEnd(v, &p)
	case v.pod == nil:
		// Waits for a master to say whether the pod still exists.
	default:
		decideDeadline(v, &p)
		if v.memory.failure.Reason != "" {
			decideEnd(v, &p)
		} else {
			decideRun(v, &p)
		}
	}
	return p
}

func decideDeadline(v view, p *plan) {
	limit, start := v.pod.Spec.ActiveDeadlineSeconds, v.pod.Status.StartTime
	if limit == nil || start == nil {
		return
	}
	deadline := start.Add(time.Duration(*limit) * time.Second)
	if v.now.Before(deadline) {
		p.wakeAt(v, deadline)
		return
	}
	v.memory.failure = status.Waiting{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	v.memory.ending, v.memory.endGrace = v.now, v.grace
}

// decideRun brings the pod up, as far as it can go now.
func decideRun(v view, p *plan) {
	pod := v.pod
	p.initDone = len(pod.Spec.InitContainers) == 0
	if v.blocked {
		p.wakeIn(100 * time.Millisecond)
		return
	}
	if allDone(v) { // nothing will run again: leave what is there for its logs
		p.initDone, p.ended = initWasDone(v), initWasDone(v)
		return
	}
	v.memory.toreDown = false
	if !v.memory.volumes.ready {
		if v.now.Before(v.memory.volumes.next) {
			p.wakeAt(v, v.memory.volumes.next)
		} else {
			p.do(action{key: keyVolumes})
		}
	}
	sandbox := v.ready()
	if sandbox == nil {
		prepareImages(v, p)
		decideSandbox(v, p)
		return
	}
	decideCleanup(v, p, sandbox)
	decideEphemeral(v, p, sandbox)
	p.initDone = decideInit(v, p, sandbox)
	if !p.initDone {
		prepareImages(v, p)
		return
	}
	for i := range pod.Spec.Containers {
		decideContainer(v, p, sandbox, &pod.Spec.Containers[i], pod.Spec.RestartPolicy)
	}
}

// prepareImages begins with all images at once, so that the last container's is
// there when its turn comes.
func prepareImages(v view, p *plan) {
	for _, list := range [][]corev1.Container{v.pod.Spec.InitContainers, v.pod.Spec.Containers} {
		for i := range list {
			if v.newest(list[i].Name) == nil {
				decideImage(v, p, &list[i], 0)
			}
		}
	}
}

func decideSandbox(v view, p *plan) {
	next := v.memory.sandboxes
	if len(v.sandboxes) > 0 {
		old := v.sandboxes[0]
		next = max(next, old.Attempt+1)
		for _, list := range v.containers {
			for i := range list {
				if list[i].State == runtime.Running && !v.busy[keyKill+list[i].ID] {
					p.do(action{key: keyKill + list[i].ID, id: list[i].ID, grace: 0, reason: "its sandbox is gone"})
				}
			}
		}
		// Gives the old network back; a new sandbox does not wait for it.
		if !v.memory.stopped[old.ID] {
			p.do(action{key: keyStop + old.ID, id: old.ID})
		}
	}
	if !v.confirmed && hasIdentity(v.pod) {
		// A snapshot may be older than the pod's end. Another machine may run the same
		// identity by now, so a master must be asked before it starts here again.
		p.wakeIn(500 * time.Millisecond)
		return
	}
	if v.now.Before(v.memory.sandbox.next) {
		p.wakeAt(v, v.memory.sandbox.next)
		return
	}
	p.do(action{key: keySandbox, attempt: next})
}

// hasIdentity says that at most one pod of this name may run in the cluster.
func hasIdentity(pod *corev1.Pod) bool {
	for i := range pod.OwnerReferences {
		if owner := &pod.OwnerReferences[i]; owner.Kind == "StatefulSet" && owner.Controller != nil && *owner.Controller {
			return true
		}
	}
	return false
}

// decideInit runs init containers one by one and reports whether they are done.
func decideInit(v view, p *plan, sandbox *runtime.Sandbox) bool {
	// A container of the pod in this sandbox proves that initialization was complete.
	started := false
	for i := range v.pod.Spec.Containers {
		if c := v.newest(v.pod.Spec.Containers[i].Name); c != nil && c.SandboxID == sandbox.ID {
			started = true
		}
	}
	for i := range v.pod.Spec.InitContainers {
		spec := &v.pod.Spec.InitContainers[i]
		if status.IsSidecar(spec) {
			decideContainer(v, p, sandbox, spec, corev1.RestartPolicyAlways)
			current := v.newest(spec.Name)
			up := current != nil && current.SandboxID == sandbox.ID && current.State == runtime.Running
			if up {
				result, known := v.result(current.ID)
				up = known && result.Started
			}
			if !up && !started {
				return false
			}
			continue
		}
		if started {
			continue
		}
		current := v.newest(spec.Name)
		if current != nil && current.SandboxID == sandbox.ID && current.State == runtime.Exited && current.ExitCode == 0 {
			continue
		}
		policy := v.pod.Spec.RestartPolicy
		if policy == corev1.RestartPolicyAlways {
			policy = corev1.RestartPolicyOnFailure
		}
		if current != nil && current.SandboxID != sandbox.ID && current.ExitCode == 0 {
			decideStart(v, p, spec, current.Attempt+1) // a new sandbox is initialized anew
			return false
		}
		decideContainer(v, p, sandbox, spec, policy)
		return false
	}
	return true
}

// decideEphemeral starts each debugging container once, also beside init containers
// that do not get anywhere.
func decideEphemeral(v view, p *plan, sandbox *runtime.Sandbox) {
	specs := status.EphemeralContainers(v.pod)
	for i := range specs {
		ran := slices.ContainsFunc(v.pod.Status.EphemeralContainerStatuses, func(s corev1.ContainerStatus) bool {
			return s.Name == specs[i].Name && s.ContainerID != ""
		})
		if ran && v.newest(specs[i].Name) == nil {
			continue // it ran in a sandbox that is gone
		}
		decideContainer(v, p, sandbox, &specs[i], corev1.RestartPolicyNever)
	}
}

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

// allDone says that no container will run again.
func allDone(v view) bool {
	policy := v.pod.Spec.RestartPolicy
	if policy == corev1.RestartPolicyAlways {
		return false
	}
	for i := range v.pod.Spec.InitContainers {
		spec := &v.pod.Spec.InitContainers[i]
		c := v.newest(spec.Name)
		if !status.IsSidecar(spec) && c != nil && c.State == runtime.Exited && c.ExitCode != 0 && policy == corev1.RestartPolicyNever {
			return true
		}
	}
	for i := range v.pod.Spec.Containers {
		spec := &v.pod.Spec.Containers[i]
		own := policy
		if spec.RestartPolicy != nil {
			own = corev1.RestartPolicy(*spec.RestartPolicy)
		}
		c := v.newest(spec.Name)
		if c == nil || c.State != runtime.Exited || restarts(own, c) {
			return false
		}
	}
	return true
}

// decideCleanup removes instances and sandboxes that nothing refers to any more:
// of each container the newest and the one before it stay, for their logs.
func decideCleanup(v view, p *plan, current *runtime.Sandbox) {
	inUse := map[string]bool{current.ID: true}
	for _, list := range v.containers {
		for i := range list {
			switch {
			case i < 2:
				inUse[list[i].SandboxID] = true
			case list[i].State != runtime.Running && !v.busy[keyRemove+list[i].ID]:
				p.do(action{key: keyRemove + list[i].ID, id: list[i].ID})
			}
		}
	}
	for i := range v.sandboxes {
		if s := &v.sandboxes[i]; !inUse[s.ID] && !s.Ready {
			p.do(action{key: keyErase + s.ID, id: s.ID})
		}
	}
}
