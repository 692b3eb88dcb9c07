package daemonset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
)

// plan is what a DaemonSet needs done.
type plan struct {
	claim  podset.Claim
	create []*corev1.Pod
	remove []*corev1.Pod
	// ended are those of remove that have finished, which a daemon does not do.
	ended        []*corev1.Pod
	status       appsv1.DaemonSetStatus
	requeueAfter time.Duration
}

// world is what decide looks at.
type world struct {
	set   *appsv1.DaemonSet
	seats []seat // all nodes, by name
	pods  podset.Claim
	// hash marks pods of the template as it is.
	hash       string
	collisions *int32
	// gone are the last pods of nodes that are no more.
	gone map[string]types.UID
	// pause is how long a pod that ended on a node has to stay yet.
	pause func(node string) time.Duration
	// taken says whether the namespace is known to have a pod of a name.
	taken func(name string) bool
	now   time.Time
}

// decision is work on a plan.
type decision struct {
	world
	plan   plan
	byNode map[string][]*corev1.Pod // the set's pods, in seniority
	names  map[string]bool          // of pods to be created
	doomed map[*corev1.Pod]bool     // that the plan removes
	// unavailable is how many nodes may be without a serving pod because of an update,
	// surge how many may have two.
	unavailable, surge int
}

// decide compares a DaemonSet with its pods and all nodes. It is pure.
func decide(w world) (plan, error) {
	d := &decision{world: w, plan: plan{claim: w.pods}, byNode: map[string][]*corev1.Pod{}, names: map[string]bool{}, doomed: map[*corev1.Pod]bool{}}
	for _, pod := range w.pods.Own {
		if node := nodeOf(pod); node != "" {
			d.byNode[node] = append(d.byNode[node], pod)
		}
	}
	for _, pods := range d.byNode {
		slices.SortFunc(pods, seniority)
	}
	d.plan.status = d.status()
	d.unavailable, d.surge = limits(w.set, int(d.plan.status.DesiredNumberScheduled))
	if w.set.DeletionTimestamp != nil {
		return d.plan, nil
	}
	there := make(map[string]bool, len(w.seats))
	for _, s := range w.seats {
		there[s.node] = true
		if err := d.manage(s); err != nil {
			return plan{}, err
		}
	}
	for node, pods := range d.byNode {
		if !there[node] {
			d.leaveGhost(pods)
		}
	}
	return d.plan, d.update()
}

// leaveGhost removes pods that wait for a node that does not exist. Those that are bound to
// it are the node lifecycle's to remove, since nobody is left to confirm their end.
func (d *decision) leaveGhost(pods []*corev1.Pod) {
	for _, pod := range pods {
		if pod.Spec.NodeName == "" {
			d.remove(pod)
		}
	}
}

// manage sees to it that a node has its pod: none if it must not, and no more than one, or
// one of each revision where an update may put the new pod beside the old one.
func (d *decision) manage(s seat) error {
	pods := d.byNode[s.node]
	if !s.stay {
		for _, pod := range pods {
			d.remove(pod)
		}
		return nil
	}
	if len(pods) == 0 {
		if s.run {
			return d.create(s.node)
		}
		return nil
	}
	kept := map[bool]bool{} // by whether it is of the template as it is
	for _, pod := range pods {
		switch fresh := d.surge > 0 && d.fresh(pod); {
		case pod.DeletionTimestamp != nil:
		case podstate.Finished(pod):
			d.replaceEnded(s.node, pod)
		case kept[fresh]:
			d.remove(pod)
		default:
			kept[fresh] = true
		}
	}
	return nil
}

// replaceEnded removes a pod that has finished, once its pause is over.
func (d *decision) replaceEnded(node string, pod *corev1.Pod) {
	if left := d.pause(node); left > 0 {
		d.again(left)
		return
	}
	d.plan.ended = append(d.plan.ended, pod)
	d.remove(pod)
}

func (d *decision) again(in time.Duration) {
	if in > 0 && (d.plan.requeueAfter == 0 || in < d.plan.requeueAfter) {
		d.plan.requeueAfter = in
	}
}

// fresh says whether a pod is of the template as it is.
func (d *decision) fresh(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.hash
}

func (d *decision) remove(pod *corev1.Pod) {
	if pod.DeletionTimestamp == nil && !d.doomed[pod] {
		d.doomed[pod] = true
		d.plan.remove = append(d.plan.remove, pod)
	}
}

func (d *decision) create(node string) error {
	taken := func(name string) bool { return d.names[name] || d.taken(name) }
	name := podset.Names(d.set, seen(node, d.gone[node], d.byNode[node]), 1, taken)[0]
	pod, err := newPod(d.set, name, node, d.hash)
	if err != nil {
		return err
	}
	d.names[name] = true
	d.plan.create = append(d.plan.create, pod)
	return nil
}

// available says whether a pod serves: it stays and has been ready for minReadySeconds.
func (d *decision) available(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil || podstate.Finished(pod) {
		return false
	}
	available, in := podstate.Available(pod, time.Duration(d.set.Spec.MinReadySeconds)*time.Second, d.now)
	d.again(in)
	return available
}

func (d *decision) status() appsv1.DaemonSetStatus {
	out := *d.set.Status.DeepCopy()
	out.ObservedGeneration, out.CollisionCount = d.set.Generation, d.collisions
	out.DesiredNumberScheduled, out.CurrentNumberScheduled, out.NumberMisscheduled = 0, 0, 0
	out.NumberReady, out.NumberAvailable, out.UpdatedNumberScheduled = 0, 0, 0
	for _, s := range d.seats {
		pods := d.byNode[s.node]
		switch {
		case !s.run && len(pods) > 0:
			out.NumberMisscheduled++
			continue
		case !s.run:
			continue
		}
		out.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		// Where there are two, the one that serves until the other does tells for the node.
		first := pods[0]
		out.CurrentNumberScheduled++
		if podstate.Ready(first) {
			out.NumberReady++
			if d.available(first) {
				out.NumberAvailable++
			}
		}
		if d.fresh(first) {
			out.UpdatedNumberScheduled++
		}
	}
	out.NumberUnavailable = out.DesiredNumberScheduled - out.NumberAvailable
	return out
}
