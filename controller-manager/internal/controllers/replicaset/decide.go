package replicaset

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/object"
)

// plan is what a ReplicaSet needs done.
type plan struct {
	create       []string // names of pods to create
	remove       []*corev1.Pod
	adopt        []*corev1.Pod
	release      []*corev1.Pod
	status       appsv1.ReplicaSetStatus
	requeueAfter time.Duration
}

// decide compares a ReplicaSet with its pods (owned) and those of its namespace
// that nobody controls (orphans). It is pure.
func decide(set *appsv1.ReplicaSet, owned, orphans []*corev1.Pod, now time.Time) (plan, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return plan{}, fmt.Errorf("selector: %w", err)
	}
	var p plan
	var active []*corev1.Pod
	var terminating int32
	taken := map[string]bool{}
	newest := set.ResourceVersion
	for _, pod := range owned {
		taken[pod.Name] = true
		if len(pod.ResourceVersion) > len(newest) || len(pod.ResourceVersion) == len(newest) && pod.ResourceVersion > newest {
			newest = pod.ResourceVersion
		}
		switch {
		case pod.DeletionTimestamp != nil && !podstate.Finished(pod):
			terminating++
		case !podstate.Active(pod):
		case !selector.Matches(labels.Set(pod.Labels)):
			p.release = append(p.release, pod)
		default:
			active = append(active, pod)
		}
	}
	if set.DeletionTimestamp != nil {
		// Garbage collection removes its pods; creating or adopting any would race with it.
		p.release = nil
		p.status = status(set, active, terminating, now, &p.requeueAfter)
		return p, nil
	}
	for _, pod := range orphans {
		taken[pod.Name] = true
		if podstate.Active(pod) && selector.Matches(labels.Set(pod.Labels)) {
			p.adopt = append(p.adopt, pod)
			active = append(active, pod)
		}
	}
	want := 1
	if set.Spec.Replicas != nil {
		want = int(*set.Spec.Replicas)
	}
	switch diff := want - len(active); {
	case diff > 0:
		p.create = names(set, newest, diff, taken)
	case diff < 0:
		slices.SortFunc(active, removalOrder)
		p.remove = active[:-diff]
	}
	p.status = status(set, active, terminating, now, &p.requeueAfter)
	return p, nil
}

// names yields names for new pods. They are a function of what the loop has seen,
// so that a create repeated because its answer was lost meets its own pod instead of making a second one.
func names(set *appsv1.ReplicaSet, seen string, n int, taken map[string]bool) []string {
	prefix := set.Name + "-"
	if most := 63 - 5; len(prefix) > most {
		prefix = prefix[:most]
	}
	out := make([]string, 0, n)
	for i := 0; len(out) < n; i++ {
		h := fnv.New64a()
		_, _ = fmt.Fprintf(h, "%s/%s/%d", set.UID, seen, i)
		name := prefix + suffix(h.Sum64())
		if !taken[name] {
			taken[name] = true
			out = append(out, name)
		}
	}
	return out
}

// suffixAlphabet is Kubernetes' for generated names; without vowels there are no words.
const suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"

// suffix makes five characters of the alphabet from all of sum.
func suffix(sum uint64) string {
	out := make([]byte, 5)
	for i := range out {
		out[i] = suffixAlphabet[sum%uint64(len(suffixAlphabet))]
		sum /= uint64(len(suffixAlphabet))
	}
	return string(out)
}

// removalOrder sorts the pods that cost least to lose first: unbound, pending, not
// ready, then the most recently ready and created ones. A lower
// controller.kubernetes.io/pod-deletion-cost goes first among equals.
func removalOrder(a, b *corev1.Pod) int {
	rank := func(p *corev1.Pod) int {
		switch {
		case p.Spec.NodeName == "":
			return 0
		case p.Status.Phase == corev1.PodPending || p.Status.Phase == "":
			return 1
		case p.Status.Phase == corev1.PodUnknown:
			return 2
		case !podstate.Ready(p):
			return 3
		}
		return 4
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	if d := deletionCost(a) - deletionCost(b); d != 0 {
		return d
	}
	if podstate.Ready(a) && podstate.Ready(b) {
		ra, rb := podstate.Condition(a, corev1.PodReady).LastTransitionTime, podstate.Condition(b, corev1.PodReady).LastTransitionTime
		if !ra.Equal(&rb) {
			return rb.Compare(ra.Time)
		}
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	}
	return strings.Compare(a.Name, b.Name)
}

func deletionCost(pod *corev1.Pod) int {
	var cost int
	if _, err := fmt.Sscanf(pod.Annotations[corev1.PodDeletionCost], "%d", &cost); err != nil {
		return 0
	}
	return cost
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

// podFor builds a pod of the set's template.
func podFor(set *appsv1.ReplicaSet, name string) *corev1.Pod {
	template := set.Spec.Template.DeepCopy()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.Name = set.Namespace, name
	pod.GenerateName = set.Name + "-"
	pod.ResourceVersion, pod.UID = "", ""
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, object.KindOf[*appsv1.ReplicaSet]().GVK)}
	return pod
}
