package job

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podstate"
)

// Pause before a failed pod is replaced: after the first failure, and at most.
const (
	backoffFirst = 10 * time.Second
	backoffMost  = 10 * time.Minute
)

// remembered bounds the failures that are kept: fewer already make for the longest pause.
const remembered = 16

// pause is how long to wait after the last of some failures in a row.
func pause(failures int32) time.Duration {
	d := backoffFirst
	for ; failures > 1 && d < backoffMost; failures-- {
		d *= 2
	}
	return min(d, backoffMost)
}

// past is what is known of how a job's pods ended. Pods that stay as objects tell it
// themselves; this keeps the ends of those that were deleted, as long as this process lives.
// It is immutable.
type past struct {
	succeeded time.Time               // the last success
	failed    map[types.UID]time.Time // failures after it
}

// with adds what a job's pods tell now.
func (p past) with(v *view) past {
	out := past{succeeded: p.succeeded, failed: maps.Clone(p.failed)}
	if out.failed == nil {
		out.failed = map[types.UID]time.Time{}
	}
	for _, pod := range v.pods {
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			if at := finishTime(pod); at.After(out.succeeded) {
				out.succeeded = at
			}
		// A pod that the loop itself removes has lost its finalizer: that is no failure.
		case v.failed(pod) && (tracked(pod) || pod.DeletionTimestamp == nil):
			out.failed[pod.UID] = finishTime(pod)
		}
	}
	maps.DeleteFunc(out.failed, func(_ types.UID, at time.Time) bool { return !at.After(out.succeeded) })
	for len(out.failed) > remembered {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(out.failed)), func(a, b types.UID) int {
			return cmp.Or(out.failed[a].Compare(out.failed[b]), strings.Compare(string(a), string(b)))
		})
		delete(out.failed, oldest)
	}
	return out
}

// retryAt is when failed pods may be replaced; zero for at once.
func (p past) retryAt() time.Time {
	var last time.Time
	for _, at := range p.failed {
		if at.After(last) {
			last = at
		}
	}
	if last.IsZero() {
		return last
	}
	return last.Add(pause(int32(len(p.failed))))
}

// retryIndexAt is when the index whose last pod failed may get another one.
func retryIndexAt(last *corev1.Pod) time.Time {
	if last == nil {
		return time.Time{}
	}
	counted, ignored := failuresOf(last)
	return finishTime(last).Add(pause(counted + ignored + 1))
}

// finishTime is when a pod ended, as exactly as it tells: when its last container did, when it
// was last ready, when its deletion was asked for, or else when it was made.
func finishTime(pod *corev1.Pod) time.Time {
	var last time.Time
	for i := range pod.Status.ContainerStatuses {
		end := pod.Status.ContainerStatuses[i].State.Terminated
		if end == nil || end.FinishedAt.IsZero() {
			last = time.Time{}
			break
		}
		if end.FinishedAt.After(last) {
			last = end.FinishedAt.Time
		}
	}
	if !last.IsZero() {
		return last
	}
	if c := podstate.Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return pod.CreationTimestamp.Time
}
