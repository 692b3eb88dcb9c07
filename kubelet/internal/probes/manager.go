// Package probes runs the startup, readiness and liveness probes of all containers
// from one queue ordered by due time, and keeps what they found.
package probes

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
)

// Before its first success a readiness or startup probe is tried soon and often, so
// that a container that is up after 20 ms is not noticed after a whole period.
// Failures of such early tries count for nothing.
const (
	firstRetry     = 10 * time.Millisecond
	firstExecRetry = 100 * time.Millisecond // a process each
)

// parallel bounds probes that run at the same time.
const parallel = 32

// Target is a container to be probed.
type Target struct {
	PodUID      types.UID
	Namespace   string
	PodName     string
	ContainerID string
	Container   *corev1.Container
	// PodIP that http, tcp and grpc probes reach by default.
	PodIP     string
	StartedAt time.Time
	// Ready and Started are the last known state of a container that was running
	// when the kubelet started; they hold until a probe finds otherwise.
	Ready, Started bool
	// Adopted says that the container was running when the kubelet started.
	Adopted bool
}

// Result is what the probes of a container found so far.
type Result struct {
	Started, Ready bool
	// Failed says that the startup or liveness probe failed for good: the container
	// must be restarted. Probe is that probe, Message its last output.
	Failed  bool
	Probe   *corev1.Probe
	Message string
}

// Executor runs one probe. ok is the verdict; err says that none was reached, which counts as failure.
type Executor interface {
	Probe(ctx context.Context, probe *corev1.Probe, target Target) (ok bool, message string, err error)
}

// Config of a Manager; every field is required but for Failed.
type Config struct {
	Executor Executor
	Clock    clock.Clock
	// Changed is called, from any goroutine, when a Result changed. It must not block.
	Changed func(pod types.UID, container string, result Result)
	// Failed is called, from any goroutine, for every failure that counts; probe is
	// "Liveness", "Readiness" or "Startup". It must not block. May be nil.
	Failed func(pod types.UID, container, probe, message string)
}

// Manager runs probes. Safe for concurrent use.
type Manager struct {
	cfg  Config
	wake chan struct{}

	mu         sync.Mutex
	containers map[string]*container // by id
	queue      queue
}

// New returns a manager that probes once it runs.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, wake: make(chan struct{}, 1), containers: map[string]*container{}}
}

type kind int

const (
	startup kind = iota
	readiness
	liveness
)

// String is the name that users know the probe by.
func (k kind) String() string { return [...]string{"Startup", "Readiness", "Liveness"}[k] }

type container struct {
	target Target
	result Result
	gone   bool
}

type task struct {
	container           *container
	kind                kind
	probe               *corev1.Probe
	due                 time.Time
	early               time.Duration // next early retry; 0 once regular
	successes, failures int32
}

// Start begins probing; a container that is probed already is left alone.
func (m *Manager) Start(target Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.containers[target.ContainerID]; known {
		return
	}
	spec := target.Container
	c := &container{target: target, result: Result{
		Started: spec.StartupProbe == nil || target.Started,
	}}
	c.result.Ready = c.result.Started && (spec.ReadinessProbe == nil || target.Ready)
	m.containers[target.ContainerID] = c
	if c.result.Started {
		m.scheduleRunning(c)
	} else {
		m.schedule(c, startup, spec.StartupProbe)
	}
}

// scheduleRunning begins the probes that wait for startup.
func (m *Manager) scheduleRunning(c *container) {
	m.schedule(c, readiness, c.target.Container.ReadinessProbe)
	m.schedule(c, liveness, c.target.Container.LivenessProbe)
}

func (m *Manager) schedule(c *container, k kind, probe *corev1.Probe) {
	if probe == nil {
		return
	}
	due := c.target.StartedAt.Add(time.Duration(probe.InitialDelaySeconds) * time.Second)
	now := m.cfg.Clock.Now()
	t := &task{container: c, kind: k, probe: probe}
	switch {
	case c.target.Adopted:
		// Spread out: a restarted kubelet must not probe everything in one instant.
		due = now.Add(rand.N(period(probe)))
	case k != liveness:
		t.early = firstRetry
		if probe.Exec != nil {
			t.early = firstExecRetry
		}
	}
	if due.Before(now) {
		due = now
	}
	t.due = due
	m.push(t)
}

