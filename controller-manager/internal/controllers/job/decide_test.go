package job

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

	"kijabi.dev/controller-manager/internal/podset"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func job(changes ...func(*batchv1.JobSpec)) *batchv1.Job {
	labels := map[string]string{batchv1.ControllerUidLabel: "job"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "pi", UID: "job", ResourceVersion: "10"},
		Spec: batchv1.JobSpec{
			Completions: ptr.To[int32](1), Parallelism: ptr.To[int32](1), BackoffLimit: ptr.To[int32](6),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c"}},
					InitContainers: []corev1.Container{{Name: "i", Env: []corev1.EnvVar{{Name: completionIndexEnv, Value: "own"}}}},
				},
			},
		},
	}
	for _, change := range changes {
		change(&j.Spec)
	}
	return j
}

func of(completions, parallelism int32) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = &completions, &parallelism }
}

func indexed(s *batchv1.JobSpec) { s.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func perIndex(limit int32) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex, s.BackoffLimit = &limit, ptr.To[int32](1<<31-1) }
}

func claimOf(pods ...*corev1.Pod) podset.Claim { return podset.Claim{Own: pods} }

type change func(*corev1.Pod)

func pod(name string, changes ...change) *corev1.Pod {
	j := job()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: name, UID: types.UID(name), ResourceVersion: "11", Labels: j.Spec.Selector.MatchLabels,
			Finalizers: []string{batchv1.JobTrackingFinalizer}, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "pi", UID: "job", Controller: ptr.To(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "node"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

func ended(code int32, ago time.Duration) change {
	return func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			p.Status.Phase = corev1.PodFailed
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now.Add(-ago))},
		}}}
	}
}

func at(index int) change {
	return func(p *corev1.Pod) {
		p.Annotations = with(p.Annotations, batchv1.JobCompletionIndexAnnotation, fmt.Sprint(index))
	}
}

func after(failures int) change {
	return func(p *corev1.Pod) {
		p.Annotations = with(p.Annotations, batchv1.JobIndexFailureCountAnnotation, fmt.Sprint(failures))
	}
}

func deleted(p *corev1.Pod) {
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now.Add(30*time.Second))), ptr.To[int64](30)
}
func free(p *corev1.Pod) { p.Finalizers = nil }

