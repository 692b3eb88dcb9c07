package cronjob

import (
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

func cronJob(schedule string, changes ...func(*batchv1.CronJob)) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "tick", UID: "cron", CreationTimestamp: metav1.NewTime(at("2026-11-30T11:00:30Z"))},
		Spec: batchv1.CronJobSpec{
			Schedule: schedule, ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: ptr.To[int32](3), FailedJobsHistoryLimit: ptr.To[int32](1),
			JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "tick"}, Annotations: map[string]string{"note": "x"}}},
		},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func zone(name string) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) { c.Spec.TimeZone = &name }
}

func last(text string) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) { c.Status.LastScheduleTime = ptr.To(metav1.NewTime(at(text))) }
}

func deadline(seconds int64) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = &seconds }
}

func runs(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = p }
}

func active(names ...string) func(*batchv1.CronJob) {
	return func(c *batchv1.CronJob) {
		for _, name := range names {
			c.Status.Active = append(c.Status.Active, corev1.ObjectReference{Name: name, UID: types.UID(name)})
		}
	}
}

func job(name string, minute int, end batchv1.JobConditionType) *batchv1.Job {
	start := metav1.NewTime(at("2026-11-30T11:00:00Z").Add(time.Duration(minute) * time.Minute))
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Status: batchv1.JobStatus{StartTime: &start}}
	if end != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue}}
	}
	if end == batchv1.JobComplete {
		j.Status.CompletionTime = ptr.To(metav1.NewTime(start.Add(30 * time.Second)))
	}
	return j
}

