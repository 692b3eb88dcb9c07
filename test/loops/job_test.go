package loops

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

// jobOf is a job whose pods end as endsAnnotation says; empty for those that run on.
func jobOf(ns, name, ends string, changes ...func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: podSpec("10m")}}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if ends != "" {
		j.Spec.Template.Annotations = map[string]string{endsAnnotation: ends}
	}
	for _, change := range changes {
		change(&j.Spec)
	}
	return j
}

func completions(n, parallelism int32) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = &n, &parallelism }
}

func byIndex(s *batchv1.JobSpec) { s.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

// jobConditions are the types of a job's true conditions, in order of their names.
func jobConditions(j *batchv1.Job) string {
	var out []string
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			out = append(out, string(c.Type))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// jobIs waits for true conditions of a job and returns it.
func jobIs(t *harness.T, s *stack, ns, name, conditions string) *batchv1.Job {
	t.Helper()
	var job *batchv1.Job
	harness.Eventually(t, 2*patience, fmt.Sprintf("job %s is %s", name, conditions), func() error {
		j, err := get[*batchv1.Job](s, ns, name)
		if err != nil {
			return err
		}
		if job = j; jobConditions(j) != conditions {
			return fmt.Errorf("it is %q: %+v", jobConditions(j), j.Status)
		}
		return nil
	})
	return job
}

// told waits for events about an object, by their reasons.
func told(t *harness.T, s *stack, ns, name string, reasons ...string) []*corev1.Event {
	t.Helper()
	var about []*corev1.Event
	harness.Eventually(t, patience, fmt.Sprintf("events %v of %s", reasons, name), func() error {
		about = nil
		have := map[string]bool{}
		for _, e := range list[*corev1.Event](t, s, ns) {
			if e.InvolvedObject.Name == name {
				about, have[e.Reason] = append(about, e), true
			}
		}
		for _, reason := range reasons {
			if !have[reason] {
				return fmt.Errorf("%s is missing in %v", reason, have)
			}
		}
		return nil
	})
	return about
}

func podsOf(t *harness.T, s *stack, ns, job string) []*corev1.Pod {
	t.Helper()
	return slices.DeleteFunc(list[*corev1.Pod](t, s, ns), func(p *corev1.Pod) bool { return p.Labels[batchv1.JobNameLabel] != job })
}

// numbers compares what a finished job counts.
func numbers(t *harness.T, j *batchv1.Job, succeeded, failed int32) {
	t.Helper()
	s := j.Status
	if s.Succeeded != succeeded || s.Failed != failed || s.Active != 0 || ptr.Deref(s.Terminating, 0) != 0 || ptr.Deref(s.Ready, 0) != 0 {
		t.Errorf("%d have succeeded and %d failed, not %d and %d: %+v", s.Succeeded, s.Failed, succeeded, failed, s)
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Succeeded)+len(u.Failed) > 0 {
		t.Errorf("not counted yet: %+v", u)
	}
}

// made says how many pods there ever were, once the last has been seen.
func made(t *harness.T, h *history, want int) {
	t.Helper()
	h.until(t, "all pods", func(map[types.UID]*corev1.Pod) bool { return len(h.created) >= want })
	if n := h.total(); n != want {
		t.Errorf("%d pods were made, not %d", n, want)
	}
}

// TestJobs runs jobs as Kubernetes documents them, on hollow nodes.
func TestJobs(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	for i := range 3 {
		if err := s.register(t.Context(), hollowNode(nodeName(i), "64")); err != nil {
			t.Fatal(err)
		}
		k.beat(t, nodeName(i))
	}
	ns := namespace(t, s, "jobs")
	t.Run("Completes", func(t *harness.T) { testJobCompletes(t, s, ns) })
	t.Run("Indexed", func(t *harness.T) { testIndexedJob(t, s, ns) })
	t.Run("Fails", func(t *harness.T) { testJobFails(t, s, ns) })
	t.Run("Suspended", func(t *harness.T) { testSuspendedJob(t, s, ns) })
	t.Run("TimeToLive", func(t *harness.T) { testTimeToLive(t, s, ns) })
	t.Run("Deleted", func(t *harness.T) { testDeletedJob(t, s, ns) })
	t.Run("Unbound", func(t *harness.T) { testUnboundPod(t, s, ns) })
	t.Run("CountedOnce", func(t *harness.T) { testCountedOnce(t, s) })
	t.Run("Many", func(t *harness.T) { testManyJobs(t, s) })
	t.Run("LostNode", func(t *harness.T) { testLostNode(t, s, k, ns) })
}

func testJobCompletes(t *harness.T, s *stack, ns string) {
	create(t, s, jobOf(ns, "pi", "0"))
	j := jobIs(t, s, ns, "pi", "Complete SuccessCriteriaMet")
	numbers(t, j, 1, 0)
	if j.Status.StartTime == nil || j.Status.CompletionTime == nil || j.Status.CompletionTime.Before(j.Status.StartTime) {
		t.Errorf("from %v to %v", j.Status.StartTime, j.Status.CompletionTime)
	}
	pods := podsOf(t, s, ns, "pi")
	if len(pods) != 1 || len(pods[0].Finalizers) > 0 || !strings.HasPrefix(pods[0].Name, "pi-") || !metav1.IsControlledBy(pods[0], j) {
		t.Fatalf("pods %v", pods)
	}
	for _, e := range told(t, s, ns, "pi", "SuccessfulCreate", "Completed") {
		want := map[string]string{"SuccessfulCreate": "Created pod: " + pods[0].Name, "Completed": "Job completed"}[e.Reason]
		if e.Message != want || e.Source.Component != "job-controller" || e.Type != corev1.EventTypeNormal {
			t.Errorf("%s event %s: %q by %s", e.Type, e.Reason, e.Message, e.Source.Component)
		}
	}
	most := 0
	h := follow(t, s, namespace(t, s, "jobs-parallel"), func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		active := 0
		for _, p := range all {
			if !ended(p) {
				active++
			}
		}
		if most = max(most, active); active > 3 {
			return fmt.Sprintf("%d pods are active", active)
		}
		return ""
	})
	create(t, s, jobOf("jobs-parallel", "nine", "0", completions(9, 3)))
	numbers(t, jobIs(t, s, "jobs-parallel", "nine", "Complete SuccessCriteriaMet"), 9, 0)
	made(t, h, 9)
	h.mu.Lock()
	defer h.mu.Unlock()
	if most != 3 {
		t.Errorf("%d pods at once", most)
	}
}

func testIndexedJob(t *harness.T, s *stack, ns string) {
	create(t, s, jobOf(ns, "indexed", "0 1=1 3=7", completions(5, 5), byIndex, func(s *batchv1.JobSpec) {
		s.BackoffLimitPerIndex = ptr.To[int32](0)
	}))
	j := jobIs(t, s, ns, "indexed", "Failed FailureTarget")
	numbers(t, j, 3, 2)
	if j.Status.CompletedIndexes != "0,2,4" || ptr.Deref(j.Status.FailedIndexes, "") != "1,3" {
		t.Errorf("completed %q, failed %q", j.Status.CompletedIndexes, ptr.Deref(j.Status.FailedIndexes, ""))
	}
	told(t, s, ns, "indexed", "FailedIndexes")
	for _, p := range podsOf(t, s, ns, "indexed") {
		index := p.Annotations[batchv1.JobCompletionIndexAnnotation]
		env := p.Spec.Containers[0].Env
		if p.Labels[batchv1.JobCompletionIndexAnnotation] != index || p.Spec.Hostname != "indexed-"+index || !strings.HasPrefix(p.Name, "indexed-"+index+"-") ||
			len(env) != 1 || env[0].Name != "JOB_COMPLETION_INDEX" || env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" ||
			p.Annotations[batchv1.JobIndexFailureCountAnnotation] != "0" {
			t.Errorf("pod %s of index %s: hostname %s, %v, %v", p.Name, index, p.Spec.Hostname, p.Annotations, env)
		}
	}
	// Indexes come and go with the parallelism.
	create(t, s, jobOf(ns, "elastic", "", completions(2, 2), byIndex))
	active := func(n int32) {
		t.Helper()
		harness.Eventually(t, patience, fmt.Sprintf("%d indexes", n), func() error {
			j, err := get[*batchv1.Job](s, ns, "elastic")
			if err == nil && (j.Status.Active != n || ptr.Deref(j.Status.Ready, 0) != n || ptr.Deref(j.Status.Terminating, 0) != 0) {
				err = fmt.Errorf("%+v", j.Status)
			}
			return err
		})
	}
	active(2)
	for _, n := range []int32{4, 1} {
		change(t, s, ns, "elastic", "", func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = &n, &n })
		active(n)
	}
	for _, p := range podsOf(t, s, ns, "elastic") {
		if p.Annotations[batchv1.JobCompletionIndexAnnotation] != "0" {
			t.Errorf("pod %s is left", p.Name)
		}
	}
	s.remove(t, jobOf(ns, "elastic", ""), client.DeleteOptions{Propagation: metav1.DeletePropagationBackground})
}