func conditions(s *batchv1.JobStatus) string {
	var out []string
	for _, c := range s.Conditions {
		text := string(c.Type)
		if c.Status != corev1.ConditionTrue {
			text = "no " + text
		}
		if c.Reason != "" {
			text += " " + c.Reason
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func indexesIn(births []birth) string {
	var out []string
	for _, b := range births {
		text := fmt.Sprint(b.index)
		if b.failures+b.ignored > 0 {
			text += fmt.Sprintf(" after %d+%d", b.failures, b.ignored)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func namesOf(pods []*corev1.Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	started := batchv1.JobStatus{StartTime: ptr.To(metav1.NewTime(now.Add(-time.Minute)))}
	withStatus := func(j *batchv1.Job, s batchv1.JobStatus) *batchv1.Job {
		j.Status = s
		return j
	}
	suspend := func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) }
	limit := func(n int32) func(*batchv1.JobSpec) { return func(s *batchv1.JobSpec) { s.BackoffLimit = &n } }
	replaceFailed := func(s *batchv1.JobSpec) { s.PodReplacementPolicy = ptr.To(batchv1.Failed) }
	rules := func(per bool) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) { s.PodFailurePolicy = policy(per) }
	}
	disrupted := func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
	}
	wasSuspended := batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue, Reason: "JobSuspended"}}}

	for name, test := range map[string]struct {
		job                                     *batchv1.Job
		pods                                    []*corev1.Pod
		create, surplus, doomed, release, waive string
		conditions                              string
		active, terminating, succeeded, failed  int32
		uncounted                               string // succeeded, failed
		completed, failedIndexes                string
		again                                   time.Duration
	}{
		"starts":                         {job: job(of(5, 2)), create: "-1, -1", active: 2},
		"starts no more than are wanted": {job: job(of(2, 5)), pods: []*corev1.Pod{pod("a")}, create: "-1", active: 2},
		"counts before it lets go": {
			job: job(of(3, 1)), pods: []*corev1.Pod{pod("a", ended(0, 0))}, create: "-1", release: "a", active: 1, uncounted: "a; ",
		},
		"counts what is let go": {
			job:  withStatus(job(of(3, 1)), batchv1.JobStatus{StartTime: started.StartTime, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a", "gone"}}}),
			pods: []*corev1.Pod{pod("a", ended(0, 0), free)}, create: "-1", active: 1, succeeded: 2, uncounted: "; ",
		},
		"counts once what died in between": {
			job:  withStatus(job(of(3, 1)), batchv1.JobStatus{StartTime: started.StartTime, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a"}}}),
			pods: []*corev1.Pod{pod("a", ended(0, 0))}, create: "-1", active: 1, release: "a", uncounted: "a; ",
		},
		"has enough": {job: job(), pods: []*corev1.Pod{pod("a", ended(0, 0))}, release: "a", uncounted: "a; ", conditions: "SuccessCriteriaMet CompletionsReached"},
		"completes once all are counted": {
			job:  withStatus(job(), batchv1.JobStatus{StartTime: started.StartTime, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a"}}}),
			pods: []*corev1.Pod{pod("a", ended(0, 0), free)}, succeeded: 1, uncounted: "; ", conditions: "SuccessCriteriaMet CompletionsReached, Complete CompletionsReached",
		},
		"waits for pods that still stop": {
			job: withStatus(job(), batchv1.JobStatus{StartTime: started.StartTime, Succeeded: 1}), pods: []*corev1.Pod{pod("b", free, deleted)},
			succeeded: 1, terminating: 1, conditions: "SuccessCriteriaMet CompletionsReached",
		},
		"one success is enough without completions": {
			job: job(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = nil, ptr.To[int32](3) }), pods: []*corev1.Pod{pod("a", ended(0, 0)), pod("b")},
			release: "a", uncounted: "a; ", active: 1,
		},
		"waits before it replaces": {job: job(), pods: []*corev1.Pod{pod("a", ended(1, 4*time.Second))}, release: "a", uncounted: "; a", again: 6 * time.Second},
		"waits longer after more failures": {
			job: job(of(2, 2)), pods: []*corev1.Pod{pod("a", ended(1, 4*time.Second)), pod("b", ended(1, 5*time.Second)), pod("c", ended(1, time.Minute), free)},
			release: "b a", uncounted: "; b a", again: 36 * time.Second,
		},
		"forgets failures before a success": {
			job: job(of(3, 1)), pods: []*corev1.Pod{pod("a", ended(1, 4*time.Second)), pod("b", ended(0, 3*time.Second))},
			create: "-1", active: 1, release: "a b", uncounted: "b; a",
		},
		"fails after too many": {
			job: withStatus(job(of(3, 3), limit(1)), batchv1.JobStatus{StartTime: started.StartTime, Failed: 1}), pods: []*corev1.Pod{pod("a", ended(1, 0)), pod("b")},
			doomed: "b", release: "b a", failed: 1, uncounted: "; b a", terminating: 1, conditions: "FailureTarget BackoffLimitExceeded",
		},
		"has failed": {
			job:    withStatus(job(), batchv1.JobStatus{StartTime: started.StartTime, Failed: 7, Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}}}),
			failed: 7, conditions: "FailureTarget BackoffLimitExceeded, Failed BackoffLimitExceeded",
		},
		"stays failed although it succeeds": {
			job:  withStatus(job(), batchv1.JobStatus{StartTime: started.StartTime, Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue, Reason: "DeadlineExceeded"}}}),
			pods: []*corev1.Pod{pod("a", ended(0, 0))}, release: "a", uncounted: "a; ", conditions: "FailureTarget DeadlineExceeded",
		},
		"stays successful although a pod fails the job": {
			job:  withStatus(job(rules(false)), batchv1.JobStatus{StartTime: started.StartTime, Succeeded: 1, Conditions: []batchv1.JobCondition{{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, Reason: "CompletionsReached"}}}),
			pods: []*corev1.Pod{pod("a", ended(42, 0))}, release: "a", succeeded: 1, uncounted: "; a", conditions: "SuccessCriteriaMet CompletionsReached",
		},
		"restarts in place count": {
			job:    job(limit(2), func(s *batchv1.JobSpec) { s.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }),
			pods:   []*corev1.Pod{pod("a", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 2}} })},
			doomed: "a", release: "a", uncounted: "; a", terminating: 1, conditions: "FailureTarget BackoffLimitExceeded",
		},
		"is active for too long": {
			job:  withStatus(job(func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](60) }), started),
			pods: []*corev1.Pod{pod("a")}, doomed: "a", release: "a", uncounted: "; a", terminating: 1, conditions: "FailureTarget DeadlineExceeded",
		},
		"looks again at the deadline": {
			job:  withStatus(job(func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](100) }), started),
			pods: []*corev1.Pod{pod("a")}, active: 1, again: 40 * time.Second,
		},
		"suspends":                           {job: withStatus(job(suspend), started), pods: []*corev1.Pod{pod("a")}, surplus: "a", terminating: 1, conditions: "Suspended JobSuspended"},
		"resumes":                            {job: withStatus(job(), wasSuspended), create: "-1", active: 1, conditions: "no Suspended JobResumed"},
		"shrinks":                            {job: job(of(5, 1)), pods: []*corev1.Pod{pod("a"), pod("b", func(p *corev1.Pod) { p.Spec.NodeName = "" })}, surplus: "b", active: 1, terminating: 1},
		"goes on with a removal":             {job: job(of(5, 2)), pods: []*corev1.Pod{pod("a", free), pod("b")}, surplus: "a", active: 1, terminating: 1},
		"a deleted pod has failed":           {job: job(), pods: []*corev1.Pod{pod("a", deleted)}, release: "a", uncounted: "; a", terminating: 1, again: 10 * time.Second},
		"waits for the end of a deleted pod": {job: job(replaceFailed), pods: []*corev1.Pod{pod("a", deleted)}, terminating: 1},
		"replaces once a deleted pod has ended": {
			job: job(replaceFailed), pods: []*corev1.Pod{pod("a", deleted, ended(1, time.Minute))}, create: "-1", active: 1, release: "a", uncounted: "; a",
		},
		"fails by policy": {
			job: job(rules(false)), pods: []*corev1.Pod{pod("a", ended(42, 0))}, release: "a", uncounted: "; a", conditions: "FailureTarget PodFailurePolicy",
		},
		"ignores by policy": {
			job: job(rules(false), limit(0)), pods: []*corev1.Pod{pod("a", ended(1, time.Minute), disrupted)}, create: "-1", active: 1, release: "a", uncounted: "; ",
		},
		"starts indexes": {job: job(of(4, 3), indexed), pods: []*corev1.Pod{pod("b", at(1))}, create: "0, 2", active: 3},
		"completes indexes": {
			job:  withStatus(job(of(6, 2), indexed), batchv1.JobStatus{StartTime: started.StartTime, CompletedIndexes: "0-2"}),
			pods: []*corev1.Pod{pod("d", at(3), ended(0, 0)), pod("f", at(5), ended(0, 0))}, create: "4", active: 1, release: "d f", completed: "0-3,5", succeeded: 5,
		},
		"a second pod of an index goes": {
			job: job(of(3, 3), indexed), pods: []*corev1.Pod{pod("a", at(0)), pod("b", at(0), func(p *corev1.Pod) { p.Spec.NodeName = "" }), pod("x", at(7))},
			surplus: "x b", active: 1, terminating: 2,
		},
		"shrinks with its completions": {
			job:  withStatus(job(of(2, 2), indexed), batchv1.JobStatus{StartTime: started.StartTime, CompletedIndexes: "0,3-4", Succeeded: 3}),
			pods: []*corev1.Pod{pod("b", at(1)), pod("c", at(2)), pod("z", at(4), ended(1, 0))}, surplus: "c", release: "z", active: 1, terminating: 1, completed: "0", succeeded: 1,
		},
		"an index waits by itself": {
			job:  job(of(2, 2), indexed, perIndex(3)),
			pods: []*corev1.Pod{pod("a", at(0), after(1), ended(1, 5*time.Second))}, create: "1", active: 1, again: 15 * time.Second,
		},
		"an index is told how often it failed": {
			job:  job(of(2, 2), indexed, perIndex(3)),
			pods: []*corev1.Pod{pod("a", at(0), after(1), ended(1, time.Hour)), pod("b", at(1))}, create: "0 after 2+0", active: 2,
		},
		"a replaced pod is let go": {
			job:  job(of(1, 1), indexed, perIndex(3)),
			pods: []*corev1.Pod{pod("a", at(0), ended(1, time.Hour)), pod("b", at(0), after(1))}, release: "a", uncounted: "; a", active: 1,
		},
		"an index fails for good": {
			job:  job(of(2, 2), indexed, perIndex(1)),
			pods: []*corev1.Pod{pod("a", at(0), after(1), ended(1, 0)), pod("b", at(1))}, release: "a", uncounted: "; a", active: 1, failedIndexes: "0",
		},
		"an index fails by policy": {
			job:  job(of(2, 2), indexed, perIndex(5), rules(true)),
			pods: []*corev1.Pod{pod("a", at(0), ended(13, 0)), pod("b", at(1))}, release: "a", uncounted: "; a", active: 1, failedIndexes: "0",
		},
		"too many indexes fail": {
			job:  job(of(3, 2), indexed, perIndex(0), func(s *batchv1.JobSpec) { s.MaxFailedIndexes = ptr.To[int32](0) }),
			pods: []*corev1.Pod{pod("a", at(0), ended(1, 0))}, release: "a", uncounted: "; a", failedIndexes: "0", conditions: "FailureTarget MaxFailedIndexesExceeded",
		},
		"all indexes end, one failed": {
			job:  withStatus(job(of(2, 2), indexed, perIndex(0)), batchv1.JobStatus{StartTime: started.StartTime, CompletedIndexes: "1", Succeeded: 1}),
			pods: []*corev1.Pod{pod("a", at(0), ended(1, 0))}, release: "a", uncounted: "; a", completed: "1", succeeded: 1, failedIndexes: "0", conditions: "FailureTarget FailedIndexes",
		},
		"meets a success policy": {
			job: job(of(5, 3), indexed, func(s *batchv1.JobSpec) {
				s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
					{SucceededIndexes: ptr.To("1-3")}, {SucceededIndexes: ptr.To("0,4"), SucceededCount: ptr.To[int32](1)},
				}}
			}),
			pods:    []*corev1.Pod{pod("a", at(0), ended(0, 0)), pod("b", at(1))},
			surplus: "b", release: "a", terminating: 1, completed: "0", succeeded: 1, conditions: "SuccessCriteriaMet SuccessPolicy",
		},
		"a deleted job lets all go": {
			job: func() *batchv1.Job {
				j := withStatus(job(of(3, 2)), started)
				j.DeletionTimestamp = ptr.To(metav1.NewTime(now))
				return j
			}(),
			pods: []*corev1.Pod{pod("a"), pod("b", ended(0, 0))}, release: "b", waive: "a", uncounted: "b; ", active: 1,
		},
		"a finished job lets go what is left": {
			job:  withStatus(job(), batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}, Succeeded: 1}),
			pods: []*corev1.Pod{pod("a", ended(0, 0)), pod("b", free)}, release: "a", succeeded: 1, conditions: "Complete",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := decide(test.job, test.pods, nil, func(string) bool { return false }, past{}, now)
			if err != nil {
				t.Fatal(err)
			}
			s := &p.status
			uncounted := "; "
			if u := s.UncountedTerminatedPods; u != nil {
				uncounted = strings.Join(*strs(u.Succeeded), " ") + "; " + strings.Join(*strs(u.Failed), " ")
			}
			if test.uncounted == "" {
				test.uncounted = "; "
			}
			for _, c := range []struct{ what, got, want string }{
				{"create", indexesIn(p.create), test.create}, {"surplus", namesOf(p.surplus), test.surplus},
				{"doomed", namesOf(p.doomed), test.doomed}, {"release", namesOf(p.release), test.release}, {"waive", namesOf(p.waive), test.waive},
				{"conditions", conditions(s), test.conditions}, {"uncounted", uncounted, test.uncounted},
				{"completed indexes", s.CompletedIndexes, test.completed}, {"failed indexes", ptr.Deref(s.FailedIndexes, ""), test.failedIndexes},
				{
					"active, terminating, succeeded, failed", fmt.Sprint(s.Active, ptr.Deref(s.Terminating, 0), s.Succeeded, s.Failed),
					fmt.Sprint(test.active, test.terminating, test.succeeded, test.failed),
				},
				{"again", p.requeueAfter.String(), test.again.String()},
			} {
				if c.got != c.want {
					t.Errorf("%s: %q, not %q", c.what, c.got, c.want)
				}
			}
		})
	}
}
