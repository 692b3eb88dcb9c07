package cronjob

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/object"
)

// late is how long after a scheduled time the loop looks again: clocks differ a little.
const late = 100 * time.Millisecond

// plan is what a cron job needs done.
type plan struct {
	told []event
	// remove are jobs beyond the history that is kept, and those that are replaced.
	remove []*batchv1.Job
	// create, if not nil, is created together with the status, or not at all.
	create *batchv1.Job
	status batchv1.CronJobStatus
	// lost are active jobs that are not to be seen. The plan is only good if they are gone.
	lost         []corev1.ObjectReference
	requeueAfter time.Duration
}

type event struct{ severity, reason, message string }

func warning(reason, message string) *event {
	return &event{corev1.EventTypeWarning, reason, message}
}

func (p *plan) tell(severity, reason, format string, args ...any) {
	p.told = append(p.told, event{severity, reason, fmt.Sprintf(format, args...)})
}

// decide compares a cron job with its jobs. It is pure.
func decide(c *batchv1.CronJob, owned []*batchv1.Job, now time.Time) plan {
	p := plan{status: *c.Status.DeepCopy()}
	owned = slices.SortedFunc(slices.Values(owned), byStart)
	p.history(c, owned)
	p.active(c, owned)
	if c.DeletionTimestamp != nil || ptr.Deref(c.Spec.Suspend, false) {
		return p
	}
	s, problem := parseSchedule(c)
	if problem != nil {
		p.told = append(p.told, *problem)
		return p
	}
	p.schedule(c, owned, s, now)
	return p
}

// history removes the oldest finished jobs beyond the numbers that are kept.
func (p *plan) history(c *batchv1.CronJob, owned []*batchv1.Job) {
	for _, kept := range []struct {
		end   batchv1.JobConditionType
		limit *int32
	}{{batchv1.JobComplete, c.Spec.SuccessfulJobsHistoryLimit}, {batchv1.JobFailed, c.Spec.FailedJobsHistoryLimit}} {
		if kept.limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for _, job := range owned {
			if job.DeletionTimestamp == nil && end(job) == kept.end {
				ended = append(ended, job)
			}
		}
		p.remove = append(p.remove, ended[:max(0, len(ended)-int(*kept.limit))]...)
	}
}

// active notes which jobs run, and what has become of those that did.
func (p *plan) active(c *batchv1.CronJob, owned []*batchv1.Job) {
	byName := map[string]*batchv1.Job{}
	for _, job := range owned {
		byName[job.Name] = job
	}
	known := map[types.UID]bool{}
	var running []corev1.ObjectReference
	for _, ref := range c.Status.Active {
		job := byName[ref.Name]
		switch {
		case job == nil || ref.UID != "" && job.UID != ref.UID:
			p.lost = append(p.lost, ref)
			p.tell(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
		case end(job) != "":
			p.tell(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, status: %v", job.Name, end(job))
		default:
			known[job.UID] = true
			if ref.UID == "" { // it was not known when the job was made
				ref = reference(job)
			}
			running = append(running, ref)
		}
	}
	for _, job := range owned {
		if done := job.Status.CompletionTime; end(job) == batchv1.JobComplete && done != nil {
			if last := p.status.LastSuccessfulTime; last == nil || done.After(last.Time) {
				p.status.LastSuccessfulTime = done
			}
		}
		// Such as one that a user has made of the cron job by hand, which no policy concerns.
		if end(job) == "" && job.DeletionTimestamp == nil && !known[job.UID] {
			p.tell(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		}
	}
	p.status.Active = running
}

// schedule makes the job that is due, and says when the next one will be.
func (p *plan) schedule(c *batchv1.CronJob, owned []*batchv1.Job, s schedule, now time.Time) {
	since := c.CreationTimestamp.Time
	if c.Status.LastScheduleTime != nil {
		since = c.Status.LastScheduleTime.Time
	}
	if !s.possible(since) {
		p.tell(corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : time difference between two schedules is less than 1 second", c.Spec.Schedule)
		return
	}
	p.requeueAfter = max(s.after(since, now).Add(late).Sub(now), late)

	due, missed := s.newest(since, now)
	if due.IsZero() {
		return
	}
	if c.Spec.StartingDeadlineSeconds != nil {
		deadline := now.Add(-time.Duration(*c.Spec.StartingDeadlineSeconds) * time.Second)
		if due.Before(deadline) {
			p.tell(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
			return
		}
		if deadline.After(since) {
			_, missed = s.newest(deadline, now)
		}
	}
	if missed > manyMissed {
		p.tell(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if len(p.status.Active) > 0 {
		switch c.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			p.tell(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return
		case batchv1.ReplaceConcurrent:
			for _, job := range owned {
				if slices.ContainsFunc(p.status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID }) {
					p.remove = append(p.remove, job)
				}
			}
			p.status.Active = nil
		case batchv1.AllowConcurrent:
		}
	}
	p.create = jobAt(c, due)
	p.status.Active = append(p.status.Active, reference(p.create))
	p.status.LastScheduleTime = &metav1.Time{Time: due}
}

// jobAt makes the job of a scheduled time. Its name follows from the time, so that nobody
// makes it twice.
func jobAt(c *batchv1.CronJob, at time.Time) *batchv1.Job {
	zone := time.UTC
	if loaded, err := time.LoadLocation(ptr.Deref(c.Spec.TimeZone, "")); err == nil {
		zone = loaded
	}
	annotations := maps.Clone(c.Spec.JobTemplate.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.Namespace, Name: fmt.Sprintf("%s-%d", c.Name, at.Unix()/60),
			Labels: maps.Clone(c.Spec.JobTemplate.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(c, object.KindOf[*batchv1.CronJob]().GVK)},
		},
		Spec: *c.Spec.JobTemplate.Spec.DeepCopy(),
	}
}

// reference refers to a job from the status of its cron job.
func reference(job *batchv1.Job) corev1.ObjectReference {
	gvk := object.KindOf[*batchv1.Job]().GVK
	return corev1.ObjectReference{
		APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind,
		Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

// end is how a job ended; empty while it has not.
func end(job *batchv1.Job) batchv1.JobConditionType {
	for i := range job.Status.Conditions {
		c := &job.Status.Conditions[i]
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// byStart sorts the job that started first to the front, those that have not to the end.
func byStart(a, b *batchv1.Job) int {
	x, y := a.Status.StartTime, b.Status.StartTime
	switch {
	case x == nil && y != nil:
		return 1
	case x != nil && y == nil:
		return -1
	case x != nil && !x.Equal(y):
		return x.Compare(y.Time)
	}
	return strings.Compare(a.Name, b.Name)
}
