// Package podworker makes the runtime match the pods of this machine. Each pod has
// one worker, which looks at the pod and at the runtime, decides what is missing,
// does it, and looks again; it may be asked to look any number of times.
package podworker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/platform/lifecycle"
)

// relistEvery bounds how long a missed runtime event stays unnoticed.
const relistEvery = 45 * time.Second

// API is what workers write.
type API interface {
	// UpdateStatus writes the status of pod, which carries uid and resource version,
	// and returns what is stored now.
	UpdateStatus(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error)
	// Get reads a pod as it is now.
	Get(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	// ConfirmDeleted removes the API object of a pod whose containers are gone.
	ConfirmDeleted(ctx context.Context, pod *corev1.Pod) error
}

// Objects are what pods refer to.
type Objects interface {
	// Await returns once every object that pod refers to was looked up, found or not.
	Await(ctx context.Context, pod *corev1.Pod) error
	// Use declares that a pod refers to objects; Release ends that.
	Use(pod *corev1.Pod)
	Release(uid types.UID)
	// Sources for the environment of pod's containers.
	Sources(pod *corev1.Pod) env.Sources
	// Credentials for pulling images of pod.
	Credentials(pod *corev1.Pod, image string) []runtime.Credentials
}

// Volumes of pods.
type Volumes interface {
	Setup(ctx context.Context, pod *corev1.Pod) error
	Mounts(pod *corev1.Pod, container *corev1.Container, expand func(string) string) ([]runtime.Mount, error)
	Teardown(uid string) error
}

// Cgroups of pods.
type Cgroups interface {
	Parent(pod *corev1.Pod) string
	Create(pod *corev1.Pod) error
	Remove(ctx context.Context, uid string) error
}

// Prober probes containers.
type Prober interface {
	Start(probes.Target)
	Stop(containerID string)
	Result(containerID string) (probes.Result, bool)
}

// Config of a Manager; every field is required.
type Config struct {
	Runtime runtime.Runtime
	API     API
	Objects Objects
	Volumes Volumes
	Cgroups Cgroups
	Prober  Prober
	// HTTPGet runs lifecycle hooks of that kind.
	HTTPGet func(ctx context.Context, action *corev1.HTTPGetAction, target probes.Target) error
	// LogTail returns the end of a container's log file.
	LogTail func(path string) string
	// RemoveLogs removes a pod's log directory.
	RemoveLogs func(pod runtime.PodRef)
	// Event tells users what happened to a pod, or to one of its containers if that
	// is not empty; it must not block.
	Event   func(pod *corev1.Pod, container, severity, reason, message string)
	Node    podspec.Node
	HostIPs []string
	Clock   clock.WithTicker
	Log     *zap.Logger
}

// Manager owns the workers.
type Manager struct {
	cfg     Config
	started time.Time
	pulls   chan struct{} // tickets for image pulls
	starts  chan struct{} // tickets for sandboxes being made

	mu        sync.Mutex
	workers   map[types.UID]*worker
	group     *lifecycle.Group // set by Run
	waiting   []*worker        // made before Run
	confirmed bool             // the list of pods is a master's, not only a snapshot's
}

// What is done at the same time, over all pods. More sandboxes at once would not be
// ready sooner, only all of them later.
const (
	maxPulls         = 4
	minStarts        = 8
	startsPerProcess = 4
)

// New returns a manager that works once it runs.
func New(cfg Config) *Manager {
	return &Manager{
		cfg: cfg, started: cfg.Clock.Now(), workers: map[types.UID]*worker{}, pulls: make(chan struct{}, maxPulls),
		starts: make(chan struct{}, max(minStarts, startsPerProcess*goruntime.GOMAXPROCS(0))),
	}
}

// Set tells of a pod of this machine, new or changed. pod is shared and not changed.
func (m *Manager) Set(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, ok := m.workers[pod.UID]
	if !ok {
		w = m.add(podspec.Ref(pod))
	}
	w.set(pod)
}

// Gone tells that a pod's API object does not exist any more, as a master said.
func (m *Manager) Gone(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.workers[pod.UID]; ok {
		w.abandon()
	}
}

// Confirm tells that a master confirmed the list of pods: everything on the machine
// that no pod was Set for may go. Before that nothing is stopped for being unknown.
func (m *Manager) Confirm() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.confirmed = true
	for _, w := range m.workers {
		w.abandonIfUnknown()
	}
}

// Trigger makes a pod's worker look again.
func (m *Manager) Trigger(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		w.wake()
	}
}

// Refresh makes a pod's worker write its volumes anew, because an object changed
// that the pod refers to, and try again what failed for want of it.
func (m *Manager) Refresh(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		w.refresh()
	}
}

