package deployment

import (
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func replicas(set *appsv1.ReplicaSet) int32 { return ptr.Deref(set.Spec.Replicas, 1) }

// observed says whether a set's loop has acted on its size, so that the status counts
// every pod it has made or removed for it.
func observed(set *appsv1.ReplicaSet) bool { return set.Status.ObservedGeneration >= set.Generation }

// present is how many pods an observed set may have now: those it shall give up are there
// until its own loop has deleted them.
func present(set *appsv1.ReplicaSet) int32 { return max(replicas(set), set.Status.Replicas) }

// available is how many available pods a set has and keeps.
func available(set *appsv1.ReplicaSet) int32 { return min(set.Status.AvailableReplicas, replicas(set)) }

// running says whether a set has pods, shall have some or may be making some; those that
// are on their way out run until they are gone.
func running(set *appsv1.ReplicaSet) bool {
	return present(set) > 0 || ptr.Deref(set.Status.TerminatingReplicas, 0) > 0 || !observed(set)
}

func deploymentReplicas(d *appsv1.Deployment) int32 { return ptr.Deref(d.Spec.Replicas, 1) }

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	var total int32
	for _, set := range sets {
		total += of(set)
	}
	return total
}

// limits resolves maxSurge (rounded up) and maxUnavailable (rounded down); both
// zero would never move, so one may then be unavailable.
func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	total := int(deploymentReplicas(d))
	quarter := intstr.FromString("25%")
	s, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(d.Spec.Strategy.RollingUpdate.MaxSurge, quarter)), total, true)
	if err != nil {
		s = 1
	}
	u, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(d.Spec.Strategy.RollingUpdate.MaxUnavailable, quarter)), total, false)
	if err != nil {
		u = 0
	}
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), int32(min(u, total))
}

// sizes are the numbers of pods that sets shall ask for.
type sizes struct {
	sets   []*appsv1.ReplicaSet // oldest first
	wanted map[*appsv1.ReplicaSet]int32
	// known says whether all pods are in the sets' statuses. While they are not, nothing
	// grows: a set whose loop has yet to see its new size may be making pods for the old one.
	known bool
}

func newSizes(sets []*appsv1.ReplicaSet) *sizes {
	w := &sizes{sets: sets, wanted: map[*appsv1.ReplicaSet]int32{}, known: true}
	for _, set := range sets {
		w.wanted[set] = replicas(set)
		w.known = w.known && observed(set)
	}
	return w
}

// room is how many pods more there may be.
func (w *sizes) room(d *appsv1.Deployment) int32 {
	if !w.known {
		return 0
	}
	surge, _ := limits(d)
	return max(0, deploymentReplicas(d)+surge-sum(w.sets, present))
}

// recreate waits until all old pods are gone before it starts new ones. It returns the
// set to be made, if there is none yet.
func (w *sizes) recreate(d *appsv1.Deployment, current *appsv1.ReplicaSet, revision string) (create *appsv1.ReplicaSet) {
	wait := false
	for _, set := range w.sets {
		if set != current {
			w.wanted[set] = 0
			wait = wait || running(set)
		}
	}
	switch {
	case wait:
		return nil
	case current == nil:
		return newSet(d, revision, deploymentReplicas(d))
	}
	w.wanted[current] = deploymentReplicas(d)
	return nil
}

// roll moves pods from old sets to the current one within maxSurge and maxUnavailable. It
// returns the set to be made, if there is none yet.
func (w *sizes) roll(d *appsv1.Deployment, current *appsv1.ReplicaSet, revision string) (create *appsv1.ReplicaSet) {
	total := deploymentReplicas(d)
	if current == nil {
		return newSet(d, revision, min(total, w.room(d)))
	}

	// Grow the current set into what room there is.
	size := replicas(current)
	if grown := present(current) + w.room(d); grown > size && w.known {
		size = grown
	}
	w.wanted[current] = min(total, size)

	// Shrink old sets, first those whose pods are not available anyway. Pods of the current
	// set that are not available yet count as missing.
	_, unavailable := limits(d)
	minAvailable := total - unavailable
	pending := max(0, replicas(current)-current.Status.AvailableReplicas)
	removable := sum(w.sets, replicas) - minAvailable - pending
	for _, set := range w.sets {
		if set == current || removable <= 0 {
			continue
		}
		unhealthy := min(replicas(set)-available(set), removable)
		w.wanted[set] -= unhealthy
		removable -= unhealthy
	}
	spare := min(sum(w.sets, available)-minAvailable, removable)
	for _, set := range w.sets {
		if set == current || spare <= 0 {
			continue
		}
		cut := min(w.wanted[set], spare)
		w.wanted[set] -= cut
		spare -= cut
	}
	return nil
}

