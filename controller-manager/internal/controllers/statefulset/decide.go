package statefulset

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
)

// plan is what a StatefulSet needs done, in this order.
type plan struct {
	claim  podset.Claim
	owners []claimChange // before pods are removed: a claim must belong to its pod by then
	create []creation
	lack   []creation    // pods that are there, without some of their claims
	label  []*corev1.Pod // changed copies, only labels differ
	remove []*corev1.Pod
	// blocked are pods that cannot be created, and why.
	blocked      map[string]string
	status       appsv1.StatefulSetStatus
	requeueAfter time.Duration
}

// creation is a pod and those of its claims that do not exist.
type creation struct {
	pod    *corev1.Pod
	claims []*corev1.PersistentVolumeClaim
}

// world is what decide looks at.
type world struct {
	set *appsv1.StatefulSet
	// pods are the set's, sorted out of the namespace's.
	pods podset.Claim
	// taken says whether the namespace is known to have a pod of a name.
	taken func(name string) bool
	// claimOf returns a claim of the namespace, nil if it is not known.
	claimOf func(name string) *corev1.PersistentVolumeClaim
	// current and update are the revisions that pods below and above the partition are made of.
	current, update *appsv1.ControllerRevision
	collisions      *int32
	now             time.Time
}

// decision is work on a plan.
type decision struct {
	world
	plan plan
	// places are those of the set's range that have a pod, in order; condemned are pods
	// outside it, the highest ordinal first.
	places    []place
	condemned []*corev1.Pod
}

// place is a pod and how many places of the range are before it.
type place struct {
	index int
	pod   *corev1.Pod
}

// mostCreated bounds the pods of one pass; those that are created make the set due again.
const mostCreated = 500

// decide compares a StatefulSet with its pods. It is pure. A pod is created only where the
// namespace has none of its name: the API would refuse a second, and the old one may run
// for as long as its object is there.
func decide(w world) (plan, error) {
	d := &decision{world: w, plan: plan{claim: w.pods}}
	for _, pod := range w.pods.Own {
		ordinal, ok := ordinalOf(w.set, pod)
		switch {
		case !ok: // of no place; the controller releases it
		case inRange(w.set, ordinal):
			d.places = append(d.places, place{ordinal - start(w.set), pod})
		default:
			d.condemned = append(d.condemned, pod)
		}
	}
	slices.SortFunc(d.places, func(a, b place) int { return a.index - b.index })
	slices.SortFunc(d.condemned, func(a, b *corev1.Pod) int {
		x, _ := ordinalOf(w.set, a)
		y, _ := ordinalOf(w.set, b)
		return y - x
	})
	d.plan.status = d.status()
	if w.set.DeletionTimestamp != nil {
		return d.plan, nil
	}
	d.keep()
	steps := d.ordered
	if w.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
		steps = d.parallel
	}
	return d.plan, steps()
}

// ordered goes up from the first ordinal and stops at the first pod that is not as it should
// be; only when all are does it scale down and update, from the last ordinal down.
func (d *decision) ordered() error {
	for i, at := range d.places {
		switch {
		case at.index > i:
			return d.create(i)
		case at.pod.DeletionTimestamp != nil:
			return nil
		case podstate.Finished(at.pod):
			d.remove(at.pod)
			return nil
		case d.healthy(at.pod):
			continue
		}
		// Waiting for a pod of a template that was given up may take for ever.
		if d.replaceable(at) && !d.ready(at.pod) {
			d.remove(at.pod)
		}
		return nil
	}
	if len(d.places) < replicas(d.set) {
		return d.create(len(d.places))
	}
	if len(d.condemned) > 0 {
		d.shrink()
		return nil
	}
	d.roll()
	return nil
}

// shrink removes the last pod once the one after it is gone. One that is not ready is waited
// for, unless all before it are or its template was given up.
func (d *decision) shrink() {
	last := d.condemned[0]
	if last.DeletionTimestamp != nil {
		return
	}
	first := last // that is not healthy
	for _, pod := range d.condemned {
		if !d.healthy(pod) {
			first = pod
		}
	}
	if d.healthy(last) || last == first || podstate.Finished(last) || revisionOf(last) != d.update.Name {
		d.remove(last)
	}
}

// parallel does everything at once but the update, which keeps to maxUnavailable.
func (d *decision) parallel() error {
	next := 0
	fill := func(to int) error {
		for ; next < to && len(d.plan.create) < mostCreated; next++ {
			if err := d.create(next); err != nil {
				return err
			}
		}
		return nil
	}
	for _, at := range d.places {
		if err := fill(at.index); err != nil {
			return err
		}
		next = at.index + 1
		if at.pod.DeletionTimestamp == nil && (podstate.Finished(at.pod) || d.replaceable(at) && !d.ready(at.pod)) {
			d.remove(at.pod) // it serves nobody
		}
	}
	if err := fill(replicas(d.set)); err != nil {
		return err
	}
	for _, pod := range d.condemned {
		if pod.DeletionTimestamp == nil {
			d.remove(pod)
		}
	}
	d.roll()
	return nil
}

