package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kijabi.dev/controller-manager/internal/podstate"
)

// checkStatus judges every status that is stored.
func (w *world) checkStatus(s *batchv1.JobStatus) {
	old := &w.job.Status
	for _, c := range old.Conditions {
		if c.Type == batchv1.JobSuspended || c.Status != corev1.ConditionTrue {
			continue
		}
		now := condition(s, c.Type)
		w.wrongIf(now == nil || now.Status != corev1.ConditionTrue, "condition %s is no longer true", c.Type)
	}
	w.wrongIf(finished(w.job), "the status changes after the end: %+v, then %+v", old, s)
	w.wrongIf(s.Failed < old.Failed || s.Succeeded < old.Succeeded, "counters go back from %d, %d to %d, %d", old.Succeeded, old.Failed, s.Succeeded, s.Failed)
	w.wrongIf(ptr.Deref(s.Ready, 0) > s.Active, "%d ready pods of %d", ptr.Deref(s.Ready, 0), s.Active)

	had := old.UncountedTerminatedPods
	if had == nil {
		had = &batchv1.UncountedTerminatedPods{}
	}
	counted := func(had, has *[]string, counter, was int32, what string) {
		left := 0
		for _, uid := range *had {
			if slices.Contains(*has, uid) {
				continue
			}
			left++
			for _, pod := range w.pods {
				w.wrongIf(string(pod.UID) == uid && tracked(pod), "%s pod %s is counted before it is let go", what, uid)
			}
		}
		if what == "failed" || ptr.Deref(w.job.Spec.CompletionMode, "") != batchv1.IndexedCompletion {
			w.wrongIf(int(counter-was) != left, "%d %s pods leave the list, the counter grows by %d", left, what, counter-was)
		}
	}
	counted(strs(had.Succeeded), strs(s.UncountedTerminatedPods.Succeeded), s.Succeeded, old.Succeeded, "succeeded")
	counted(strs(had.Failed), strs(s.UncountedTerminatedPods.Failed), s.Failed, old.Failed, "failed")
	before := append(*strs(had.Succeeded), *strs(had.Failed)...)
	for _, uid := range slices.Concat(s.UncountedTerminatedPods.Succeeded, s.UncountedTerminatedPods.Failed) {
		if slices.Contains(before, string(uid)) {
			continue
		}
		w.listed[uid]++
		w.wrongIf(w.listed[uid] > 1, "pod %s is listed twice", uid)
	}
	end := batchv1.Job{Status: *s}
	if finished(&end) {
		w.wrongIf(len(w.active()) > 0, "the job ends while %d pods are active", len(w.active()))
		running := w.list(func(p *corev1.Pod) bool { return !podstate.Finished(p) })
		w.wrongIf(len(running) > 0, "the job ends while %d pods run", len(running))
		w.wrongIf(s.Active > 0 || ptr.Deref(s.Terminating, 0) > 0, "the job ends with %d active and %d terminating pods", s.Active, ptr.Deref(s.Terminating, 0))
		w.wrongIf(len(s.UncountedTerminatedPods.Succeeded)+len(s.UncountedTerminatedPods.Failed) > 0, "the job ends with pods to be counted")
	}
}

func strs[T ~string](list []T) *[]string {
	out := []string{}
	for _, s := range list {
		out = append(out, string(s))
	}
	return &out
}

// checkRelease judges every removal of a finalizer: what a pod has achieved must be stored.
func (w *world) checkRelease(pod *corev1.Pod) {
	s := &w.job.Status
	v := look(w.job, claimOf(pod), w.clock.Now())
	isIn := s.UncountedTerminatedPods != nil && slices.Contains(slices.Concat(s.UncountedTerminatedPods.Succeeded, s.UncountedTerminatedPods.Failed), pod.UID)
	met := condition(s, batchv1.JobSuccessCriteriaMet)
	over := met != nil || finished(w.job)
	switch {
	case isIn || !v.counts(pod) || over:
	case pod.Status.Phase == corev1.PodSucceeded && v.indexed:
		w.wrongIf(!parseIndexes(s.CompletedIndexes, v.completions).has(indexOf(pod)), "pod %s succeeded for index %d and is let go before that is stored", pod.UID, indexOf(pod))
	case pod.Status.Phase == corev1.PodSucceeded:
		w.wrongIf(true, "pod %s succeeded and is let go before that is stored", pod.UID)
	case v.failed(pod) && judge(w.job.Spec.PodFailurePolicy, pod).counts():
		w.wrongIf(true, "pod %s failed and is let go before that is stored", pod.UID)
	}
	if w.success(pod) && v.counts(pod) {
		w.succeeded[pod.UID] = true
	}
}

// success says whether a pod has succeeded, and had not been given up before.
func (w *world) success(pod *corev1.Pod) bool {
	uncounted := w.job.Status.UncountedTerminatedPods
	return pod.Status.Phase == corev1.PodSucceeded && (uncounted == nil || !slices.Contains(uncounted.Failed, pod.UID))
}

