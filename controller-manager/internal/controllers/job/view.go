package job

import (
	"cmp"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
)

// view is a job and its pods at a moment.
type view struct {
	job *batchv1.Job
	now time.Time

	// completions that are wanted; meaningless if the job does not say.
	completions int
	suspended   bool
	indexed     bool
	perIndex    bool // failures are limited by index
	// patient says that a pod on its way out counts and is replaced only once it has ended.
	patient bool

	pods    []*corev1.Pod // all, in the order of their indexes
	adopted map[types.UID]bool
	// active are neither finished nor on their way out, terminating are on their way out.
	active, terminating []*corev1.Pod
}

func look(job *batchv1.Job, claim podset.Claim, now time.Time) *view {
	spec := &job.Spec
	v := &view{
		job: job, now: now, pods: slices.Clone(claim.Own), adopted: map[types.UID]bool{},
		completions: int(ptr.Deref(spec.Completions, 0)), suspended: ptr.Deref(spec.Suspend, false),
		indexed:  ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion,
		perIndex: spec.BackoffLimitPerIndex != nil,
		patient:  spec.PodFailurePolicy != nil || ptr.Deref(spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed,
	}
	for _, pod := range claim.Adopt {
		v.adopted[pod.UID] = true
	}
	slices.SortFunc(v.pods, func(a, b *corev1.Pod) int {
		return cmp.Or(indexOf(a)-indexOf(b), finishTime(a).Compare(finishTime(b)), strings.Compare(a.Name, b.Name))
	})
	for _, pod := range v.pods {
		switch {
		case podstate.Active(pod):
			v.active = append(v.active, pod)
		case !podstate.Finished(pod):
			v.terminating = append(v.terminating, pod)
		}
	}
	return v
}

// tracked says whether a pod is still to be counted, or its removal to be noticed.
func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

func trackedOf(pods []*corev1.Pod) []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range pods {
		if tracked(pod) {
			out = append(out, pod)
		}
	}
	return out
}

func podReady(pod *corev1.Pod) bool { return podstate.Ready(pod) }

// failed says whether a pod has failed. One that is deleted may never say so itself.
func (v *view) failed(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !v.patient && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

// counts says whether the result of a pod is one of the job's: an index that was shrunk away
// has none.
func (v *view) counts(pod *corev1.Pod) bool {
	index := indexOf(pod)
	return !v.indexed || index != noIndex && index < v.completions
}

// failedByPolicy returns why the pod failure policy fails the job, empty if it does not.
func (v *view) failedByPolicy() string {
	if v.job.Spec.PodFailurePolicy == nil {
		return ""
	}
	for _, pod := range v.pods {
		if v.failed(pod) {
			if j := judge(v.job.Spec.PodFailurePolicy, pod); j.message != "" {
				return j.message
			}
		}
	}
	return ""
}
