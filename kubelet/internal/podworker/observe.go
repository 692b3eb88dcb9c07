package podworker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
)

// observation is what the runtime has of a pod.
type observation struct {
	sandboxes  []runtime.Sandbox              // newest first
	containers map[string][]runtime.Container // by name, newest first
	details    map[string]runtime.Container   // by id, of the state they were read in
	addresses  map[string][]string            // by sandbox id
}

func newObservation() observation {
	return observation{details: map[string]runtime.Container{}, addresses: map[string][]string{}}
}

// observe lists the pod's sandboxes and containers, and reads details of those
// that changed: a state's details do not change while it lasts.
func (w *worker) observe(ctx context.Context) error {
	sandboxes, err := w.m.cfg.Runtime.ListSandboxes(ctx, w.ref.UID)
	if err != nil {
		return err
	}
	containers, err := w.m.cfg.Runtime.ListContainers(ctx, w.ref.UID)
	if err != nil {
		return err
	}
	slices.SortFunc(sandboxes, func(a, b runtime.Sandbox) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
	addresses := map[string][]string{}
	for i := range sandboxes {
		s := &sandboxes[i]
		if !s.Ready {
			continue
		}
		ips, known := w.seen.addresses[s.ID]
		if !known {
			full, err := w.m.cfg.Runtime.Sandbox(ctx, s.ID)
			if errors.Is(err, runtime.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			ips = full.IPs
		}
		s.IPs, addresses[s.ID] = ips, ips
	}
	details := make(map[string]runtime.Container, len(containers))
	byName := map[string][]runtime.Container{}
	for i := range containers {
		c := containers[i]
		known, ok := w.seen.details[c.ID]
		if !ok || known.State != c.State {
			known, err = w.m.cfg.Runtime.Container(ctx, c.ID)
			if errors.Is(err, runtime.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			known.SandboxID = c.SandboxID
		}
		details[c.ID] = known
		byName[known.Name] = append(byName[known.Name], known)
	}
	for _, list := range byName {
		slices.SortFunc(list, func(a, b runtime.Container) int {
			return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
		})
	}
	for id := range w.seen.details {
		if now, ok := details[id]; !ok || now.State != runtime.Running {
			w.m.cfg.Prober.Stop(id)
		}
	}
	maps.DeleteFunc(w.memory.asked, func(id string, _ bool) bool { _, here := details[id]; return !here })
	w.seen.sandboxes, w.seen.containers, w.seen.details, w.seen.addresses = sandboxes, byName, details, addresses
	return nil
}

// attempt is the progress of something that is tried until it works.
type attempt struct {
	ready    bool
	err      error
	failures int
	next     time.Time // not before
}

func (a *attempt) fail(err error, now time.Time, first, longest time.Duration) {
	a.ready, a.err = false, err
	a.next = now.Add(min(first<<min(a.failures, 16), longest))
	a.failures++
}

func (a *attempt) succeed() { *a = attempt{ready: true} }

// imageAttempt is the image of one container's next instance.
type imageAttempt struct {
	attempt
	instance uint32
	image    runtime.Image
	never    bool // the policy forbids pulling
	misnamed bool // nothing can have this name
}

// memory is what a worker knows beyond API and runtime. Losing it, by a restart,
// must cost no more than a retry.
type memory struct {
	volumes   attempt
	sandbox   attempt
	sandboxes uint32 // attempts that were used up
	images    map[string]*imageAttempt
	creates   map[string]*attempt // creating the next instance
	crashes   map[string]crash
	hooked    map[string]error // by container id: the postStart hook failed
	asked     map[string]bool  // containers by id that somebody asked to be restarted
	stopped   map[string]bool  // sandboxes that were stopped
	messages  map[string]string
	ending    time.Time // when termination began
	endGrace  int64     // seconds it was given
	toreDown  bool      // volumes and cgroup are gone
	teardown  attempt
	deletion  attempt
	statusTry attempt
	tries     map[string]*attempt // failures of operations that have no other place for them
	statusDue time.Time
	failure   status.Waiting
	// backingOff are the containers whose wait has been told as an event.
	backingOff map[string]bool
}

// crash counts restarts in quick succession.
type crash struct {
	id    string // instance it was counted for
	count int
}

func newMemory() memory {
	return memory{
		images: map[string]*imageAttempt{}, creates: map[string]*attempt{}, crashes: map[string]crash{},
		hooked: map[string]error{}, asked: map[string]bool{}, stopped: map[string]bool{}, messages: map[string]string{},
		tries: map[string]*attempt{},
	}
}

func (m *memory) forgetFailures() {
	m.volumes.next, m.sandbox.next = time.Time{}, time.Time{}
	clear(m.tries)
	for _, create := range m.creates {
		create.next = time.Time{}
	}
}

// view is everything a decision depends on.
type view struct {
	now        time.Time
	ref        runtime.PodRef
	pod        *corev1.Pod // nil when only the runtime knows the pod
	gone       bool
	blocked    bool // a former holder of the name is still here
	sandboxes  []runtime.Sandbox
	containers map[string][]runtime.Container
	busy       map[string]bool
	memory     *memory
	result     func(id string) (probes.Result, bool)
	grace      int64
	confirmed  bool // a master confirmed the list of pods
}

func (w *worker) view(busy map[string]bool) view {
	v := view{
		now: w.m.cfg.Clock.Now(), ref: w.ref, sandboxes: w.seen.sandboxes, containers: w.seen.containers,
		busy: busy, memory: &w.memory, result: w.m.cfg.Prober.Result,
	}
	w.m.mu.Lock()
	v.confirmed = w.m.confirmed
	w.m.mu.Unlock()
	w.mu.Lock()
	v.pod, v.gone = w.pod, w.gone
	w.mu.Unlock()
	if v.pod != nil {
		v.grace = podspec.GraceSeconds(v.pod)
	} else {
		v.grace = graceOf(w.seen)
	}
	for _, finished := range w.after {
		select {
		case <-finished:
		default:
			v.blocked = true
		}
	}
	if v.ending() {
		if w.memory.ending.IsZero() {
			w.memory.ending, w.memory.endGrace = v.now, v.grace
			w.cancelStarts()
		} else if v.grace < w.memory.endGrace {
			w.memory.endGrace = v.grace
			w.cancelKills()
		}
	}
	return v
}
