package disruption

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/controller-manager/internal/podstate"
)

// deletionTimeout is how long a pod that the eviction API let go counts as gone without
// being seen to go. After that it is taken for staying.
const deletionTimeout = 2 * time.Minute

// size is how many pods the workload behind a pod's controller asks for; the uid is the
// workload's, such as a Deployment's, which several controllers may share.
type size struct {
	uid      types.UID
	replicas int32
}

// plan is what a budget's status shall be.
type plan struct {
	status policyv1.PodDisruptionBudgetStatus
	// stayed are pods that were let go but have not gone; unmanaged those without a
	// controller, which a percentage cannot count.
	stayed, unmanaged []*corev1.Pod
	requeueAfter      time.Duration
}

// scaled says whether a budget refers to how many pods there should be.
func scaled(pdb *policyv1.PodDisruptionBudget) bool {
	return pdb.Spec.MaxUnavailable != nil || pdb.Spec.MinAvailable != nil && pdb.Spec.MinAvailable.Type == intstr.String
}

// decide counts the pods that a budget selects. sizes has what the controllers of the
// pods ask for, by the controllers' uids; it is only read if the budget is scaled. It is pure.
func decide(pdb *policyv1.PodDisruptionBudget, pods []*corev1.Pod, sizes map[types.UID]size, now time.Time) (plan, error) {
	p := plan{status: *pdb.Status.DeepCopy()}
	expected, unmanaged, err := expect(pdb, pods, sizes)
	if err != nil {
		return p, err
	}
	desired, err := desire(pdb, expected)
	if err != nil {
		return p, err
	}
	p.unmanaged = unmanaged
	p.status.ObservedGeneration = pdb.Generation
	p.status.ExpectedPods, p.status.DesiredHealthy = expected, desired
	p.status.DisruptedPods, p.requeueAfter = nil, 0
	for _, pod := range pods {
		p.disrupted(pdb, pod, now)
	}
	p.status.CurrentHealthy = healthy(pods, p.status.DisruptedPods)
	p.status.DisruptionsAllowed = 0
	if expected > 0 {
		p.status.DisruptionsAllowed = max(0, p.status.CurrentHealthy-desired)
	}
	condition := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
		ObservedGeneration: pdb.Generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	if p.status.DisruptionsAllowed > 0 {
		condition.Status, condition.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&p.status.Conditions, condition)
	return p, nil
}

// failed is the status of a budget whose pods cannot be counted: nothing may go.
func failed(pdb *policyv1.PodDisruptionBudget, why error, now time.Time) policyv1.PodDisruptionBudgetStatus {
	out := *pdb.Status.DeepCopy()
	out.DisruptionsAllowed = 0
	meta.SetStatusCondition(&out.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: why.Error(), ObservedGeneration: out.ObservedGeneration, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	})
	return out
}

// expect is how many pods there should be: what the controllers of the selected pods ask
// for, each counted once; for a minimum that is a number, the pods there are.
func expect(pdb *policyv1.PodDisruptionBudget, pods []*corev1.Pod, sizes map[types.UID]size) (expected int32, unmanaged []*corev1.Pod, err error) {
	if !scaled(pdb) {
		return int32(len(pods)), nil, nil
	}
	counted := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			unmanaged = append(unmanaged, pod)
			continue
		}
		found, ok := sizes[owner.UID]
		if !ok {
			return 0, nil, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		if !counted[found.uid] {
			counted[found.uid] = true
			expected += found.replicas
		}
	}
	return expected, unmanaged, nil
}

// desire is how many healthy pods a budget wants of those that are expected. Percentages
// are rounded up.
func desire(pdb *policyv1.PodDisruptionBudget, expected int32) (int32, error) {
	switch {
	case pdb.Spec.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(pdb.Spec.MaxUnavailable, int(expected), true)
		return max(0, expected-int32(n)), err
	case pdb.Spec.MinAvailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(pdb.Spec.MinAvailable, int(expected), true)
		return int32(n), err
	}
	return 0, nil
}

// disrupted keeps the note that a pod was let go, until it is seen to go or has stayed for too long.
// A pod made after that is another one of the same name.
func (p *plan) disrupted(pdb *policyv1.PodDisruptionBudget, pod *corev1.Pod, now time.Time) {
	since, ok := pdb.Status.DisruptedPods[pod.Name]
	if !ok || pod.DeletionTimestamp != nil || pod.CreationTimestamp.After(since.Time) {
		return
	}
	left := since.Add(deletionTimeout).Sub(now)
	if left <= 0 {
		p.stayed = append(p.stayed, pod)
		return
	}
	if p.status.DisruptedPods == nil {
		p.status.DisruptedPods = map[string]metav1.Time{}
	}
	p.status.DisruptedPods[pod.Name] = since
	if p.requeueAfter == 0 || left < p.requeueAfter {
		p.requeueAfter = left
	}
}

// healthy counts the pods that are ready and stay.
func healthy(pods []*corev1.Pod, disrupted map[string]metav1.Time) int32 {
	var n int32
	for _, pod := range pods {
		if _, leaving := disrupted[pod.Name]; !leaving && pod.DeletionTimestamp == nil && podstate.Ready(pod) {
			n++
		}
	}
	return n
}

// stale says whether a pod's condition DisruptionTarget announces an end that does not come,
// or in how long it will be so. What a kubelet announces may take any time.
func stale(pod *corev1.Pod, now time.Time) (announced bool, in time.Duration) {
	c := podstate.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet ||
		pod.DeletionTimestamp != nil || podstate.Finished(pod) {
		return false, 0
	}
	return true, max(0, c.LastTransitionTime.Add(deletionTimeout).Sub(now))
}