func (m *Manager) push(t *task) {
	heap.Push(&m.queue, t)
	if m.queue[0] == t {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// Stop ends probing of a container and forgets its result.
func (m *Manager) Stop(containerID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.containers[containerID]; ok {
		c.gone = true
		delete(m.containers, containerID)
	}
}

// Result of a container; ok is false when it is not probed.
func (m *Manager) Result(containerID string) (result Result, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.containers[containerID]
	if !ok {
		return Result{}, false
	}
	return c.result, true
}

// Run probes until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	slots := make(chan struct{}, parallel)
	timer := m.cfg.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		t, wait := m.next()
		if t == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return group.Wait()
			case <-m.wake:
			case <-timer.C():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return group.Wait()
		}
		group.Go(func(ctx context.Context) error {
			defer func() { <-slots }()
			m.run(ctx, t)
			return nil
		})
	}
}

// next takes a due task off the queue, or says how long to wait for one.
func (m *Manager) next() (*task, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.queue) > 0 {
		first := m.queue[0]
		if first.container.gone {
			heap.Pop(&m.queue)
			continue
		}
		if wait := first.due.Sub(m.cfg.Clock.Now()); wait > 0 {
			return nil, wait
		}
		heap.Pop(&m.queue)
		return first, 0
	}
	return nil, time.Hour
}

func (m *Manager) run(ctx context.Context, t *task) {
	timeout := time.Second
	if t.probe.TimeoutSeconds > 0 {
		timeout = time.Duration(t.probe.TimeoutSeconds) * time.Second
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	ok, message, err := m.cfg.Executor.Probe(bounded, t.probe, t.container.target)
	cancel()
	if ctx.Err() != nil {
		return // ended with the kubelet, says nothing about the container
	}
	if err != nil {
		ok, message = false, err.Error()
	}
	m.mu.Lock()
	c := t.container
	if c.gone {
		m.mu.Unlock()
		return
	}
	before := c.result
	counts := !ok && t.early == 0
	again := m.observe(t, ok, message)
	if again {
		t.due = m.cfg.Clock.Now().Add(m.interval(t))
		m.push(t)
	}
	after := c.result
	m.mu.Unlock()
	if after.Started != before.Started || after.Ready != before.Ready || after.Failed != before.Failed {
		m.cfg.Changed(c.target.PodUID, c.target.Container.Name, after)
	}
	if counts && m.cfg.Failed != nil {
		m.cfg.Failed(c.target.PodUID, c.target.Container.Name, t.kind.String(), message)
	}
}

// observe counts one verdict and reports whether the probe goes on. Called with mu held.
func (m *Manager) observe(t *task, ok bool, message string) bool {
	result := &t.container.result
	if ok {
		t.successes, t.failures, t.early = t.successes+1, 0, 0
	} else {
		t.successes = 0
		if t.early == 0 {
			t.failures++
		}
	}
	succeeded := ok && t.successes >= max(1, t.probe.SuccessThreshold)
	failed := !ok && t.failures >= threshold(t.probe)
	switch t.kind {
	case startup:
		if succeeded {
			result.Started = true
			result.Ready = t.container.target.Container.ReadinessProbe == nil
			m.scheduleRunning(t.container)
			return false
		}
		if failed {
			result.Failed, result.Probe, result.Message = true, t.probe, message
			return false
		}
	case readiness:
		if succeeded {
			result.Ready = true
		}
		if failed {
			result.Ready, result.Message = false, message
		}
	case liveness:
		if failed {
			result.Failed, result.Probe, result.Message = true, t.probe, message
			return false
		}
	}
	return true
}

func (m *Manager) interval(t *task) time.Duration {
	regular := period(t.probe)
	if t.early > 0 {
		wait := t.early
		t.early *= 2
		if wait < regular {
			return wait
		}
		t.early = 0
	}
	return regular
}

func period(probe *corev1.Probe) time.Duration {
	if probe.PeriodSeconds <= 0 {
		return 10 * time.Second
	}
	return time.Duration(probe.PeriodSeconds) * time.Second
}

func threshold(probe *corev1.Probe) int32 {
	if probe.FailureThreshold <= 0 {
		return 3
	}
	return probe.FailureThreshold
}

// queue is a heap by due time.
type queue []*task

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*task)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return last
}