// scale follows a change of the wanted number without moving pods between revisions: a
// single set with pods takes all of it, several take it in proportion to their sizes. It
// says whether it could; otherwise it is to be tried again.
func (w *sizes) scale(d *appsv1.Deployment, current *appsv1.ReplicaSet) bool {
	total := deploymentReplicas(d)
	var active []*appsv1.ReplicaSet
	for _, set := range w.sets {
		if replicas(set) > 0 {
			active = append(active, set)
		}
	}
	switch {
	case len(active) > 1 && saturated(d, current):
		for _, set := range active {
			if set != current {
				w.wanted[set] = 0
			}
		}
		return true
	case len(active) > 1 && d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType:
		return w.spread(d, active)
	case len(active) > 1:
		return true // pods of two revisions: the rollout sorts that out
	case len(active) == 1:
		return w.follow(d, active[0], total)
	case current != nil:
		return w.follow(d, current, total)
	case len(w.sets) > 0:
		return w.follow(d, w.sets[len(w.sets)-1], total)
	}
	return true
}

// follow gives one set the whole size, as far as pods that others still have leave room.
func (w *sizes) follow(d *appsv1.Deployment, set *appsv1.ReplicaSet, size int32) bool {
	if size <= replicas(set) {
		w.wanted[set] = size
		return true
	}
	others := sum(w.sets, present) - present(set)
	if !w.known && others > 0 {
		return false
	}
	surge, _ := limits(d)
	w.wanted[set] = max(replicas(set), min(size, deploymentReplicas(d)+surge-others))
	return true
}

// saturated says whether the current set is all that the Deployment needs.
func saturated(d *appsv1.Deployment, current *appsv1.ReplicaSet) bool {
	if current == nil {
		return false
	}
	desired, ok := number(current, annotationDesired)
	total := deploymentReplicas(d)
	return ok && desired == total && replicas(current) == total && current.Status.AvailableReplicas == total
}

// spread grows or shrinks sets in proportion to their sizes, so that a rollout that goes
// wrong does not get further by a change of size. The largest set takes what rounding
// leaves; of equal ones the newest grows and the oldest shrinks first.
func (w *sizes) spread(d *appsv1.Deployment, active []*appsv1.ReplicaSet) bool {
	surge, _ := limits(d)
	most := deploymentReplicas(d) + surge
	if deploymentReplicas(d) == 0 {
		most = 0
	}
	left := most - sum(active, replicas)
	if left > 0 {
		if !w.known {
			return false
		}
		left = min(left, w.room(d))
	}
	sign := int32(1)
	if left < 0 {
		sign = -1
	} else {
		slices.Reverse(active)
	}
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int { return int(replicas(b) - replicas(a)) })
	give := func(set *appsv1.ReplicaSet, n int32) { // n and left have the same sign or are 0
		if sign < 0 {
			n = max(n, left, -w.wanted[set])
		} else {
			n = min(n, left)
		}
		w.wanted[set] += n
		left -= n
	}
	for _, set := range active {
		if share := share(d, set, most); share*sign > 0 {
			give(set, share)
		}
	}
	for _, set := range active {
		give(set, left)
	}
	return true
}

// share is by how much a set changes when there may be most pods in all.
func share(d *appsv1.Deployment, set *appsv1.ReplicaSet, most int32) int32 {
	before, ok := number(set, annotationMax)
	if !ok || before == 0 {
		before = d.Status.Replicas // the annotation was removed; a guess that stays within the limits
	}
	if before == 0 {
		return 0
	}
	return int32(math.Round(float64(replicas(set))*float64(most)/float64(before))) - replicas(set)
}
