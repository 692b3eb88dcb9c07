package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// settle adds to the counters the pods that the stored status lists as ended and that have lost
// their finalizer since. A pod is listed before its finalizer goes, and counted after: wherever
// the program dies in between, it is counted once.
func settle(status *batchv1.JobStatus, v *view) {
	held := map[types.UID]bool{}
	for _, pod := range v.pods {
		if tracked(pod) {
			held[pod.UID] = true
		}
	}
	for _, list := range []struct {
		uids    *[]types.UID
		counter *int32
	}{
		{&status.UncountedTerminatedPods.Succeeded, &status.Succeeded},
		{&status.UncountedTerminatedPods.Failed, &status.Failed},
	} {
		before := len(*list.uids)
		kept := slices.DeleteFunc(slices.Clone(*list.uids), func(uid types.UID) bool { return !held[uid] })
		*list.counter += int32(before - len(kept))
		if len(kept) == 0 {
			kept = nil
		}
		*list.uids = kept
	}
}

// tally is where a job stands with everything that is known, be it stored yet or not.
type tally struct {
	succeeded, failed int32
	// listed are the pods that the status lists already.
	listed map[types.UID]bool
	// done are the indexes that have succeeded; failedIndexes those that have failed for good.
	done, failedIndexes indexes
	// replaced are the last failed pods of indexes that are to get another one: they stay until
	// it exists, because it is told from them how often its index has failed.
	replaced map[int]*corev1.Pod
}

func tallyOf(v *view, status *batchv1.JobStatus) *tally {
	uncounted := status.UncountedTerminatedPods
	t := &tally{
		succeeded: status.Succeeded + int32(len(uncounted.Succeeded)), failed: status.Failed + int32(len(uncounted.Failed)),
		listed: map[types.UID]bool{}, replaced: map[int]*corev1.Pod{},
	}
	for _, uid := range slices.Concat(uncounted.Succeeded, uncounted.Failed) {
		t.listed[uid] = true
	}
	if v.indexed {
		t.done = parseIndexes(status.CompletedIndexes, v.completions)
	}
	if v.perIndex {
		t.failedIndexes = parseIndexes(ptr.Deref(status.FailedIndexes, ""), v.completions)
	}
	var done, failed []int
	for _, pod := range v.pods {
		if !tracked(pod) || t.listed[pod.UID] || !v.counts(pod) {
			continue
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			t.succeeded++
			if v.indexed && !t.failedIndexes.has(indexOf(pod)) {
				done = append(done, indexOf(pod))
			}
		case v.failed(pod):
			if judge(v.job.Spec.PodFailurePolicy, pod).counts() {
				t.failed++
			}
			if v.perIndex && v.failsIndex(pod) && !t.done.has(indexOf(pod)) {
				failed = append(failed, indexOf(pod))
			}
		}
	}
	if !v.indexed {
		return t
	}
	t.done = t.done.with(done)
	failed = slices.DeleteFunc(failed, t.done.has)
	t.failedIndexes = t.failedIndexes.with(failed)
	t.succeeded = int32(t.done.total())
	if v.perIndex {
		t.findReplaced(v)
	}
	return t
}

// failsIndex says whether a failed pod was the last one its index gets.
func (v *view) failsIndex(pod *corev1.Pod) bool {
	j := judge(v.job.Spec.PodFailurePolicy, pod)
	if j.action == batchv1.PodFailurePolicyActionFailIndex {
		return true
	}
	before, _ := failuresOf(pod)
	return j.counts() && before >= *v.job.Spec.BackoffLimitPerIndex
}

func (t *tally) findReplaced(v *view) {
	active := indexesOf(v.active)
	for _, pod := range v.pods { // of one index, in the order of their ends
		index := indexOf(pod)
		if !tracked(pod) || !v.counts(pod) || !v.failed(pod) || t.done.has(index) || t.failedIndexes.has(index) || active.has(index) {
			continue
		}
		if last := t.replaced[index]; last == nil || failures(last) <= failures(pod) {
			t.replaced[index] = pod
		}
	}
}

func failures(pod *corev1.Pod) int32 {
	counted, ignored := failuresOf(pod)
	return counted + ignored
}

// count lists pods that have ended in the status, and says whose finalizer may go once that is
// stored.
func (t *tally) count(v *view, p *plan, over verdict) {
	uncounted := p.status.UncountedTerminatedPods
	listed := len(uncounted.Succeeded) + len(uncounted.Failed)
	stored := indexes(nil)
	if v.indexed {
		stored = parseIndexes(p.status.CompletedIndexes, v.completions)
	}
	var done []int
	removed := map[*corev1.Pod]bool{}
	for _, pod := range p.surplus {
		removed[pod] = true
	}
	for _, pod := range v.pods {
		if !tracked(pod) || removed[pod] {
			continue
		}
		if t.listed[pod.UID] {
			p.release = append(p.release, pod)
			continue
		}
		failed := v.failed(pod)
		if !failed && pod.Status.Phase != corev1.PodSucceeded && v.ending(over) && !over.failed() {
			p.waive = append(p.waive, pod)
			continue
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
		case failed && (v.ending(over) || t.replaced[indexOf(pod)] != pod):
		case over.failed():
			failed = true // no matter how it ends
		default:
			continue
		}
		if listed+len(done) >= mostPods {
			p.requeueAfter = 1 // this round's writes make the job due again, too
			break
		}
		p.release = append(p.release, pod)
		switch {
		case !v.counts(pod):
		case pod.Status.Phase == corev1.PodSucceeded && v.indexed:
			// The index alone keeps the pod from being counted twice.
			if index := indexOf(pod); t.done.has(index) && !stored.has(index) {
				done = append(done, index)
			}
		case pod.Status.Phase == corev1.PodSucceeded:
			uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
			listed++
		case failed && judge(v.job.Spec.PodFailurePolicy, pod).counts():
			uncounted.Failed = append(uncounted.Failed, pod.UID)
			listed++
		}
	}
	if v.indexed {
		stored = stored.with(done)
		p.status.CompletedIndexes, p.status.Succeeded = stored.String(), int32(stored.total())
	}
	if v.perIndex {
		p.status.FailedIndexes = ptr.To(t.failedIndexes.String())
	}
}

// ending says whether every pod's result is settled, whatever it does from here on.
func (v *view) ending(over verdict) bool { return over.over() || v.job.DeletionTimestamp != nil }