// replaceable says whether the update has to remove a pod.
func (d *decision) replaceable(at place) bool {
	return d.rolls() && at.index >= partition(d.set) && at.pod.DeletionTimestamp == nil && revisionOf(at.pod) != d.update.Name
}

func (d *decision) rolls() bool {
	return d.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType
}

// roll removes available pods of other revisions, the highest ordinal first, as long as no
// more than maxUnavailable of the set's places are without an available pod.
func (d *decision) roll() {
	if !d.rolls() {
		return
	}
	budget := maxUnavailable(d.set) - replicas(d.set)
	for _, at := range d.places {
		if d.healthy(at.pod) {
			budget++
		}
	}
	for _, at := range slices.Backward(d.places) {
		if budget <= 0 {
			return
		}
		if d.replaceable(at) && d.healthy(at.pod) {
			d.remove(at.pod)
			budget--
		}
	}
}

// maxUnavailable is at least one: an update that may take nothing down would never move.
func maxUnavailable(set *appsv1.StatefulSet) int {
	rolling := set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil || rolling.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, replicas(set), false)
	if err != nil {
		return 1
	}
	return max(1, n)
}

func (d *decision) remove(pod *corev1.Pod) { d.plan.remove = append(d.plan.remove, pod) }

// create makes the pod of a place with its claims, unless something is in the way.
func (d *decision) create(i int) error {
	ordinal := start(d.set) + i
	name := podName(d.set.Name, ordinal)
	if d.taken(name) {
		d.block(name, fmt.Sprintf("pods %q already exists", name))
		return nil
	}
	var missing []*corev1.PersistentVolumeClaim
	for j := range d.set.Spec.VolumeClaimTemplates {
		template := &d.set.Spec.VolumeClaimTemplates[j]
		claim := d.claimOf(claimName(template.Name, d.set.Name, ordinal))
		switch {
		case claim == nil:
			missing = append(missing, newClaim(d.set, template, ordinal))
		case doomed(claim, name):
			d.block(name, fmt.Sprintf("pvc %s is being deleted", claim.Name))
			return nil
		}
	}
	revision := d.update
	if d.rolls() && i < partition(d.set) {
		revision = d.current
	}
	pod, err := newPod(d.set, revision, ordinal)
	if err != nil {
		return err
	}
	d.plan.create = append(d.plan.create, creation{pod: pod, claims: missing})
	return nil
}

func (d *decision) block(pod, why string) {
	if d.plan.blocked == nil {
		d.plan.blocked = map[string]string{}
	}
	d.plan.blocked[pod] = why
}

// keep corrects what belongs to pods that are there: their labels and their claims.
func (d *decision) keep() {
	for _, at := range d.places {
		d.keepPod(at.pod, start(d.set)+at.index, false)
	}
	for _, pod := range d.condemned {
		ordinal, _ := ordinalOf(d.set, pod)
		d.keepPod(pod, ordinal, true)
	}
}

func (d *decision) keepPod(pod *corev1.Pod, ordinal int, scaledAway bool) {
	leaving := pod.DeletionTimestamp != nil
	if !leaving {
		for key, value := range identity(pod.Name, ordinal) {
			if pod.Labels[key] == value {
				continue
			}
			changed := pod.DeepCopy()
			if changed.Labels == nil {
				changed.Labels = map[string]string{}
			}
			for key, value := range identity(pod.Name, ordinal) {
				changed.Labels[key] = value
			}
			d.plan.label = append(d.plan.label, changed)
			break
		}
	}
	var missing []*corev1.PersistentVolumeClaim
	for j := range d.set.Spec.VolumeClaimTemplates {
		template := &d.set.Spec.VolumeClaimTemplates[j]
		claim := d.claimOf(claimName(template.Name, d.set.Name, ordinal))
		switch {
		case claim != nil:
			if change, needed := owned(d.set, pod, claim, scaledAway); needed {
				d.plan.owners = append(d.plan.owners, change)
			}
		case !leaving && !scaledAway && pod.Status.Phase == corev1.PodPending:
			missing = append(missing, newClaim(d.set, template, ordinal)) // it cannot start without
		}
	}
	if len(missing) > 0 {
		d.plan.lack = append(d.plan.lack, creation{pod: pod, claims: missing})
	}
}