// checkCreate judges every new pod.
func (w *world) checkCreate(pod *corev1.Pod) {
	spec := &w.job.Spec
	w.wrongIf(finished(w.job), "pod %s is made after the end", pod.Name)
	w.wrongIf(ptr.Deref(spec.Suspend, false), "pod %s is made while the job is suspended", pod.Name)
	active := w.active()
	w.wrongIf(len(active) > int(*spec.Parallelism), "%d pods are active at once, %d may", len(active), *spec.Parallelism)
	done := w.succeeded
	count := len(done)
	for _, p := range w.pods {
		if w.success(p) && tracked(p) {
			count++
		}
	}
	indexed := ptr.Deref(spec.CompletionMode, "") == batchv1.IndexedCompletion
	if spec.Completions != nil && !indexed {
		w.wrongIf(count+len(active) > int(*spec.Completions), "%d have succeeded and %d are active, %d are wanted", count, len(active), *spec.Completions)
	}
	if indexed {
		v := look(w.job, claimOf(active...), w.clock.Now())
		w.wrongIf(!v.counts(pod), "pod %s is made for index %d of %d", pod.Name, indexOf(pod), v.completions)
		w.wrongIf(indexesOf(active).total() != len(active), "two pods of one index are active")
		w.wrongIf(parseIndexes(w.job.Status.CompletedIndexes, v.completions).has(indexOf(pod)), "pod %s is made for index %d, which has succeeded", pod.Name, indexOf(pod))
	}
	if v := look(w.job, claimOf(w.owned()...), w.clock.Now()); v.patient {
		w.wrongIf(len(v.active)+len(v.terminating) > int(*spec.Parallelism), "%d pods run at once, %d may", len(v.active)+len(v.terminating), *spec.Parallelism)
	}
}

func drawJob(t *rapid.T) *batchv1.Job {
	j := job()
	spec := &j.Spec
	spec.Parallelism = ptr.To(rapid.Int32Range(0, 4).Draw(t, "parallelism"))
	spec.BackoffLimit = ptr.To(rapid.Int32Range(0, 4).Draw(t, "backoffLimit"))
	spec.Completions = nil
	mode := rapid.SampledFrom([]string{"one success", "completions", "indexed", "per index"}).Draw(t, "mode")
	if mode != "one success" {
		spec.Completions = ptr.To(rapid.Int32Range(0, 5).Draw(t, "completions"))
	}
	if mode == "indexed" || mode == "per index" {
		spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		if rapid.Bool().Draw(t, "successPolicy") {
			spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr.To[int32](2)}}}
		}
	}
	if mode == "per index" {
		spec.BackoffLimit, spec.BackoffLimitPerIndex = ptr.To[int32](1<<31-1), ptr.To(rapid.Int32Range(0, 2).Draw(t, "backoffLimitPerIndex"))
		if rapid.Bool().Draw(t, "maxFailedIndexes") {
			spec.MaxFailedIndexes = ptr.To[int32](1)
		}
	}
	if rapid.Bool().Draw(t, "patient") {
		spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
	}
	if rapid.Bool().Draw(t, "policy") {
		spec.PodFailurePolicy = policy(mode == "per index")
	}
	if rapid.Bool().Draw(t, "deadline") {
		spec.ActiveDeadlineSeconds = ptr.To[int64](3600)
	}
	return j
}

// policy fails the job at exit code 42, the index at 13, and ignores disruptions.
func policy(perIndex bool) *batchv1.PodFailurePolicy {
	codes := func(action batchv1.PodFailurePolicyAction, code int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code},
		}}
	}
	p := &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
		codes(batchv1.PodFailurePolicyActionFailJob, 42),
		{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
	}}
	if perIndex {
		p.Rules = append(p.Rules, codes(batchv1.PodFailurePolicyActionFailIndex, 13))
	}
	return p
}