func testJobFails(t *harness.T, s *stack, ns string) {
	failed := func(name, reason, message string) {
		t.Helper()
		for _, c := range jobIs(t, s, ns, name, "Failed FailureTarget").Status.Conditions {
			if c.Reason != reason || c.Message != message {
				t.Errorf("job %s: %s because of %s: %q", name, c.Type, c.Reason, c.Message)
			}
		}
		for _, e := range told(t, s, ns, name, reason) {
			if e.Reason == reason && (e.Message != message || e.Type != corev1.EventTypeWarning) {
				t.Errorf("job %s: %s event %q", name, e.Type, e.Message)
			}
		}
	}
	create(t, s, jobOf(ns, "limit", "1", completions(3, 2), func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](0) }))
	create(t, s, jobOf(ns, "deadline", "", func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](2) }))
	create(t, s, jobOf(ns, "policy", "42", func(s *batchv1.JobSpec) {
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:      batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{ContainerName: ptr.To("main"), Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
		}}}
	}))
	failed("limit", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
	failed("deadline", "DeadlineExceeded", "Job was active longer than specified deadline")
	pods := podsOf(t, s, ns, "policy")
	if len(pods) != 1 {
		t.Fatalf("%d pods", len(pods))
	}
	failed("policy", "PodFailurePolicy", fmt.Sprintf("Container main for pod %s/%s failed with exit code 42 matching FailJob rule at index 0", ns, pods[0].Name))
	deadline, err := get[*batchv1.Job](s, ns, "deadline")
	if err != nil {
		t.Fatal(err)
	}
	numbers(t, deadline, 0, 1)
	harness.Eventually(t, patience, "the pod that was too slow is gone", func() error {
		if left := podsOf(t, s, ns, "deadline"); len(left) > 0 {
			return fmt.Errorf("%d are left", len(left))
		}
		return nil
	})

	// A failed pod is replaced, after ten seconds and not before.
	create(t, s, jobOf(ns, "again", "1", func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](1) }))
	numbers(t, jobIs(t, s, ns, "again", "Failed FailureTarget"), 0, 2)
	pods = podsOf(t, s, ns, "again")
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	if len(pods) != 2 {
		t.Fatalf("%d pods", len(pods))
	}
	end := pods[0].Status.ContainerStatuses[0].State.Terminated.FinishedAt
	if wait := pods[1].CreationTimestamp.Sub(end.Time); wait < 9*time.Second || wait > 15*time.Second {
		t.Errorf("replaced after %s", wait)
	}
}

