package podworker

import (
	"bytes"
	"context"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
	"kijabi.dev/platform/lifecycle"
)

// settle is how long changes that nobody waits for gather before they are written.
const settle = 250 * time.Millisecond

// publish writes the pod's status if it changed. It returns the time until it
// wants to be called again, 0 if it need not be.
func (w *worker) publish(ctx context.Context, group *lifecycle.Group, v view, p plan) time.Duration {
	if v.gone || v.busy[keyStatus] || v.busy[keyDelete] {
		return 0
	}
	for _, a := range p.actions {
		if a.key == keyDelete {
			w.confirm(ctx, group, v, p)
			return 0
		}
	}
	desired := w.compute(v, p)
	if same(&desired, &v.pod.Status) {
		w.memory.statusDue = time.Time{}
		return 0
	}
	if wait := w.memory.statusTry.next.Sub(v.now); wait > 0 {
		return wait
	}
	if !urgent(&desired, &v.pod.Status) {
		if w.memory.statusDue.IsZero() {
			w.memory.statusDue = v.now.Add(settle)
		}
		if wait := w.memory.statusDue.Sub(v.now); wait > 0 {
			return wait
		}
	}
	w.memory.statusDue = time.Time{}
	w.launch(ctx, group, keyStatus, func(ctx context.Context) error {
		return w.write(ctx, v.pod, desired)
	}, func(err error) {
		if err != nil {
			w.memory.statusTry.fail(err, w.m.cfg.Clock.Now(), writeRetry, writeRetryMax)
			return
		}
		w.memory.statusTry.succeed()
	})
	return 0
}

// confirm writes the final status and then removes the API object.
func (w *worker) confirm(ctx context.Context, group *lifecycle.Group, v view, p plan) {
	desired := w.compute(v, p)
	w.launch(ctx, group, keyDelete, func(ctx context.Context) error {
		pod := v.pod
		if !same(&desired, &pod.Status) {
			if err := w.write(ctx, pod, desired); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return w.m.cfg.API.ConfirmDeleted(ctx, pod)
	}, func(err error) {
		if err != nil {
			w.memory.deletion.fail(err, w.m.cfg.Clock.Now(), writeRetry, writeRetryMax)
			return
		}
		w.memory.deletion.succeed()
	})
}

// write stores a status, taking over what others changed meanwhile.
func (w *worker) write(ctx context.Context, pod *corev1.Pod, desired corev1.PodStatus) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		next := pod.DeepCopy()
		next.Status = *desired.DeepCopy()
		stored, err := w.m.cfg.API.UpdateStatus(ctx, next)
		if err == nil {
			w.mu.Lock()
			if w.pod != nil && older(w.pod, stored) {
				w.pod = stored
			}
			w.mu.Unlock()
			return nil
		}
		if !apierrors.IsConflict(err) {
			return err
		}
		newest, readErr := w.m.cfg.API.Get(ctx, w.ref.Namespace, w.ref.Name)
		if readErr != nil {
			return readErr
		}
		if newest.UID != pod.UID {
			return apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
		}
		if newest.ResourceVersion == pod.ResourceVersion {
			return err // refused for another reason
		}
		pod = newest
		desired.Conditions = mergeOwn(newest.Status.Conditions, desired.Conditions)
	}
}

// mergeOwn puts our conditions over the newest ones.
func mergeOwn(newest, desired []corev1.PodCondition) []corev1.PodCondition {
	var ours []corev1.PodCondition
	for _, condition := range desired {
		switch condition.Type {
		case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady:
			ours = append(ours, condition)
		default:
		}
	}
	return status.MergeConditions(newest, ours)
}

func (w *worker) compute(v view, p plan) corev1.PodStatus {
	return status.Compute(status.Input{
		Pod: v.pod, HostIPs: w.m.cfg.HostIPs, Sandbox: v.ready(), Instances: v.containers, Waiting: p.waiting,
		Result: v.result, InitDone: p.initDone, Ended: p.ended, Failure: w.memory.failure,
		Now: v.now.Truncate(time.Second),
		Message: func(c *corev1.Container, instance *runtime.Container) string {
			return w.message(v.pod, c, instance)
		},
	})
}

