package statefulset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podstate"
)

// status counts a set's pods.
func (d *decision) status() appsv1.StatefulSetStatus {
	out := *d.set.Status.DeepCopy()
	out.ObservedGeneration = d.set.Generation
	out.CurrentRevision, out.UpdateRevision = d.current.Name, d.update.Name
	out.CollisionCount = d.collisions
	out.Replicas, out.ReadyReplicas, out.AvailableReplicas = 0, 0, 0
	out.CurrentReplicas, out.UpdatedReplicas = 0, 0
	count := func(pod *corev1.Pod) {
		out.Replicas++
		if d.ready(pod) {
			out.ReadyReplicas++
		}
		if d.available(pod) {
			out.AvailableReplicas++
		}
		if pod.DeletionTimestamp != nil {
			return
		}
		if revisionOf(pod) == d.current.Name {
			out.CurrentReplicas++
		}
		if revisionOf(pod) == d.update.Name {
			out.UpdatedReplicas++
		}
	}
	for _, at := range d.places {
		count(at.pod)
	}
	for _, pod := range d.condemned {
		count(pod)
	}
	// An update is complete once every pod that is asked for is of it and ready, and no other is left.
	if want := int32(replicas(d.set)); out.Replicas == want && out.UpdatedReplicas == want && out.ReadyReplicas == want {
		out.CurrentRevision, out.CurrentReplicas = out.UpdateRevision, out.UpdatedReplicas
	}
	return out
}

// ready says whether a pod runs and is ready.
func (*decision) ready(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && podstate.Ready(pod)
}

// available says whether a pod has been ready for minReadySeconds; when that will be makes
// the set due again.
func (d *decision) available(pod *corev1.Pod) bool {
	if !d.ready(pod) {
		return false
	}
	available, in := podstate.Available(pod, time.Duration(d.set.Spec.MinReadySeconds)*time.Second, d.now)
	if in > 0 && (d.plan.requeueAfter == 0 || in < d.plan.requeueAfter) {
		d.plan.requeueAfter = in
	}
	return available
}

// healthy says whether a pod is available and stays.
func (d *decision) healthy(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && d.available(pod)
}

func partition(set *appsv1.StatefulSet) int {
	if rolling := set.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		return int(ptr.Deref(rolling.Partition, 0))
	}
	return 0
}