func TestDecide(t *testing.T) {
	done, failed := batchv1.JobComplete, batchv1.JobFailed
	for name, test := range map[string]struct {
		cron    *batchv1.CronJob
		jobs    []*batchv1.Job
		now     string
		create  string // the time the job is of
		remove  string
		active  string
		told    string // reasons
		again   time.Duration
		success string
	}{
		"is not due yet":       {cron: cronJob("5 * * * *"), now: "2026-11-30T11:04:00Z", again: time.Minute + late},
		"is due":               {cron: cronJob("5 * * * *"), now: "2026-11-30T11:05:00Z", create: "2026-11-30T11:05:00Z", active: "tick-", again: time.Hour + late},
		"is due a little late": {cron: cronJob("* * * * *", last("2026-11-30T11:05:00Z")), now: "2026-11-30T11:06:00.1Z", create: "2026-11-30T11:06:00Z", active: "tick-", again: time.Minute},
		"has run":              {cron: cronJob("5 * * * *", last("2026-11-30T11:05:00Z")), now: "2026-11-30T11:05:01Z", again: time.Hour - time.Second + late},
		"runs hourly":          {cron: cronJob("@hourly"), now: "2026-11-30T12:00:00Z", create: "2026-11-30T12:00:00Z", active: "tick-", again: time.Hour + late},
		"runs every so often":  {cron: cronJob("@every 90s"), now: "2026-11-30T11:04:00Z", create: "2026-11-30T11:03:30Z", active: "tick-", again: time.Minute + late},
		"missed some":          {cron: cronJob("*/10 * * * *", last("2026-11-30T08:00:00Z")), now: "2026-11-30T11:05:00Z", create: "2026-11-30T11:00:00Z", active: "tick-", again: 5*time.Minute + late},
		"missed many": {
			cron: cronJob("* * * * *", last("2025-01-01T08:00:00Z")), now: "2026-11-30T11:05:30Z", create: "2026-11-30T11:05:00Z",
			active: "tick-", told: "TooManyMissedTimes", again: 30*time.Second + late,
		},
		"missed many irregular ones": {
			cron: cronJob("30 6-16/4 * * 1-5", last("2025-01-01T08:00:00Z")), now: "2026-11-30T11:05:00Z", create: "2026-11-30T10:30:00Z",
			active: "tick-", told: "TooManyMissedTimes", again: 3*time.Hour + 25*time.Minute + late,
		},
		"missed many so often": {
			cron: cronJob("@every 1m", last("2025-01-01T08:00:10Z")), now: "2026-11-30T11:05:30Z", create: "2026-11-30T11:05:10Z",
			active: "tick-", told: "TooManyMissedTimes", again: 40*time.Second + late,
		},
		"is too late": {
			cron: cronJob("0 * * * *", last("2026-11-30T09:00:00Z"), deadline(60)), now: "2026-11-30T11:05:00Z", told: "MissSchedule", again: 55*time.Minute + late,
		},
		"is late, but not too late": {
			cron: cronJob("* * * * *", last("2025-01-01T08:00:00Z"), deadline(120)), now: "2026-11-30T11:05:30Z", create: "2026-11-30T11:05:00Z", active: "tick-", again: 30*time.Second + late,
		},
		"is suspended":       {cron: cronJob("* * * * *", func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) }), now: "2026-11-30T11:05:00Z"},
		"is being deleted":   {cron: cronJob("* * * * *", func(c *batchv1.CronJob) { c.DeletionTimestamp = &metav1.Time{} }), now: "2026-11-30T11:05:00Z"},
		"will never be due":  {cron: cronJob("59 23 31 2 *"), now: "2026-11-30T11:05:00Z", told: "InvalidSchedule"},
		"is not a schedule":  {cron: cronJob("every now and then"), now: "2026-11-30T11:05:00Z", told: "UnparseableSchedule"},
		"is in no time zone": {cron: cronJob("* * * * *", zone("Mars/Olympus")), now: "2026-11-30T11:05:00Z", told: "UnknownTimeZone"},
		"runs beside":        {cron: cronJob("* * * * *", active("x"), last("2026-11-30T11:04:00Z")), jobs: []*batchv1.Job{job("x", 1, "")}, now: "2026-11-30T11:05:00Z", create: "2026-11-30T11:05:00Z", active: "x tick-", again: time.Minute + late},
		"is forbidden to":    {cron: cronJob("* * * * *", active("x"), last("2026-11-30T11:04:00Z"), runs(batchv1.ForbidConcurrent)), jobs: []*batchv1.Job{job("x", 1, "")}, now: "2026-11-30T11:05:00Z", active: "x", told: "JobAlreadyActive", again: time.Minute + late},
		"may, the other has ended": {
			cron: cronJob("* * * * *", active("x"), last("2026-11-30T11:04:00Z"), runs(batchv1.ForbidConcurrent)), jobs: []*batchv1.Job{job("x", 1, failed)},
			now: "2026-11-30T11:05:20Z", create: "2026-11-30T11:05:00Z", active: "tick-", told: "SawCompletedJob", again: 40*time.Second + late,
		},
		"replaces": {
			cron: cronJob("* * * * *", active("x"), last("2026-11-30T11:04:00Z"), runs(batchv1.ReplaceConcurrent)), jobs: []*batchv1.Job{job("x", 1, ""), job("by-hand", 2, "")},
			now: "2026-11-30T11:05:00Z", create: "2026-11-30T11:05:00Z", remove: "x", active: "tick-", told: "UnexpectedJob", again: time.Minute + late,
		},
		"a job made by hand forbids nothing": {
			cron: cronJob("* * * * *", last("2026-11-30T11:04:00Z"), runs(batchv1.ForbidConcurrent)), jobs: []*batchv1.Job{job("by-hand", 2, "")},
			now: "2026-11-30T11:05:00Z", create: "2026-11-30T11:05:00Z", active: "tick-", told: "UnexpectedJob", again: time.Minute + late,
		},
		"an active job is gone": {cron: cronJob("0 0 1 1 *", active("x")), now: "2026-11-30T11:05:00Z", told: "MissingJob", again: 32*24*time.Hour - 11*time.Hour - 5*time.Minute + late},
		"keeps so many": {
			cron: cronJob("0 0 1 1 *", active("f3")), now: "2026-11-30T11:05:00Z",
			jobs:   []*batchv1.Job{job("c4", 4, done), job("c1", 1, done), job("c2", 2, done), job("c3", 3, done), job("f1", 1, failed), job("f3", 3, failed), job("f2", 2, failed)},
			remove: "c1 f1 f2", told: "SawCompletedJob", again: 32*24*time.Hour - 11*time.Hour - 5*time.Minute + late, success: "2026-11-30T11:04:30Z",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := decide(test.cron, test.jobs, at(test.now))
			var removed, names, told []string
			for _, j := range p.remove {
				removed = append(removed, j.Name)
			}
			for _, ref := range p.status.Active {
				if strings.HasPrefix(ref.Name, "tick-") {
					ref.Name = "tick-"
				}
				names = append(names, ref.Name)
			}
			for _, e := range p.told {
				told = append(told, e.reason)
			}
			create, success := "", ""
			if p.create != nil {
				due := p.status.LastScheduleTime.UTC()
				create = due.Format(time.RFC3339)
				if want := fmt.Sprintf("tick-%d", due.Unix()/60); p.create.Name != want {
					t.Errorf("name %s, not %s", p.create.Name, want)
				}
			}
			if s := p.status.LastSuccessfulTime; s != nil {
				success = s.UTC().Format(time.RFC3339)
			}
			for _, c := range []struct{ what, got, want string }{
				{"create", create, test.create}, {"remove", strings.Join(removed, " "), test.remove}, {"active", strings.Join(names, " "), test.active},
				{"told", strings.Join(told, " "), test.told}, {"again", p.requeueAfter.String(), test.again.String()}, {"last success", success, test.success},
			} {
				if c.got != c.want {
					t.Errorf("%s: %q, not %q", c.what, c.got, c.want)
				}
			}
		})
	}
}

