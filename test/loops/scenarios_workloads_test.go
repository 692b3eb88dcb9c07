package loops

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

// playStatefulSet makes a set, takes a pod from it, updates it and makes it smaller.
func playStatefulSet(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	create(t, c.stack, webSet(c.ns, 3))
	harness.Eventually(t, 2*patience, "3 pods", setReady(c.stack, c.ns, 3))
	victim, err := get[*corev1.Pod](c.stack, c.ns, "web-1")
	if err != nil {
		t.Fatal(err)
	}
	c.remove(t, victim, client.DeleteOptions{UID: victim.UID})
	harness.Eventually(t, 2*patience, "another pod of the name", func() error {
		pod, err := get[*corev1.Pod](c.stack, c.ns, "web-1")
		if err == nil && pod.UID == victim.UID {
			err = fmt.Errorf("it is still the old one")
		}
		return err
	})
	harness.Eventually(t, 2*patience, "3 pods again", setReady(c.stack, c.ns, 3))
	change(t, c.stack, c.ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.Template.Spec.Containers[0].Image = "image:2" })
	harness.Eventually(t, 2*patience, "3 new pods", setReady(c.stack, c.ns, 3))
	change(t, c.stack, c.ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.Replicas = ptr.To[int32](2) })
	harness.Eventually(t, 2*patience, "2 pods", setReady(c.stack, c.ns, 2))
}

func endOfStatefulSet(t *harness.T, c *scene) []string {
	out := lines(list[*appsv1.StatefulSet](t, c.stack, c.ns), func(set *appsv1.StatefulSet) string {
		s := set.Status
		return fmt.Sprintf("set has %d, ready %d, available %d, updated %d, one revision %t, observed %t",
			s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.UpdatedReplicas, s.CurrentRevision == s.UpdateRevision, s.ObservedGeneration == set.Generation)
	})
	out = append(out, lines(list[*appsv1.ControllerRevision](t, c.stack, c.ns), func(r *appsv1.ControllerRevision) string { return fmt.Sprintf("revision %d", r.Revision) })...)
	return append(out, lines(list[*corev1.Pod](t, c.stack, c.ns), func(pod *corev1.Pod) string { return pod.Name + ": " + podLine(pod) })...)
}

// playDaemonSet makes a set and updates it.
func playDaemonSet(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	create(t, c.stack, agentSet(c.ns))
	var nodes []string
	for i := range perturbNodes {
		nodes = append(nodes, nodeName(i))
	}
	harness.Eventually(t, 2*patience, "a pod on each node", daemonsOn(t, c.stack, c.ns, "image:1", nodes...))
	change(t, c.stack, c.ns, "fluentd", "", func(set *appsv1.DaemonSet) { set.Spec.Template.Spec.Containers[0].Image = "image:2" })
	harness.Eventually(t, 3*patience, "a new pod on each node", daemonsOn(t, c.stack, c.ns, "image:2", nodes...))
}

func endOfDaemonSet(t *harness.T, c *scene) []string {
	out := lines(list[*appsv1.DaemonSet](t, c.stack, c.ns), func(set *appsv1.DaemonSet) string {
		s := set.Status
		return fmt.Sprintf("set wants %d, has %d, ready %d, available %d, updated %d, misplaced %d, observed %t", s.DesiredNumberScheduled, s.CurrentNumberScheduled,
			s.NumberReady, s.NumberAvailable, s.UpdatedNumberScheduled, s.NumberMisscheduled, s.ObservedGeneration == set.Generation)
	})
	return append(out, lines(list[*corev1.Pod](t, c.stack, c.ns), func(pod *corev1.Pod) string { return pod.Spec.NodeName + ": " + podLine(pod) })...)
}

// playJob runs a job of which each pod succeeds.
func playJob(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	create(t, c.stack, jobOf(c.ns, "pi", "0", completions(6, 3)))
	jobIs(t, c.stack, c.ns, "pi", "Complete SuccessCriteriaMet")
}

