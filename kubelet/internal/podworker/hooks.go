package podworker

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/runtime"
)

// minKillGrace is what a process gets after a preStop hook used up all time.
const minKillGrace = 2 * time.Second

func (w *worker) postStart(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, sandbox runtime.Sandbox) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := w.runHook(ctx, pod, c, id, c.Lifecycle.PostStart, sandbox.IPs, 0); err != nil {
		return fmt.Errorf("postStart hook of container %s: %w", c.Name, err)
	}
	return nil
}

// preStop runs the hook and returns the grace that is left.
func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, a action, grace time.Duration) time.Duration {
	c := a.container
	if c == nil || c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return grace
	}
	began := w.m.cfg.Clock.Now()
	bounded, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	var ips []string
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	if err := w.runHook(bounded, pod, c, a.id, c.Lifecycle.PreStop, ips, grace); err != nil {
		w.m.cfg.Event(pod, c.Name, warning, "FailedPreStopHook", fmt.Sprintf("preStop hook of container %s: %v", c.Name, err))
	}
	return max(grace-w.m.cfg.Clock.Since(began), minKillGrace)
}

func (w *worker) runHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, hook *corev1.LifecycleHandler, ips []string, timeout time.Duration) error {
	switch {
	case hook.Exec != nil:
		output, code, err := w.m.cfg.Runtime.ExecSync(ctx, id, hook.Exec.Command, timeout)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, output[:min(len(output), 1024)])
		}
		return nil
	case hook.HTTPGet != nil:
		target := probes.Target{Container: c, ContainerID: id, Namespace: pod.Namespace, PodName: pod.Name}
		if len(ips) > 0 {
			target.PodIP = ips[0]
		}
		return w.m.cfg.HTTPGet(ctx, hook.HTTPGet, target)
	case hook.Sleep != nil:
		select {
		case <-w.m.cfg.Clock.After(time.Duration(hook.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("the hook has no action that this kubelet knows")
}
