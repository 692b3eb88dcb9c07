package replicas

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/object"
)

// Owner is what is asked for, and what was last reported of it.
type Owner struct {
	Object          object.Object
	Replicas        int32
	MinReadySeconds int32
	Selector        labels.Selector
	Template        *corev1.PodTemplateSpec
	Status          Status
}

// Status counts an owner's pods.
type Status struct {
	ObservedGeneration                       int64
	Replicas, FullyLabeled, Ready, Available int32
	// Terminating is nil where it was never counted.
	Terminating *int32
	// Failure is why pods could not be made or removed; nil when they could.
	Failure *Failure
}

// Failure is the content of the condition ReplicaFailure.
type Failure struct {
	Reason, Message string
	Since           metav1.Time
}

// plan is what an owner needs done.
type plan struct {
	create       []string // names of pods to create
	remove       []*corev1.Pod
	claim        podset.Claim
	status       Status // without Failure
	requeueAfter time.Duration
}

// decide compares an owner with its pods (owned) and those of its namespace that nobody
// controls (orphans); taken says whether a pod of a name is known. It is pure.
func decide(owner Owner, owned, orphans []*corev1.Pod, taken func(name string) bool, now time.Time) plan {
	p := plan{claim: podset.Claimed(owner.Object, owner.Selector, owned, orphans)}
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
	if owner.Object.GetDeletionTimestamp() == nil {
		switch diff := int(owner.Replicas) - len(active); {
		case diff > 0:
			p.create = podset.Names(owner.Object, p.claim.Newest, diff, taken)
		case diff < 0:
			slices.SortFunc(active, podset.RemovalOrder)
			p.remove = active[:-diff]
		}
	}
	p.status = count(owner, active, now, &p.requeueAfter)
	p.status.Terminating = &terminating
	return p
}

func count(owner Owner, active []*corev1.Pod, now time.Time, requeueAfter *time.Duration) Status {
	out := Status{ObservedGeneration: owner.Object.GetGeneration(), Replicas: int32(len(active))}
	template := labels.Set(owner.Template.Labels).AsSelectorPreValidated()
	minReady := time.Duration(owner.MinReadySeconds) * time.Second
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			out.FullyLabeled++
		}
		if podstate.Ready(pod) {
			out.Ready++
		}
		available, in := podstate.Available(pod, minReady, now)
		if available {
			out.Available++
		}
		if in > 0 && (*requeueAfter == 0 || in < *requeueAfter) {
			*requeueAfter = in
		}
	}
	return out
}
