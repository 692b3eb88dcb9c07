package job

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podset"
)

// mostPods bounds how many pods one round creates, removes or counts. It keeps the list of
// uncounted pods in the status below 20 KB, and a large job from starving others.
const mostPods = 500

// plan is what a job needs done, in the order of the fields. Each step is safe to be the last
// one before the program dies.
type plan struct {
	claim podset.Claim
	// surplus are pods that are one too many: they lose their finalizer, so that their end
	// is nobody's success or failure, and are deleted.
	surplus []*corev1.Pod
	create  []birth
	// status to be stored. If creating pods fails, its Active is active.
	status batchv1.JobStatus
	active int32
	// urgent says that the status tells more than other numbers.
	urgent bool
	told   []event
	// doomed are pods of a job that has failed. They are deleted and keep their finalizer
	// until they are counted.
	doomed []*corev1.Pod
	// release are pods whose result the stored status holds, and those whose result does
	// not count: they lose their finalizer.
	release []*corev1.Pod
	// waive are pods that have not ended and whose end will not count: they lose their
	// finalizer, too, unless they have ended meanwhile.
	waive []*corev1.Pod

	past         past
	requeueAfter time.Duration
}

// event is told once the status is stored.
type event struct{ severity, reason, message string }

func (p *plan) wakeAt(t, now time.Time) {
	if d := max(t.Sub(now), time.Millisecond); p.requeueAfter == 0 || d < p.requeueAfter {
		p.requeueAfter = d
	}
}

// verdict is why a job is over, before its pods are.
type verdict struct {
	condition       batchv1.JobConditionType // FailureTarget or SuccessCriteriaMet; empty if it is not over
	reason, message string
}

func (d verdict) over() bool { return d.condition != "" }

func (d verdict) failed() bool { return d.condition == batchv1.JobFailureTarget }

// decide compares a job with its pods (owned) and those of its namespace that nobody controls
// (orphans); taken says whether a pod of a name is known, known what was seen of the ends of
// pods before. It is pure.
func decide(job *batchv1.Job, owned, orphans []*corev1.Pod, taken func(name string) bool, known past, now time.Time) (plan, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return plan{}, fmt.Errorf("selector: %w", err)
	}
	if finished(job) {
		return plan{status: job.Status, active: job.Status.Active, release: trackedOf(owned)}, nil
	}
	p := plan{claim: podset.Claimed(job, selector, owned, orphans), status: *job.Status.DeepCopy()}
	v := look(job, p.claim, now)
	p.active = int32(len(v.active))
	p.past = known.with(v)
	if p.status.UncountedTerminatedPods == nil {
		p.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	settle(&p.status, v)
	t := tallyOf(v, &p.status)
	if p.status.StartTime == nil && !v.suspended {
		p.status.StartTime = stamp(now)
	}

	over := v.verdict(&p, t)
	switch {
	case over.failed():
		p.doomed = v.active
	case over.over():
		p.surplus = v.active
	case job.DeletionTimestamp == nil:
		v.manage(&p, t, taken)
		v.noteSuspension(&p)
	}
	t.count(v, &p, over)
	v.numbers(&p)
	if over.over() {
		v.conclude(&p, over)
	}
	p.urgent = len(p.status.Conditions) != len(job.Status.Conditions) || len(p.told) > 0 || !p.status.StartTime.Equal(job.Status.StartTime)
	return p, nil
}