// message reads an instance's termination message once.
func (w *worker) message(pod *corev1.Pod, c *corev1.Container, instance *runtime.Container) string {
	if known, ok := w.memory.messages[instance.ID]; ok {
		return known
	}
	text, ok := writtenMessage(pod, status.ContainerID(instance.ID))
	if !ok {
		text = podspec.TerminationMessage(w.m.cfg.Node, w.ref.UID, c, instance.Attempt, instance.ExitCode, func() string {
			return w.m.cfg.LogTail(LogPath(w.m.cfg.Node, w.ref, c.Name, instance.Attempt))
		})
	}
	w.memory.messages[instance.ID] = text
	return text
}

func (w *worker) readMessages(pod *corev1.Pod) {
	if pod == nil {
		return
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for j := range w.seen.containers[list[i].Name] {
				if c := &w.seen.containers[list[i].Name][j]; c.State == runtime.Exited {
					w.message(pod, &list[i], c)
				}
			}
		}
	}
}

// writtenMessage finds a message that the API has already.
func writtenMessage(pod *corev1.Pod, id string) (string, bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			for _, state := range []corev1.ContainerState{list[i].State, list[i].LastTerminationState} {
				if state.Terminated != nil && state.Terminated.ContainerID == id {
					return state.Terminated.Message, true
				}
			}
		}
	}
	return "", false
}

// same compares encodings: they hold times in seconds, as the API does.
func same(a, b *corev1.PodStatus) bool {
	left, err := a.Marshal()
	right, other := b.Marshal()
	return err == nil && other == nil && bytes.Equal(left, right)
}

// urgent says that somebody waits for the change.
func urgent(desired, old *corev1.PodStatus) bool {
	if desired.Phase != old.Phase && desired.Phase != corev1.PodPending || ready(desired) != ready(old) {
		return true
	}
	return ended(desired) != ended(old)
}

func ready(s *corev1.PodStatus) bool {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.PodReady {
			return s.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

func ended(s *corev1.PodStatus) int {
	count := 0
	for i := range s.ContainerStatuses {
		if s.ContainerStatuses[i].State.Terminated != nil {
			count++
		}
	}
	return count
}

// probe starts probing of containers that run.
func (m *Manager) probe(w *worker, v view) {
	if v.pod == nil || v.ending() {
		return
	}
	sandbox := v.ready()
	if sandbox == nil {
		return
	}
	for _, list := range [][]corev1.Container{v.pod.Spec.InitContainers, v.pod.Spec.Containers} {
		for i := range list {
			spec := &list[i]
			c := v.newest(spec.Name)
			if c == nil || c.State != runtime.Running || v.busy[keyStart+spec.Name] || w.memory.hooked[c.ID] != nil {
				continue
			}
			target := probes.Target{
				PodUID: v.pod.UID, Namespace: v.pod.Namespace, PodName: v.pod.Name, ContainerID: c.ID, Container: spec,
				StartedAt: c.StartedAt, Adopted: c.StartedAt.Before(m.started),
			}
			ips := sandbox.IPs
			if v.pod.Spec.HostNetwork {
				ips = m.cfg.HostIPs
			}
			if len(ips) > 0 {
				target.PodIP = ips[0]
			}
			target.Ready, target.Started = lastKnown(v.pod, status.ContainerID(c.ID))
			m.cfg.Prober.Start(target)
		}
	}
}

func lastKnown(pod *corev1.Pod, id string) (ready, started bool) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].ContainerID == id {
				return list[i].Ready, list[i].Started != nil && *list[i].Started
			}
		}
	}
	return false, false
}

// graceOf reads the grace period back from what the runtime keeps of a pod.
func graceOf(seen observation) int64 {
	for i := range seen.sandboxes {
		if seconds, err := strconv.ParseInt(seen.sandboxes[i].Annotations[podspec.AnnotationGrace], 10, 64); err == nil {
			return seconds
		}
	}
	return 30
}
