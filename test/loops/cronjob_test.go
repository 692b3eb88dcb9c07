package loops

import (
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/test/harness"
)

// TestCronJobs makes jobs on schedule. Most of a schedule is in the tests of its loop; here it
// is one minute, and starts that were missed, which need no waiting.
func TestCronJobs(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	if err := s.register(t.Context(), hollowNode(nodeName(0), "64")); err != nil {
		t.Fatal(err)
	}
	k.beat(t, nodeName(0))
	ns := namespace(t, s, "cron")
	cron := func(name, schedule, ends string, policy batchv1.ConcurrencyPolicy) *batchv1.CronJob {
		return &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: batchv1.CronJobSpec{
			Schedule: schedule, ConcurrencyPolicy: policy, TimeZone: ptr.To("Africa/Nairobi"),
			JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"cron": name}}, Spec: jobOf(ns, name, ends).Spec},
		}}
	}
	create(t, s, cron("tick", "* * * * *", "0", batchv1.AllowConcurrent))
	began := time.Now()

	t.Run("MissedStart", func(t *harness.T) {
		create(t, s, cron("missed", "0 0 * * *", "", batchv1.ForbidConcurrent))
		ago := metav1.NewTime(time.Now().Add(-49 * time.Hour))
		change(t, s, ns, "missed", "status", func(c *batchv1.CronJob) { c.Status.LastScheduleTime = &ago })
		job := onlyJob(t, s, ns, "missed")
		c := cronJobIs(t, s, ns, "missed", func(c *batchv1.CronJob) bool { return len(c.Status.Active) == 1 && c.Status.Active[0].UID == job.UID })
		due := c.Status.LastScheduleTime
		at, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
		if err != nil || !at.Equal(due.Time) || job.Name != fmt.Sprintf("missed-%d", due.Unix()/60) || at.Hour() != 0 || at.Format("Z07:00") != "+03:00" || time.Since(at) > 24*time.Hour {
			t.Errorf("job %s of %s, last scheduled %s: %v", job.Name, job.Annotations, due, err)
		}
		told(t, s, ns, "missed", "SuccessfulCreate")

		// The next one may not begin beside it, whoever leads, and does when it has ended.
		change(t, s, ns, "missed", "", func(c *batchv1.CronJob) { c.Spec.Schedule = "* * * * *" })
		change(t, s, ns, "missed", "status", func(c *batchv1.CronJob) { c.Status.LastScheduleTime = &ago })
		s.restart(t, "controller-manager")
		told(t, s, ns, "missed", "JobAlreadyActive", "TooManyMissedTimes")
		if left := jobsOf(t, s, ns, "missed"); len(left) != 1 {
			t.Fatalf("%d jobs", len(left))
		}
		harness.Eventually(t, patience, "its pod runs", func() error {
			if n := len(podsOf(t, s, ns, job.Name)); n != 1 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
		change(t, s, ns, podsOf(t, s, ns, job.Name)[0].Name, "", func(p *corev1.Pod) { p.Annotations = map[string]string{endsAnnotation: "0"} })
		cronJobIs(t, s, ns, "missed", func(c *batchv1.CronJob) bool {
			return c.Status.LastSuccessfulTime != nil && len(c.Status.Active) == 1 && c.Status.Active[0].Name != job.Name && c.Status.Active[0].UID != ""
		})
		told(t, s, ns, "missed", "SawCompletedJob")
		change(t, s, ns, "missed", "", func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) })
	})
	t.Run("EveryMinute", func(t *harness.T) {
		var job *batchv1.Job
		harness.Eventually(t, 75*time.Second-time.Since(began), "a job of this minute", func() error {
			jobs := jobsOf(t, s, ns, "tick")
			if len(jobs) == 0 {
				return fmt.Errorf("none yet")
			}
			job = jobs[0]
			return nil
		})
		c := cronJobIs(t, s, ns, "tick", func(c *batchv1.CronJob) bool { return c.Status.LastSuccessfulTime != nil && len(c.Status.Active) == 0 })
		if due := c.Status.LastScheduleTime; due.Second() != 0 || job.CreationTimestamp.Sub(due.Time) > 10*time.Second {
			t.Errorf("made at %s for %s", job.CreationTimestamp, due)
		}
		if c.Spec.Suspend == nil || *c.Spec.Suspend || !metav1.IsControlledBy(job, c) || job.Labels["cron"] != "tick" {
			t.Errorf("job %+v", job.ObjectMeta)
		}
		told(t, s, ns, "tick", "SuccessfulCreate", "SawCompletedJob")
	})
}

func jobsOf(t *harness.T, s *stack, ns, cron string) []*batchv1.Job {
	t.Helper()
	var out []*batchv1.Job
	for _, j := range list[*batchv1.Job](t, s, ns) {
		if owner := metav1.GetControllerOf(j); owner != nil && owner.Name == cron {
			out = append(out, j)
		}
	}
	return out
}

func onlyJob(t *harness.T, s *stack, ns, cron string) *batchv1.Job {
	t.Helper()
	var job *batchv1.Job
	harness.Eventually(t, patience, "one job of "+cron, func() error {
		jobs := jobsOf(t, s, ns, cron)
		if len(jobs) != 1 {
			return fmt.Errorf("%d jobs", len(jobs))
		}
		job = jobs[0]
		return nil
	})
	return job
}

func cronJobIs(t *harness.T, s *stack, ns, name string, condition func(*batchv1.CronJob) bool) *batchv1.CronJob {
	t.Helper()
	var cron *batchv1.CronJob
	harness.Eventually(t, patience, "status of cron job "+name, func() error {
		c, err := get[*batchv1.CronJob](s, ns, name)
		if err != nil {
			return err
		}
		if cron = c; !condition(c) {
			return fmt.Errorf("%+v", c.Status)
		}
		return nil
	})
	return cron
}
