package podworker

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
)

// decideEnd stops the pod and, once nothing of it runs, confirms that to the API
// and removes what is left. The order is the promise behind identities: the API
// object goes only after the containers did.
func decideEnd(v view, p *plan) {
	p.initDone = initWasDone(v)
	for key := range v.busy {
		if strings.HasPrefix(key, keyStart) || key == keySandbox || key == keyVolumes {
			return // cancelled; what it made is found when it has returned
		}
	}
	if running := decideKills(v, p); running {
		return
	}
	p.ended = true
	// A sandbox that is not ready may still hold its network: what counts is that
	// stopping it has succeeded.
	stopped := true
	for i := range v.sandboxes {
		if s := &v.sandboxes[i]; s.Ready || !v.memory.stopped[s.ID] {
			stopped = false
			p.do(action{key: keyStop + s.ID, id: s.ID})
		}
	}
	if !stopped {
		return
	}
	if !v.memory.toreDown {
		if v.now.Before(v.memory.teardown.next) {
			p.wakeAt(v, v.memory.teardown.next)
		} else {
			p.do(action{key: keyTeardown})
		}
		return
	}
	if !v.gone {
		if v.pod.DeletionTimestamp == nil {
			return // it ended by itself and stays until somebody deletes it
		}
		if v.busy[keyStatus] {
			return
		}
		if v.now.Before(v.memory.deletion.next) {
			p.wakeAt(v, v.memory.deletion.next)
		} else if !v.memory.deletion.ready {
			p.do(action{key: keyDelete})
		}
		return
	}
	if len(v.sandboxes) == 0 && len(v.containers) == 0 {
		p.finished = len(v.busy) == 0
		return
	}
	for i := range v.sandboxes {
		p.do(action{key: keyErase + v.sandboxes[i].ID, id: v.sandboxes[i].ID, last: true})
	}
	if len(v.sandboxes) == 0 {
		for _, list := range v.containers {
			for i := range list {
				p.do(action{key: keyRemove + list[i].ID, id: list[i].ID})
			}
		}
	}
}

// decideKills stops containers, sidecars after the others, and reports whether any still runs.
func decideKills(v view, p *plan) bool {
	remaining := max(time.Duration(v.memory.endGrace)*time.Second-v.now.Sub(v.memory.ending), 0)
	sidecars := map[string]*corev1.Container{}
	specs := map[string]*corev1.Container{}
	if v.pod != nil {
		for i := range v.pod.Spec.Containers {
			specs[v.pod.Spec.Containers[i].Name] = &v.pod.Spec.Containers[i]
		}
		for i := range v.pod.Spec.InitContainers {
			c := &v.pod.Spec.InitContainers[i]
			specs[c.Name] = c
			if status.IsSidecar(c) {
				sidecars[c.Name] = c
			}
		}
	}
	kill := func(c *runtime.Container) {
		if !v.busy[keyKill+c.ID] {
			p.do(action{
				key: keyKill + c.ID, id: c.ID, container: specs[c.Name], hook: specs[c.Name] != nil,
				grace: remaining, reason: "Stopping container " + c.Name,
			})
		}
	}
	running := false
	for name, list := range v.containers {
		for i := range list {
			if list[i].State == runtime.Running && sidecars[name] == nil {
				running = true
				kill(&list[i])
			}
		}
	}
	if running {
		return true
	}
	if v.pod == nil {
		return false
	}
	// In reverse order, each after the one that was started later.
	for i := len(v.pod.Spec.InitContainers) - 1; i >= 0; i-- {
		name := v.pod.Spec.InitContainers[i].Name
		list := v.containers[name]
		for j := range list {
			if list[j].State == runtime.Running {
				running = true
				kill(&list[j])
			}
		}
		if running {
			return true
		}
	}
	return false
}

// initWasDone says whether containers of the pod were ever due.
func initWasDone(v view) bool {
	if v.pod == nil || len(v.pod.Spec.InitContainers) == 0 {
		return true
	}
	for i := range v.pod.Spec.Containers {
		if v.newest(v.pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}