func testSuspendedJob(t *harness.T, s *stack, ns string) {
	suspend := func(is bool) {
		t.Helper()
		change(t, s, ns, "suspended", "", func(j *batchv1.Job) { j.Spec.Suspend = &is })
	}
	create(t, s, jobOf(ns, "suspended", "", completions(2, 2), func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) }))
	if j := jobIs(t, s, ns, "suspended", "Suspended"); j.Status.StartTime != nil || len(podsOf(t, s, ns, "suspended")) > 0 {
		t.Fatalf("it has started: %+v", j.Status)
	}
	suspend(false)
	running := func() error {
		j, err := get[*batchv1.Job](s, ns, "suspended")
		if err == nil && (j.Status.Active != 2 || ptr.Deref(j.Status.Ready, 0) != 2 || j.Status.StartTime == nil) {
			err = fmt.Errorf("%+v", j.Status)
		}
		return err
	}
	harness.Eventually(t, patience, "it runs", running)
	suspend(true)
	harness.Eventually(t, patience, "its pods are gone", func() error {
		j, err := get[*batchv1.Job](s, ns, "suspended")
		if err == nil && (j.Status.Active+j.Status.Failed+ptr.Deref(j.Status.Terminating, 0) > 0 || len(podsOf(t, s, ns, "suspended")) > 0 || jobConditions(j) != "Suspended") {
			err = fmt.Errorf("%+v", j.Status)
		}
		return err
	})
	suspend(false)
	harness.Eventually(t, patience, "it runs again", running)
	for _, p := range podsOf(t, s, ns, "suspended") {
		change(t, s, ns, p.Name, "", func(p *corev1.Pod) { p.Annotations = map[string]string{endsAnnotation: "0"} })
	}
	numbers(t, jobIs(t, s, ns, "suspended", "Complete SuccessCriteriaMet"), 2, 0)
	told(t, s, ns, "suspended", "Suspended", "Resumed", "SuccessfulDelete", "Completed")
}

