// Package restart restarts containers where they are: the same pods, on the same nodes, with
// their addresses and volumes. Of a workload one pod after the other, each awaited.
package restart

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// lookEvery is how often a pod that is awaited is read.
const lookEvery = 300 * time.Millisecond

// Cluster is what restarting needs of one. Errors are StatusErrors.
type Cluster interface {
	// Pods lists the pods of a workload; kind is deployment, statefulset or daemonset.
	Pods(ctx context.Context, kind, namespace, name string) ([]corev1.Pod, error)
	// Pod reads one.
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	// Restart has containers of a pod restarted, all if none is named, and returns the ids of
	// the instances that end, by name.
	Restart(ctx context.Context, namespace, name string, containers []string) (map[string]string, error)
}

// Options of Run.
type Options struct {
	// Cluster to work on. Required.
	Cluster Cluster
	// Namespace of pod or workload. Required.
	Namespace string
	// Target is a pod's name, or kind/name of a pod or workload. Required.
	Target string
	// Containers by name; empty means all that run beside each other.
	Containers []string
	// Timeout bounds the wait for one pod. Required.
	Timeout time.Duration
	// Say is told each step. Required.
	Say func(format string, args ...any)
	// Clock to wait by. Required.
	Clock clock.Clock
}

// Run restarts and returns once every pod is ready again, or at the first that is not.
func Run(ctx context.Context, o Options) error {
	kind, name, err := parse(o.Target)
	if err != nil {
		return err
	}
	if kind == "pod" {
		pod, err := o.Cluster.Pod(ctx, o.Namespace, name)
		if err != nil {
			return err
		}
		return o.one(ctx, pod)
	}
	pods, err := o.Cluster.Pods(ctx, kind, o.Namespace, name)
	if err != nil {
		return err
	}
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	if len(pods) == 0 {
		return fmt.Errorf("%s %s has no pods to restart", kind, name)
	}
	order(pods)
	for i := range pods {
		if err := o.one(ctx, &pods[i]); err != nil {
			if left := len(pods) - i - 1; left > 0 {
				return fmt.Errorf("%w; %d of %d pods of %s %s were not restarted", err, left, len(pods), kind, name)
			}
			return err
		}
	}
	return nil
}

// parse takes a target apart.
func parse(target string) (kind, name string, err error) {
	kind, name, found := strings.Cut(target, "/")
	if !found {
		return "pod", target, nil
	}
	for long, short := range map[string][]string{
		"pod": {"po", "pods"}, "deployment": {"deploy", "deployments", "deployment.apps"},
		"statefulset": {"sts", "statefulsets", "statefulset.apps"}, "daemonset": {"ds", "daemonsets", "daemonset.apps"},
	} {
		if kind == long || slices.Contains(short, kind) {
			return long, name, nil
		}
	}
	return "", "", fmt.Errorf("%q cannot be restarted: name a pod, deployment/NAME, statefulset/NAME or daemonset/NAME", target)
}

// order puts those first that serve nobody anyway, then those with the highest number, as
// StatefulSets are updated.
func order(pods []corev1.Pod) {
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		if ready(&a) != ready(&b) {
			if ready(&b) {
				return -1
			}
			return 1
		}
		left, leftNumber := ordinal(a.Name)
		right, rightNumber := ordinal(b.Name)
		return cmp.Or(cmp.Compare(left, right), cmp.Compare(rightNumber, leftNumber), cmp.Compare(a.Name, b.Name))
	})
}

func ordinal(name string) (string, int) {
	at := strings.LastIndexByte(name, '-')
	if number, err := strconv.Atoi(name[at+1:]); at > 0 && err == nil {
		return name[:at], number
	}
	return name, -1
}

// one restarts a pod's containers and waits until the pod is ready with new ones.
func (o *Options) one(ctx context.Context, pod *corev1.Pod) error {
	ended, err := o.Cluster.Restart(ctx, pod.Namespace, pod.Name, o.Containers)
	if err != nil {
		return fmt.Errorf("restart pod %s: %w", pod.Name, err)
	}
	began := o.Clock.Now()
	var last error
	for {
		now, err := o.Cluster.Pod(ctx, pod.Namespace, pod.Name)
		switch {
		case apierrors.IsNotFound(err):
			return fmt.Errorf("pod %s was deleted while it restarted", pod.Name)
		case err != nil:
			last = err // a master may be gone for a moment
		default:
			done, state := progress(now, pod.UID, ended)
			if done {
				o.Say("pod %s: restarted in %s", pod.Name, o.Clock.Since(began).Round(100*time.Millisecond))
				return nil
			}
			var final *failure
			if errors.As(state, &final) {
				return fmt.Errorf("pod %s does not come up: %w", pod.Name, state)
			}
			last = state
		}
		if o.Clock.Since(began) >= o.Timeout {
			return fmt.Errorf("pod %s is not ready after %s: %w", pod.Name, o.Timeout, last)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.Clock.After(lookEvery):
		}
	}
}

// failure is a state that time alone does not mend.
type failure struct{ text string }

func (f *failure) Error() string { return f.text }

// progress says whether a pod is ready with other instances than those that were to end, and
// if not, why.
func progress(pod *corev1.Pod, uid types.UID, ended map[string]string) (bool, error) {
	switch {
	case pod.UID != uid || pod.DeletionTimestamp != nil:
		return false, &failure{"it is another pod now, or about to be"}
	case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
		return false, &failure{"it has ended"}
	}
	seen := 0
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			status := &list[i]
			former, restarted := ended[status.Name]
			if !restarted {
				continue
			}
			seen++
			waiting := status.State.Waiting
			switch {
			case status.ContainerID == former && waiting == nil:
				return false, fmt.Errorf("container %s has not ended yet", status.Name)
			case waiting != nil && waiting.Reason == "CrashLoopBackOff" && status.ContainerID != former:
				return false, &failure{fmt.Sprintf("container %s ended again%s", status.Name, exit(status))}
			case waiting != nil:
				return false, fmt.Errorf("container %s waits: %s %s", status.Name, waiting.Reason, waiting.Message)
			case status.State.Running == nil:
				return false, fmt.Errorf("container %s does not run%s", status.Name, exit(status))
			}
		}
	}
	if seen < len(ended) {
		return false, errors.New("its status does not have all containers yet")
	}
	if !ready(pod) {
		return false, errors.New("its containers run, but it is not ready")
	}
	return true, nil
}

func exit(status *corev1.ContainerStatus) string {
	for _, state := range []corev1.ContainerState{status.State, status.LastTerminationState} {
		if end := state.Terminated; end != nil {
			return strings.TrimRight(fmt.Sprintf(" with code %d: %s %s", end.ExitCode, end.Reason, end.Message), " ")
		}
	}
	return ""
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
