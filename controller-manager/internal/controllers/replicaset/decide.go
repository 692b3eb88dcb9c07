package replicaset

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
)

// plan is what a ReplicaSet needs done.
type plan struct {
	create       []string // names of pods to create
	remove       []*corev1.Pod
	claim        podset.Claim
	status       appsv1.ReplicaSetStatus
	requeueAfter time.Duration
}

// decide compares a ReplicaSet with its pods (owned) and those of its namespace
// that nobody controls (orphans); taken says whether a pod of a name is known. It is pure.
func decide(set *appsv1.ReplicaSet, owned, orphans []*corev1.Pod, taken func(name string) bool, now time.Time) (plan, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return plan{}, fmt.Errorf("selector: %w", err)
	}
	p := plan{claim: podset.Claimed(set, selector, owned, orphans)}
	var active []*corev1.Pod
	var terminating int32
	for _, pod := range p.claim.Own {
		switch {
		case podstate.Active(pod):
			active = append(active, pod)
		case !podstate.Finished(pod):
			terminating++
		}
	}
	if set.DeletionTimestamp == nil {
		switch diff := int(ptr.Deref(set.Spec.Replicas, 1)) - len(active); {
		case diff > 0:
			p.create = podset.Names(set, p.claim.Newest, diff, taken)
		case diff < 0:
			slices.SortFunc(active, podset.RemovalOrder)
			p.remove = active[:-diff]
		}
	}
	p.status = status(set, active, terminating, now, &p.requeueAfter)
	return p, nil
}

func status(set *appsv1.ReplicaSet, active []*corev1.Pod, terminating int32, now time.Time, requeueAfter *time.Duration) appsv1.ReplicaSetStatus {
	out := *set.Status.DeepCopy()
	out.ObservedGeneration = set.Generation
	out.Replicas, out.TerminatingReplicas = int32(len(active)), &terminating
	out.ReadyReplicas, out.AvailableReplicas, out.FullyLabeledReplicas = 0, 0, 0
	template := labels.Set(set.Spec.Template.Labels).AsSelectorPreValidated()
	minReady := time.Duration(set.Spec.MinReadySeconds) * time.Second
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			out.FullyLabeledReplicas++
		}
		if podstate.Ready(pod) {
			out.ReadyReplicas++
		}
		available, in := podstate.Available(pod, minReady, now)
		if available {
			out.AvailableReplicas++
		}
		if in > 0 && (*requeueAfter == 0 || in < *requeueAfter) {
			*requeueAfter = in
		}
	}
	return out
}