// TestTimes runs cron jobs for a while: in time zones, and over the nights in which clocks change.
func TestTimes(t *testing.T) {
	for name, test := range map[string]struct {
		schedule, zone string
		from, to       string
		want           []string
	}{
		"in UTC":                {"30 9 * * *", "Etc/UTC", "2026-06-01T00:00:00Z", "2026-06-03T00:00:00Z", []string{"2026-06-01T09:30:00Z", "2026-06-02T09:30:00Z"}},
		"in Nairobi":            {"30 9 * * *", "Africa/Nairobi", "2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z", []string{"2026-06-01T09:30:00+03:00"}},
		"half an hour off":      {"0 0 * * *", "Asia/Kolkata", "2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z", []string{"2026-06-02T00:00:00+05:30"}},
		"weekdays of the place": {"0 1 * * MON", "Pacific/Auckland", "2026-06-06T00:00:00Z", "2026-06-09T00:00:00Z", []string{"2026-06-08T01:00:00+12:00"}},
		"an hour is skipped":    {"30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z", []string{"2026-03-28T02:30:00+01:00", "2026-03-30T02:30:00+02:00"}},
		"an hour comes twice":   {"30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z", []string{"2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"}},
		"hourly over a change":  {"@hourly", "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T02:30:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
		"no midnight":           {"0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", "2026-09-07T12:00:00Z", []string{"2026-09-07T00:00:00-03:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := cronJob(test.schedule, zone(test.zone))
			now := at(test.from)
			c.CreationTimestamp = metav1.NewTime(now)
			var got []string
			for range 100 {
				p := decide(c, nil, now)
				if p.create != nil {
					got = append(got, p.create.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
					c.Status.LastScheduleTime = p.status.LastScheduleTime
					continue
				}
				if p.requeueAfter < late {
					t.Fatalf("again in %s at %s", p.requeueAfter, now)
				}
				if now = now.Add(p.requeueAfter); now.After(at(test.to)) {
					break
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("ran at %v, not %v", got, test.want)
			}
		})
	}
}

func TestJobOfATime(t *testing.T) {
	c := cronJob("* * * * *", zone("Africa/Nairobi"))
	j := jobAt(c, at("2026-11-30T11:05:00Z"))
	if j.Name != "tick-29933945" || j.Labels["app"] != "tick" || j.Annotations["note"] != "x" || !metav1.IsControlledBy(j, c) {
		t.Errorf("%+v", j.ObjectMeta)
	}
	if got := j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]; got != "2026-11-30T14:05:00+03:00" {
		t.Errorf("scheduled for %s", got)
	}
	if len(c.Spec.JobTemplate.Annotations) != 1 {
		t.Error("the template has changed")
	}
}
