package kinds_test

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a status says of the past does not change.
func TestJobStatusTransitions(t *testing.T) {
	kind := kindOf(t, "jobs.batch")
	start, end := metav1.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), metav1.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
	is := func(kinds ...batchv1.JobConditionType) (out []batchv1.JobCondition) {
		for _, kind := range kinds {
			out = append(out, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue})
		}
		return out
	}
	complete := batchv1.JobStatus{StartTime: &start, CompletionTime: &end, Succeeded: 2, Conditions: is(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)}
	running := batchv1.JobStatus{StartTime: &start, Active: 1, Succeeded: 2, Failed: 2}
	for _, c := range []struct {
		name     string
		spec     batchv1.JobSpec
		old, now batchv1.JobStatus
		want     string
	}{
		{"goes on", batchv1.JobSpec{}, running, batchv1.JobStatus{StartTime: &start, Active: 1, Succeeded: 3, Failed: 2}, ""},
		{"completes", batchv1.JobSpec{}, batchv1.JobStatus{StartTime: &start, Succeeded: 1}, complete, ""},
		{"stays complete", batchv1.JobSpec{}, complete, complete, ""},
		{"is complete no more", batchv1.JobSpec{}, complete, batchv1.JobStatus{StartTime: &start, Succeeded: 2}, "status.conditions: FieldValueInvalid"},
		{"fails no more", batchv1.JobSpec{}, batchv1.JobStatus{StartTime: &start, Conditions: is(batchv1.JobFailureTarget)}, batchv1.JobStatus{StartTime: &start}, "status.conditions: FieldValueInvalid"},
		{"unfails", batchv1.JobSpec{}, running, batchv1.JobStatus{StartTime: &start, Succeeded: 2, Failed: 1}, "status.failed: FieldValueInvalid"},
		{"unsucceeds", batchv1.JobSpec{}, running, batchv1.JobStatus{StartTime: &start, Succeeded: 1, Failed: 2}, "status.succeeded: FieldValueInvalid"},
		{
			"shrinks", batchv1.JobSpec{CompletionMode: new(batchv1.IndexedCompletion), Completions: new(int32(3)), Parallelism: new(int32(3))},
			running, batchv1.JobStatus{StartTime: &start, Succeeded: 1, Failed: 2}, "",
		},
		{"completes at another time", batchv1.JobSpec{}, complete, batchv1.JobStatus{StartTime: &start, CompletionTime: &metav1.Time{Time: end.Add(time.Second)}, Succeeded: 2, Conditions: complete.Conditions}, "status.completionTime: FieldValueInvalid"},
		{"starts at another time", batchv1.JobSpec{}, running, batchv1.JobStatus{StartTime: &end, Succeeded: 2, Failed: 2}, "status.startTime: FieldValueInvalid"},
		{"is resumed", batchv1.JobSpec{}, batchv1.JobStatus{StartTime: &start, Conditions: is(batchv1.JobSuspended)}, batchv1.JobStatus{StartTime: &end}, ""},
		{"is suspended", batchv1.JobSpec{Suspend: new(true)}, running, batchv1.JobStatus{Succeeded: 2, Failed: 2, Conditions: is(batchv1.JobSuspended)}, ""},
	} {
		old := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "pi", Namespace: "default"}, Spec: c.spec, Status: c.old}
		now := old.DeepCopy()
		now.Status = c.now
		if got := brief(kind.ValidateStatusUpdate(now, old)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// A job may be sent elsewhere only while it rests.
func TestJobTemplateOfRestingJobs(t *testing.T) {
	kind := kindOf(t, "jobs.batch")
	g := jobGolden()
	start := metav1.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	suspended := []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}}
	for _, c := range []struct {
		name   string
		status batchv1.JobStatus
		want   string
	}{
		{"never started", batchv1.JobStatus{}, ""},
		{"suspension is not confirmed", batchv1.JobStatus{StartTime: &start}, "spec.template: FieldValueInvalid"},
		{"pods are left", batchv1.JobStatus{Active: 1, Conditions: suspended}, "spec.template: FieldValueInvalid"},
		{"suspended again", batchv1.JobStatus{StartTime: &start, Conditions: suspended}, ""},
	} {
		old := g.manifest(t, kind, nil, "spec.suspend = true").(*batchv1.Job)
		if errs := create(kind, old); len(errs) > 0 {
			t.Fatal(errs)
		}
		old.Status, old.ResourceVersion = c.status, "1"
		now := old.DeepCopy()
		now.Spec.Template.Spec.NodeSelector = map[string]string{"pool": "batch"}
		if got := brief(update(kind, now, old)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}
