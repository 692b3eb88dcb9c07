package ttlafterfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	job := func(ttl *int32, kind batchv1.JobConditionType, status corev1.ConditionStatus, ago time.Duration) *batchv1.Job {
		return &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl}, Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{
			{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue},
			{Type: kind, Status: status, LastTransitionTime: metav1.NewTime(now.Add(-ago))},
		}}}
	}
	leaving := job(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionTrue, time.Hour)
	leaving.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	for name, test := range map[string]struct {
		job  *batchv1.Job
		in   time.Duration
		ends bool
	}{
		"stays for ever":            {job: job(nil, batchv1.JobComplete, corev1.ConditionTrue, time.Hour)},
		"has not finished":          {job: job(ptr.To[int32](0), batchv1.JobFailureTarget, corev1.ConditionTrue, time.Hour)},
		"has a while":               {job: job(ptr.To[int32](100), batchv1.JobComplete, corev1.ConditionTrue, time.Minute), in: 40 * time.Second, ends: true},
		"is over":                   {job: job(ptr.To[int32](60), batchv1.JobFailed, corev1.ConditionTrue, time.Minute), ends: true},
		"goes at once":              {job: job(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionTrue, 0), ends: true},
		"finished in the future":    {job: job(ptr.To[int32](10), batchv1.JobComplete, corev1.ConditionTrue, -time.Minute), in: 70 * time.Second, ends: true},
		"is on its way out":         {job: leaving},
		"is not said to have ended": {job: job(ptr.To[int32](0), batchv1.JobComplete, corev1.ConditionFalse, time.Hour)},
	} {
		if in, ends := decide(test.job, now); in != test.in || ends != test.ends {
			t.Errorf("%s: in %s %v, not %s %v", name, in, ends, test.in, test.ends)
		}
	}
}