// TestEveryPodIsCountedOnce lets users, kubelets, and a loop that dies at any of its writes or
// loses the answers to them, work on a job in random order.
func TestEveryPodIsCountedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(drawJob(t))
		pick := func(t *rapid.T, what string, which func(*corev1.Pod) bool) *corev1.Pod {
			pods := w.list(which)
			if len(pods) == 0 {
				t.Skip("no pod")
			}
			return pods[rapid.IntRange(0, len(pods)-1).Draw(t, what)]
		}
		running := func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }
		reconcile := func(t *rapid.T) {
			w.calls = -1
			fresh := w.stale == nil
			_, err := w.reconcile()
			if err != nil && !strings.Contains(err.Error(), "it has changed") {
				t.Fatalf("reconcile: %v", err)
			}
			strays := w.list(func(p *corev1.Pod) bool { return podstate.Active(p) && !tracked(p) })
			w.wrongIf(err == nil && fresh && len(strays) > 0, "%d active pods will not be counted", len(strays))
		}
		t.Repeat(map[string]func(*rapid.T){
			"reconcile":       reconcile,
			"reconcile again": reconcile,
			"reconcile while a pod ends": func(t *rapid.T) {
				// One that is deleted has been given up; that it succeeds nevertheless can come too late.
				pod, code := pick(t, "ends", func(p *corev1.Pod) bool { return running(p) && p.DeletionTimestamp == nil }), rapid.SampledFrom([]int32{0, 1}).Draw(t, "code")
				w.between = func() { w.ends(pod, code) }
				reconcile(t)
			},
			"dies": func(t *rapid.T) {
				w.calls, w.last = rapid.IntRange(0, 4).Draw(t, "after"), rapid.Bool().Draw(t, "last call gets through")
				_, _ = w.reconcile()
				w.calls, w.last, w.stale = -1, false, nil // who follows has seen everything
				w.restart()
			},
			"loses an answer": func(t *rapid.T) {
				w.calls, w.last = rapid.IntRange(0, 4).Draw(t, "after"), true
				_, _ = w.reconcile()
				w.calls, w.last = -1, false
			},
			"binds": func(t *rapid.T) {
				pod := pick(t, "bound", func(p *corev1.Pod) bool { return p.Spec.NodeName == "" && p.DeletionTimestamp == nil })
				pod.Spec.NodeName, pod.Status.Phase = "node", corev1.PodRunning
				if rapid.Bool().Draw(t, "ready") {
					pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
				}
				w.changed(pod)
			},
			"succeeds": func(t *rapid.T) { w.ends(pick(t, "succeeds", running), 0) },
			"fails": func(t *rapid.T) {
				w.ends(pick(t, "fails", running), rapid.SampledFrom([]int32{1, 1, 1, 13, 42}).Draw(t, "code"))
			},
			"is disrupted": func(t *rapid.T) {
				pod := pick(t, "disrupted", running)
				pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
				w.remove(pod, 30)
			},
			"is deleted": func(t *rapid.T) { w.remove(pick(t, "deleted", func(*corev1.Pod) bool { return true }), 30) },
			"stops": func(t *rapid.T) {
				pod := pick(t, "stopped", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
				if !podstate.Finished(pod) {
					w.ends(pod, rapid.SampledFrom([]int32{0, 143}).Draw(t, "code"))
				}
				if w.pods[pod.Name] == pod {
					w.remove(pod, 0)
				}
			},
			"suspends": func(t *rapid.T) {
				w.user(t, func(s *batchv1.JobSpec) { s.Suspend = ptr.To(!ptr.Deref(s.Suspend, false)) })
			},
			"scales": func(t *rapid.T) {
				n := rapid.Int32Range(0, 5).Draw(t, "parallelism")
				w.user(t, func(s *batchv1.JobSpec) { s.Parallelism = &n })
			},
			"time passes": func(t *rapid.T) {
				w.clock.SetTime(w.clock.Now().Add(time.Duration(rapid.SampledFrom([]int{1, 10, 100, 2000}).Draw(t, "seconds")) * time.Second))
			},
			"": func(t *rapid.T) {
				if len(w.wrong) > 0 {
					t.Fatalf("%s\nstatus %+v", strings.Join(w.wrong, "\n"), w.job.Status)
				}
			},
		})
		w.finish(t)
	})
}

// user changes the spec. It happens when the loop has seen its own writes, so that what it does
// can be judged by the spec of now.
func (w *world) user(_ *rapid.T, change func(*batchv1.JobSpec)) {
	w.stale = nil
	w.job = w.job.DeepCopy()
	change(&w.job.Spec)
	w.job.ResourceVersion = w.next()
}

// finish lets everything succeed from now on: every job comes to its end.
func (w *world) finish(t *rapid.T) {
	w.stale = nil
	w.user(t, func(s *batchv1.JobSpec) { s.Suspend, s.Parallelism = ptr.To(false), ptr.To(max(1, *s.Parallelism)) })
	for range 200 {
		if finished(w.job) {
			break
		}
		w.clock.SetTime(w.clock.Now().Add(11 * time.Minute))
		w.until(t)
		for _, pod := range w.list(func(*corev1.Pod) bool { return true }) {
			if pod.DeletionTimestamp == nil {
				pod.Spec.NodeName = "node"
			}
			if !podstate.Finished(pod) {
				w.ends(pod, 0)
			}
			if pod.DeletionTimestamp != nil && w.pods[pod.Name] == pod {
				w.remove(pod, 0)
			}
		}
		if len(w.wrong) > 0 {
			t.Fatalf("%s", strings.Join(w.wrong, "\n"))
		}
	}
	if !finished(w.job) {
		t.Fatalf("the job never ends: %s", fmt.Sprintf("%+v", w.job.Status))
	}
	w.until(t)
	if left := w.list(tracked); len(left) > 0 {
		t.Fatalf("%d pods of a finished job are not let go", len(left))
	}
	if ptr.Deref(w.job.Spec.CompletionMode, "") != batchv1.IndexedCompletion && w.job.Status.Succeeded != int32(len(w.succeeded)) && condition(&w.job.Status, batchv1.JobComplete) != nil {
		t.Fatalf("%d pods have succeeded, %d are counted", len(w.succeeded), w.job.Status.Succeeded)
	}
}
