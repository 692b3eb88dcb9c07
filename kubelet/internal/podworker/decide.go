package podworker

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
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