func endOfJob(t *harness.T, c *scene) []string {
	out := lines(list[*batchv1.Job](t, c.stack, c.ns), func(j *batchv1.Job) string {
		uncounted := 0
		if u := j.Status.UncountedTerminatedPods; u != nil {
			uncounted = len(u.Succeeded) + len(u.Failed)
		}
		return fmt.Sprintf("job is %s, active %d, succeeded %d, failed %d, uncounted %d", jobConditions(j), j.Status.Active, j.Status.Succeeded, j.Status.Failed, uncounted)
	})
	return append(out, lines(list[*corev1.Pod](t, c.stack, c.ns), func(pod *corev1.Pod) string {
		return fmt.Sprintf("pod %s, finalizers %v", pod.Status.Phase, pod.Finalizers)
	})...)
}

// playVolume has a pod use two claims, and deletes it with one of them.
func playVolume(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	create(t, c.stack, claimOf(c.ns, "stays", "1Gi"))
	create(t, c.stack, claimOf(c.ns, "goes", "1Gi"))
	create(t, c.stack, podWith(c.ns, "user", "stays", "goes"))
	for _, name := range []string{"stays", "goes"} {
		claimPhase(t, c.stack, c.ns, name, corev1.ClaimBound)
	}
	harness.Eventually(t, patience, "the pod runs", func() error {
		pod, err := get[*corev1.Pod](c.stack, c.ns, "user")
		if err == nil && !isReady(pod) {
			err = fmt.Errorf("it is not Ready on %q", pod.Spec.NodeName)
		}
		return err
	})
	c.remove(t, claimOf(c.ns, "goes", "1Gi"), client.DeleteOptions{})
	c.remove(t, pod(c.ns, "user", "10m"), client.DeleteOptions{})
	harness.Eventually(t, 2*patience, "the claim goes", gone[*corev1.PersistentVolumeClaim](c.stack, c.ns, "goes"))
}

func endOfVolume(t *harness.T, c *scene) []string {
	out := lines(list[*corev1.PersistentVolumeClaim](t, c.stack, c.ns), func(claim *corev1.PersistentVolumeClaim) string {
		return fmt.Sprintf("claim %s is %s, size %s, finalizers %v", claim.Name, claim.Status.Phase, claim.Status.Capacity.Storage(), claim.Finalizers)
	})
	return append(out, lines(list[*corev1.PersistentVolume](t, c.stack, ""), func(v *corev1.PersistentVolume) string {
		if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.Namespace != c.ns {
			return ""
		}
		return fmt.Sprintf("volume of %s is %s", v.Spec.ClaimRef.Name, v.Status.Phase)
	})...)
}

// playBudget watches over pods, one of which stops serving.
func playBudget(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	create(t, c.stack, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: ptr.To(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	})
	create(t, c.stack, replicaSet(c.ns, "web", 4))
	allowed := func(n int32) func() error {
		return func() error {
			budget, err := get[*policyv1.PodDisruptionBudget](c.stack, c.ns, "web")
			if err == nil && budget.Status.DisruptionsAllowed != n {
				err = fmt.Errorf("status %+v", budget.Status)
			}
			return err
		}
	}
	harness.Eventually(t, 2*patience, "two may go", allowed(2))
	victim := list[*corev1.Pod](t, c.stack, c.ns)[0]
	change(t, c.stack, c.ns, victim.Name, "", func(p *corev1.Pod) { p.Annotations = map[string]string{unreadyAnnotation: "yes"} })
	harness.Eventually(t, 2*patience, "one may go", allowed(1))
}

func endOfBudget(t *harness.T, c *scene) []string {
	budget, err := get[*policyv1.PodDisruptionBudget](c.stack, c.ns, "web")
	if apierrors.IsNotFound(err) {
		return []string{"no budget"}
	}
	if err != nil {
		t.Fatal(err)
	}
	s := budget.Status
	return append(endOfReplicaSet(t, c), fmt.Sprintf("budget allows %d of %d, %d healthy, %d wanted, observed %t",
		s.DisruptionsAllowed, s.ExpectedPods, s.CurrentHealthy, s.DesiredHealthy, s.ObservedGeneration == budget.Generation))
}