// Restart ends instances of a pod's containers, by name of the container, as if they had
// crashed but without their wait: an instance that has ended already is replaced at once. A
// restart of the kubelet forgets what was not begun. False if the pod has no worker.
func (m *Manager) Restart(pod *corev1.Pod, instances map[string]string, user string) bool {
	m.mu.Lock()
	w := m.workers[pod.UID]
	m.mu.Unlock()
	if w == nil {
		return false
	}
	for name := range instances {
		m.cfg.Event(pod, name, normal, "Restarting", fmt.Sprintf("Container %s is restarted in place, as %s asked", name, user))
	}
	w.restart(instances)
	return true
}

// TriggerAll makes every worker look again, at once: the network became ready, say.
func (m *Manager) TriggerAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.retry()
	}
}

// Has says whether a pod has a worker.
func (m *Manager) Has(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.workers[uid]
	return ok
}

// ByUID returns a pod, nil if it has no worker or only the runtime knows it.
func (m *Manager) ByUID(uid types.UID) *corev1.Pod {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return nil
	}
	return w.current()
}

// Pod returns the worker's pod by namespace and name, newest first by creation.
func (m *Manager) Pod(namespace, name string) *corev1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found *corev1.Pod
	for _, w := range m.workers {
		pod := w.current()
		if pod != nil && pod.Namespace == namespace && pod.Name == name &&
			(found == nil || found.CreationTimestamp.Before(&pod.CreationTimestamp)) {
			found = pod
		}
	}
	return found
}

// Pods lists the pods that are set, by namespace and name. They are shared.
func (m *Manager) Pods() []*corev1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	pods := make([]*corev1.Pod, 0, len(m.workers))
	for _, w := range m.workers {
		if pod := w.current(); pod != nil {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return pods
}

// add makes a worker; called with mu held. A pod waits until workers of its name's
// former holders have finished.
func (m *Manager) add(ref runtime.PodRef) *worker {
	w := newWorker(m, ref)
	for _, other := range m.workers {
		if other.ref.Namespace == ref.Namespace && other.ref.Name == ref.Name {
			w.after = append(w.after, other.finished)
		}
	}
	m.workers[types.UID(ref.UID)] = w
	if m.group == nil {
		m.waiting = append(m.waiting, w)
	} else {
		m.group.Go(w.run)
	}
	return w
}

func (m *Manager) remove(w *worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workers[types.UID(w.ref.UID)] == w {
		delete(m.workers, types.UID(w.ref.UID))
	}
}

// Run works until ctx ends. Ending leaves all pods running.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.adopt(ctx); err != nil {
		return err
	}
	group := lifecycle.NewGroup(ctx)
	m.mu.Lock()
	m.group = group
	for _, w := range m.waiting {
		group.Go(w.run)
	}
	m.waiting = nil
	m.mu.Unlock()
	group.Go(m.followEvents)
	group.Go(m.relist)
	return group.Wait()
}

// adopt makes workers for what runs already. Those that no pod is Set for wait for Confirm.
func (m *Manager) adopt(ctx context.Context) error {
	for {
		err := m.look(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		m.cfg.Log.Warn("container runtime does not answer", zap.Error(err))
		select {
		case <-m.cfg.Clock.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look lists the runtime, makes workers for unknown pods and wakes the others.
func (m *Manager) look(ctx context.Context) error {
	sandboxes, err := m.cfg.Runtime.ListSandboxes(ctx, "")
	if err != nil {
		return err
	}
	containers, err := m.cfg.Runtime.ListContainers(ctx, "")
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	adopt := func(ref runtime.PodRef) {
		if ref.UID == "" {
			return // not made by a kubelet
		}
		w, known := m.workers[types.UID(ref.UID)]
		if !known {
			w = m.add(ref)
			if m.confirmed {
				w.abandon()
			}
		}
		w.wake()
	}
	for i := range sandboxes {
		adopt(sandboxes[i].Pod)
	}
	for i := range containers {
		adopt(containers[i].Pod)
	}
	for _, w := range m.workers {
		w.wake()
	}
	return nil
}

// followEvents keeps a stream of runtime events open.
func (m *Manager) followEvents(ctx context.Context) error {
	for {
		err := m.cfg.Runtime.Events(ctx, func() {
			// What happened while no stream was open is found by looking.
			if err := m.look(ctx); err != nil {
				m.cfg.Log.Warn("list after reconnecting", zap.Error(err))
			}
		}, func(event runtime.Event) {
			m.Trigger(types.UID(event.Pod.UID))
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.cfg.Log.Warn("runtime event stream ended", zap.Error(err))
		select {
		case <-m.cfg.Clock.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Manager) relist(ctx context.Context) error {
	ticker := m.cfg.Clock.NewTicker(relistEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C():
			if err := m.look(ctx); err != nil && !errors.Is(err, context.Canceled) {
				m.cfg.Log.Warn("relist", zap.Error(err))
			}
		}
	}
}