func testTimeToLive(t *harness.T, s *stack, ns string) {
	create(t, s, jobOf(ns, "short", "0", func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](1) }))
	harness.Eventually(t, patience, "a job whose time is over", gone[*batchv1.Job](s, ns, "short"))
	if left := podsOf(t, s, ns, "short"); len(left) > 0 {
		t.Errorf("%d pods are left", len(left)) // the job goes last
	}
}

// testDeletedJob deletes jobs whose pods run: no finalizer keeps them.
func testDeletedJob(t *harness.T, s *stack, ns string) {
	for name, how := range map[string]metav1.DeletionPropagation{"foreground": metav1.DeletePropagationForeground, "background": metav1.DeletePropagationBackground, "orphan": metav1.DeletePropagationOrphan} {
		j := create(t, s, jobOf(ns, name, "", completions(2, 2)))
		harness.Eventually(t, patience, "it runs", func() error {
			if n := len(podsOf(t, s, ns, name)); n != 2 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
		s.remove(t, j, client.DeleteOptions{Propagation: how})
		harness.Eventually(t, patience, "the job is gone", gone[*batchv1.Job](s, ns, name))
		harness.Eventually(t, patience, "its pods are gone or free", func() error {
			for _, p := range podsOf(t, s, ns, name) {
				if how != metav1.DeletePropagationOrphan || len(p.Finalizers) > 0 || len(p.OwnerReferences) > 0 || p.DeletionTimestamp != nil {
					return fmt.Errorf("pod %s: owners %v, finalizers %v", p.Name, p.OwnerReferences, p.Finalizers)
				}
			}
			return nil
		})
		if left := podsOf(t, s, ns, name); how == metav1.DeletePropagationOrphan && len(left) != 2 {
			t.Errorf("%d orphans are left", len(left))
		}
	}
}

// testUnboundPod deletes pods before a scheduler has seen them. No kubelet tells their end, and
// a job that waits for it is told nevertheless.
func testUnboundPod(t *harness.T, s *stack, ns string) {
	create(t, s, jobOf(ns, "unbound", "", func(s *batchv1.JobSpec) {
		s.Template.Spec.SchedulerName = "nobody"
		s.PodReplacementPolicy, s.BackoffLimit = ptr.To(batchv1.Failed), ptr.To[int32](0)
	}))
	harness.Eventually(t, patience, "it has a pod", func() error {
		if n := len(podsOf(t, s, ns, "unbound")); n != 1 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	s.remove(t, podsOf(t, s, ns, "unbound")[0], client.DeleteOptions{})
	numbers(t, jobIs(t, s, ns, "unbound", "Failed FailureTarget"), 0, 1)
}

// testCountedOnce kills the controller-manager in the middle of a job: exactly as many pods
// run as are wanted.
func testCountedOnce(t *harness.T, s *stack) {
	for i := range 3 {
		ns := namespace(t, s, fmt.Sprintf("counted-%d", i))
		h := follow(t, s, ns, nil)
		create(t, s, jobOf(ns, "fifty", "0", completions(50, 7)))
		for _, n := range []int{5 + 9*i, 20 + 9*i} {
			h.until(t, "some pods", func(map[types.UID]*corev1.Pod) bool { return len(h.created) >= n })
			s.restart(t, "controller-manager")
		}
		numbers(t, jobIs(t, s, ns, "fifty", "Complete SuccessCriteriaMet"), 50, 0)
		made(t, h, 50)
	}
}

// testManyJobs runs jobs side by side.
func testManyJobs(t *harness.T, s *stack) {
	ns := namespace(t, s, "jobs-many")
	const jobs, each = 10, 20
	for i := range jobs {
		create(t, s, jobOf(ns, fmt.Sprintf("many-%d", i), "0", completions(each, 10)))
	}
	for i := range jobs {
		numbers(t, jobIs(t, s, ns, fmt.Sprintf("many-%d", i), "Complete SuccessCriteriaMet"), each, 0)
	}
	if n := len(list[*corev1.Pod](t, s, ns)); n != jobs*each {
		t.Errorf("%d pods, not %d", n, jobs*each)
	}
}

// testLostNode deletes the node under a job's pod: the pod has failed, and is replaced.
func testLostNode(t *harness.T, s *stack, k *kubelets, ns string) {
	create(t, s, jobOf(ns, "moved", "", func(s *batchv1.JobSpec) { s.PodReplacementPolicy = ptr.To(batchv1.Failed) }))
	bound := func(not string) *corev1.Pod {
		t.Helper()
		var found *corev1.Pod
		harness.Eventually(t, 3*patience, "a pod runs", func() error {
			for _, p := range podsOf(t, s, ns, "moved") {
				if p.Status.Phase == corev1.PodRunning && p.Spec.NodeName != not {
					found = p
					return nil
				}
			}
			return fmt.Errorf("none on another node than %q", not)
		})
		return found
	}
	first := bound("")
	k.silence(first.Spec.NodeName)
	s.remove(t, hollowNode(first.Spec.NodeName, "64"), client.DeleteOptions{})
	second := bound(first.Spec.NodeName)
	change(t, s, ns, second.Name, "", func(p *corev1.Pod) { p.Annotations = map[string]string{endsAnnotation: "0"} })
	numbers(t, jobIs(t, s, ns, "moved", "Complete SuccessCriteriaMet"), 1, 1)

	// One that was told so says that it was no fault of its own: no failure is counted.
	create(t, s, jobOf(ns, "evicted", "", func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr.To[int32](0)
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		}}}
	}))
	var victim *corev1.Pod
	harness.Eventually(t, patience, "a pod runs", func() error {
		for _, p := range podsOf(t, s, ns, "evicted") {
			if victim = p; p.Status.Phase == corev1.PodRunning {
				return nil
			}
		}
		return fmt.Errorf("none")
	})
	change(t, s, "", victim.Spec.NodeName, "", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "example.com/off", Effect: corev1.TaintEffectNoExecute})
	})
	var next *corev1.Pod
	harness.Eventually(t, 2*patience, "it is replaced", func() error {
		for _, p := range podsOf(t, s, ns, "evicted") {
			if next = p; p.UID != victim.UID {
				return nil
			}
		}
		return fmt.Errorf("not yet")
	})
	change(t, s, ns, next.Name, "", func(p *corev1.Pod) { p.Annotations = map[string]string{endsAnnotation: "0"} })
	numbers(t, jobIs(t, s, ns, "evicted", "Complete SuccessCriteriaMet"), 1, 0)
}
