package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/controller-manager/internal/podstate"
)

// limits are how many nodes may be without a serving pod, and how many may have two, because
// of an update of a set for so many nodes. If neither were allowed it would never move, so
// then one node may be without. A set that is updated by hand has neither.
func limits(set *appsv1.DaemonSet, nodes int) (unavailable, surge int) {
	if set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		return 0, 0
	}
	rolling := set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil {
		return 1, 0
	}
	resolve := func(limit *intstr.IntOrString, otherwise int) int {
		if limit == nil {
			return otherwise
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(limit, nodes, true)
		if err != nil {
			return otherwise
		}
		return n
	}
	unavailable, surge = resolve(rolling.MaxUnavailable, 1), resolve(rolling.MaxSurge, 0)
	if surge == 0 {
		unavailable = max(1, unavailable)
	}
	return unavailable, surge
}

// pair are the pods that count on a node for an update: at most one of each revision, and
// neither of those that the plan removes.
type pair struct {
	old, new *corev1.Pod
	leaving  bool // a pod more is there, on its way out
}

func (d *decision) pair(node string) pair {
	var p pair
	for _, pod := range d.byNode[node] {
		switch {
		case pod.DeletionTimestamp != nil, d.doomed[pod], podstate.Finished(pod):
			p.leaving = true
		case d.fresh(pod) && p.new == nil:
			p.new = pod
		case !d.fresh(pod) && p.old == nil:
			p.old = pod
		}
	}
	return p
}

// update moves nodes to the template as it is.
func (d *decision) update() error {
	switch {
	case d.surge > 0:
		return d.updateBeside(d.surge)
	case d.unavailable > 0:
		d.updateInPlace(d.unavailable)
	}
	return nil
}

// updateInPlace removes old pods; manage puts new ones in their place. Those that do not serve
// may go at once, the others only while few enough nodes are without.
func (d *decision) updateInPlace(budget int) {
	var serving []*corev1.Pod
	for _, s := range d.seats {
		p := d.pair(s.node)
		switch {
		case p.old != nil && p.new == nil && d.available(p.old):
			if s.stay {
				serving = append(serving, p.old)
			}
			continue
		case p.old != nil:
			d.remove(p.old)
		}
		if s.run && (p.new == nil || !d.available(p.new)) {
			budget--
		}
	}
	for _, pod := range serving[:max(0, min(budget, len(serving)))] {
		d.remove(pod)
	}
}

// updateBeside puts new pods beside old ones, which go once the new ones serve or they
// themselves do not.
func (d *decision) updateBeside(budget int) error {
	var candidates []string
	for _, s := range d.seats {
		p := d.pair(s.node)
		switch {
		case p.old == nil:
		case p.new != nil && (d.available(p.new) || !d.available(p.old)):
			d.remove(p.old)
		case p.new != nil:
			budget--
		case p.leaving: // two pods are there already
		case !s.run: // no new one may come, so the old one serves for as long as it can
			if !d.available(p.old) {
				d.remove(p.old)
			}
		case !d.available(p.old):
			if err := d.create(s.node); err != nil {
				return err
			}
		default:
			candidates = append(candidates, s.node)
		}
	}
	for _, node := range candidates[:max(0, min(budget, len(candidates)))] {
		if err := d.create(node); err != nil {
			return err
		}
	}
	return nil
}
