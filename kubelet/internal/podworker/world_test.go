package podworker_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/podworker"
	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/runtime/runtimetest"
	"kijabi.dev/platform/lifecycle"
)

// world is a machine and its masters in memory and in synthetic time.
type world struct {
	t       *testing.T
	runtime *runtimetest.Fake
	manager *podworker.Manager

	mu      sync.Mutex
	pod     *corev1.Pod
	version int
	away    bool // no master answers
	deleted []types.UID
	// confirmed is how often the end of a pod was confirmed.
	confirmed int
	probing   func(container string) probes.Result
	events    []string
	broken    error // why volumes cannot be made
}

// inWorld runs a test beside a manager.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	directory := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, runtime: runtimetest.NewFake("image"), probing: func(string) probes.Result {
			return probes.Result{Started: true, Ready: true}
		}}
		w.restart(directory, test)
	})
}

// restart runs a kubelet's life.
func (w *world) restart(directory string, test func(w *world)) {
	w.manager = podworker.New(podworker.Config{
		Runtime: w.runtime, API: w, Objects: w, Volumes: noVolumes{w}, Cgroups: noCgroups{}, Prober: w,
		HTTPGet: func(context.Context, *corev1.HTTPGetAction, probes.Target) error { return nil },
		LogTail: func(string) string { return "" }, RemoveLogs: func(runtime.PodRef) {},
		Event: func(_ *corev1.Pod, container, _, reason, message string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, container+" "+reason+": "+message)
		},
		Node:  podspec.Node{Name: "n", LogRoot: filepath.Join(directory, "logs"), DataDir: directory, ClusterDomain: "cluster.local"},
		Clock: clock.RealClock{}, Log: zap.NewNop(),
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	group := lifecycle.NewGroup(ctx)
	group.Go(w.manager.Run)
	test(w)
	cancel()
	if err := group.Wait(); err != nil {
		w.t.Error(err)
	}
}

// set creates or changes the pod.
func (w *world) set(change func(pod *corev1.Pod)) *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid", Generation: 1},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "main", Image: "image"}}},
	}
	if w.pod != nil {
		pod = w.pod.DeepCopy()
	}
	change(pod)
	return w.put(pod)
}

func (w *world) put(pod *corev1.Pod) *corev1.Pod {
	w.version++
	pod.ResourceVersion = strconv.Itoa(w.version)
	w.pod = pod
	w.manager.Set(pod)
	return pod
}

func (w *world) terminate(grace int64) {
	w.set(func(pod *corev1.Pod) {
		now := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	})
}

func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) status() corev1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pod == nil {
		return corev1.PodStatus{}
	}
	return w.pod.Status
}

func (w *world) gone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.deleted) > 0
}

// newest returns the newest instance of a container.
func (w *world) newest(name string) runtime.Container {
	list, _ := w.runtime.ListContainers(w.t.Context(), "")
	var newest runtime.Container
	for _, c := range list {
		if c.Name == name && (newest.ID == "" || c.Attempt >= newest.Attempt) {
			newest = c
		}
	}
	return newest
}

var errAway = fmt.Errorf("no master answers")

// UpdateStatus implements podworker.API.
func (w *world) UpdateStatus(_ context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.away:
		return nil, errAway
	case w.pod == nil || w.pod.UID != pod.UID:
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
	case w.pod.ResourceVersion != pod.ResourceVersion:
		return nil, apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errAway)
	}
	next := w.pod.DeepCopy()
	next.Status = *pod.Status.DeepCopy()
	return w.put(next), nil
}

// Get implements podworker.API.
func (w *world) Get(_ context.Context, _, name string) (*corev1.Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, errAway
	}
	if w.pod == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return w.pod, nil
}

// ConfirmDeleted implements podworker.API.
func (w *world) ConfirmDeleted(_ context.Context, pod *corev1.Pod) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return errAway
	}
	for _, c := range must(w.runtime.ListContainers(context.Background(), string(pod.UID))) {
		if c.State == runtime.Running {
			w.t.Errorf("the API object went while container %s runs", c.Name)
		}
	}
	w.confirmed++
	if len(w.pod.Finalizers) > 0 { // it stays, with no grace left
		next := w.pod.DeepCopy()
		next.DeletionGracePeriodSeconds = new(int64)
		w.put(next)
		return nil
	}
	w.remove()
	return nil
}

// remove takes the pod away. The caller holds mu.
func (w *world) remove() {
	w.deleted = append(w.deleted, w.pod.UID)
	w.manager.Gone(w.pod)
	w.pod = nil
}

func must[T any](value T, _ error) T { return value }

func (w *world) Await(context.Context, *corev1.Pod) error { return nil }
func (w *world) Use(*corev1.Pod)                          {}
func (w *world) Release(types.UID)                        {}
func (w *world) Sources(*corev1.Pod) env.Sources {
	return env.Sources{IsNotFound: apierrors.IsNotFound}
}
func (w *world) Credentials(*corev1.Pod, string) []runtime.Credentials {
	return nil
}

func (w *world) Start(probes.Target) {}
func (w *world) Stop(string)         {}
func (w *world) Result(id string) (probes.Result, bool) {
	c, err := w.runtime.Container(context.Background(), id)
	if err != nil {
		return probes.Result{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.probing(c.Name), true
}

type noVolumes struct{ world *world }

func (v noVolumes) Setup(context.Context, *corev1.Pod) error {
	v.world.mu.Lock()
	defer v.world.mu.Unlock()
	return v.world.broken
}

func (noVolumes) Mounts(*corev1.Pod, *corev1.Container, func(string) string) ([]runtime.Mount, error) {
	return nil, nil
}
func (noVolumes) Teardown(string) error { return nil }

type noCgroups struct{}

func (noCgroups) Parent(pod *corev1.Pod) string        { return "/" + string(pod.UID) }
func (noCgroups) Create(*corev1.Pod) error             { return nil }
func (noCgroups) Remove(context.Context, string) error { return nil }