// verdict says whether the job is over. What a stored status says once stays true.
func (v *view) verdict(p *plan, t *tally) verdict {
	job := v.job
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget} {
		if c := condition(&p.status, kind); c != nil && c.Status == corev1.ConditionTrue {
			return verdict{kind, c.Reason, c.Message}
		}
	}
	if job.DeletionTimestamp != nil {
		return verdict{} // it begins nothing, and its pods may be meant to stay
	}
	fails := func(reason, message string) verdict { return verdict{batchv1.JobFailureTarget, reason, message} }
	if message := v.failedByPolicy(); message != "" {
		return fails(batchv1.JobReasonPodFailurePolicy, message)
	}
	switch deadline := v.deadline(p.status.StartTime); {
	case t.failed > backoffLimit(job) || restartsReachLimit(job, v.pods):
		return fails(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case !deadline.IsZero() && !v.now.Before(deadline):
		return fails(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case !deadline.IsZero():
		p.wakeAt(deadline, v.now)
	}
	if v.perIndex {
		switch n := t.failedIndexes.total(); {
		case job.Spec.MaxFailedIndexes != nil && n > int(*job.Spec.MaxFailedIndexes):
			return fails(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		case n > 0 && n+t.done.total() >= v.completions:
			return fails(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	if v.indexed {
		if message, met := succeededBy(job.Spec.SuccessPolicy, v.completions, t.done); met {
			return verdict{batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message}
		}
	}
	enough := t.succeeded > 0
	if job.Spec.Completions != nil {
		enough = int(t.succeeded) >= v.completions
	}
	if enough && len(v.active) == 0 {
		return verdict{condition: batchv1.JobSuccessCriteriaMet, reason: batchv1.JobReasonCompletionsReached, message: "Reached expected number of succeeded pods"}
	}
	return verdict{}
}

// deadline is when the job has been active for too long; zero if that does not matter.
func (v *view) deadline(start *metav1.Time) time.Time {
	if v.job.Spec.ActiveDeadlineSeconds == nil || start == nil || v.suspended {
		return time.Time{}
	}
	return start.Add(time.Duration(*v.job.Spec.ActiveDeadlineSeconds) * time.Second)
}

// noteSuspension tells whether the job is suspended. The time of its start is that of the last
// time it was resumed, so that the deadline counts from there.
func (v *view) noteSuspension(p *plan) {
	c := condition(&p.status, batchv1.JobSuspended)
	was := c != nil && c.Status == corev1.ConditionTrue
	switch {
	case v.suspended && !was:
		setCondition(&p.status, batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended", v.now)
		p.status.StartTime = nil
		p.told = append(p.told, event{corev1.EventTypeNormal, "Suspended", "Job suspended"})
	case !v.suspended && was:
		setCondition(&p.status, batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed", v.now)
		p.status.StartTime = stamp(v.now)
		p.told = append(p.told, event{corev1.EventTypeNormal, "Resumed", "Job resumed"})
	}
}

// numbers reports pods as they will be when the plan has been carried out.
func (v *view) numbers(p *plan) {
	leaving := map[*corev1.Pod]bool{}
	for _, list := range [][]*corev1.Pod{p.surplus, p.doomed} {
		for _, pod := range list {
			leaving[pod] = true
		}
	}
	ready := int32(0)
	for _, pod := range v.active {
		if !leaving[pod] && podReady(pod) {
			ready++
		}
	}
	terminating := int32(len(v.terminating) + len(leaving))
	p.status.Active = int32(len(v.active) - len(leaving) + len(p.create))
	p.status.Ready, p.status.Terminating = &ready, &terminating
}

// conclude notes a verdict, and the end once no pod runs and all are counted.
func (v *view) conclude(p *plan, over verdict) {
	setCondition(&p.status, over.condition, corev1.ConditionTrue, over.reason, over.message, v.now)
	uncounted := p.status.UncountedTerminatedPods
	if len(v.active)+len(v.terminating) > 0 || len(p.release)+len(p.waive) > 0 || len(uncounted.Succeeded)+len(uncounted.Failed) > 0 {
		return
	}
	final, severity, reason, message := batchv1.JobComplete, corev1.EventTypeNormal, "Completed", "Job completed"
	if over.failed() {
		final, severity, reason, message = batchv1.JobFailed, corev1.EventTypeWarning, over.reason, over.message
	}
	setCondition(&p.status, final, corev1.ConditionTrue, over.reason, over.message, v.now)
	if p.status.StartTime == nil {
		p.status.StartTime = stamp(v.now) // one that ends while it is suspended needs one, too
	}
	if final == batchv1.JobComplete {
		p.status.CompletionTime = stamp(v.now)
		if p.status.CompletionTime.Before(p.status.StartTime) {
			p.status.CompletionTime = p.status.StartTime // another master's clock was ahead
		}
		if v.job.Spec.Completions != nil && int(p.status.Succeeded) > v.completions {
			p.told = append(p.told, event{corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"})
		}
	}
	p.told = append(p.told, event{severity, reason, message})
}

func backoffLimit(job *batchv1.Job) int32 { return ptr.Deref(job.Spec.BackoffLimit, 6) }

func stamp(now time.Time) *metav1.Time { return ptr.To(metav1.NewTime(now.Truncate(time.Second))) }

// finished says whether a job has reached its end.
func finished(job *batchv1.Job) bool {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := condition(&job.Status, kind); c != nil && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func condition(status *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

func setCondition(status *batchv1.JobStatus, kind batchv1.JobConditionType, value corev1.ConditionStatus, reason, message string, now time.Time) {
	set := batchv1.JobCondition{Type: kind, Status: value, Reason: reason, Message: message, LastProbeTime: *stamp(now), LastTransitionTime: *stamp(now)}
	switch have := condition(status, kind); {
	case have == nil:
		status.Conditions = append(status.Conditions, set)
	case have.Status != value:
		*have = set
	}
}
