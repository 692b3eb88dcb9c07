package deployment

import (
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// plan is what a Deployment needs done.
type plan struct {
	// adopt and release are sets that change hands. Then nothing else is planned: what is
	// the Deployment's must be known before its pods are counted.
	adopt, release []*appsv1.ReplicaSet
	create         *appsv1.ReplicaSet
	update         []*appsv1.ReplicaSet // changed copies
	remove         []*appsv1.ReplicaSet
	revision       string // to be set on the Deployment, empty if it has it
	status         appsv1.DeploymentStatus
	requeueAfter   time.Duration
}

// decide compares a Deployment with its ReplicaSets (owned) and those of its namespace
// that nobody controls (orphans). It is pure.
func decide(d *appsv1.Deployment, owned, orphans []*appsv1.ReplicaSet, now time.Time) (plan, error) {
	var p plan
	if d.DeletionTimestamp == nil {
		selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err != nil {
			return p, err
		}
		if p.adopt, p.release = claim(selector, owned, orphans); len(p.adopt)+len(p.release) > 0 {
			p.status = *d.Status.DeepCopy()
			return p, nil
		}
	}
	sets := slices.Clone(owned)
	slices.SortFunc(sets, older)
	current := findCurrent(d, sets)
	if d.DeletionTimestamp != nil {
		p.status, p.requeueAfter = status(d, sets, current, nil, now)
		return p, nil
	}

	revision := nextRevision(sets, current)
	w := newSizes(sets)
	following := false // the sets' sizes now follow from the Deployment's
	switch {
	case d.Spec.Paused:
		following = w.scale(d, current)
	case rescaled(d, sets):
		following = w.scale(d, current)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		p.create = w.recreate(d, current, revision)
	default:
		p.create = w.roll(d, current, revision)
	}
	if (current != nil || p.create != nil) && d.Annotations[annotationRevision] != revision {
		p.revision = revision
	}
	for _, set := range sets {
		changed := set.DeepCopy()
		if set == current {
			setAnnotations(changed, d, revision)
			changed.Spec.MinReadySeconds = d.Spec.MinReadySeconds
		}
		changed.Spec.Replicas = ptr.To(w.wanted[set])
		if w.wanted[set] != replicas(set) || following && (replicas(set) > 0 || w.wanted[set] > 0) {
			setSizes(changed, d)
		}
		if !equality.Semantic.DeepEqual(changed, set) {
			p.update = append(p.update, changed)
		}
	}
	p.status, p.requeueAfter = status(d, sets, current, p.create, now)
	if d.Spec.Paused || complete(d, &p.status) {
		p.remove = expired(d, sets, current)
	}
	return p, nil
}

// claim lists the sets that a selector gains and loses.
func claim(selector labels.Selector, owned, orphans []*appsv1.ReplicaSet) (adopt, release []*appsv1.ReplicaSet) {
	for _, set := range orphans {
		if set.DeletionTimestamp == nil && selector.Matches(labels.Set(set.Labels)) {
			adopt = append(adopt, set)
		}
	}
	for _, set := range owned {
		if set.DeletionTimestamp == nil && !selector.Matches(labels.Set(set.Labels)) {
			release = append(release, set)
		}
	}
	return adopt, release
}

// older sorts sets by age, the oldest first.
func older(a, b *appsv1.ReplicaSet) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	if c := revisionOf(a) - revisionOf(b); c != 0 {
		return c
	}
	if a.Name < b.Name {
		return -1
	}
	return 1
}

// findCurrent returns the oldest set whose template is the Deployment's.
func findCurrent(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	for _, set := range sets {
		if sameTemplate(&set.Spec.Template, &d.Spec.Template) {
			return set
		}
	}
	return nil
}

// nextRevision is the revision of the current set, or of the one to be made: the highest
// of all. A set that the Deployment comes back to gets a new one.
func nextRevision(sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet) string {
	latest := 0
	for _, set := range sets {
		if set != current {
			latest = max(latest, revisionOf(set))
		}
	}
	if current != nil && revisionOf(current) > latest {
		return strconv.Itoa(revisionOf(current))
	}
	return strconv.Itoa(latest + 1)
}

// rescaled says whether the wanted number has changed since the sets with pods were sized.
func rescaled(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) bool {
	for _, set := range sets {
		desired, ok := number(set, annotationDesired)
		if ok && replicas(set) > 0 && desired != deploymentReplicas(d) {
			return true
		}
	}
	return false
}

// expired lists old sets without pods beyond the revision history limit, the lowest
// revisions first. Sets with pods count but stay.
func expired(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var old []*appsv1.ReplicaSet
	for _, set := range sets {
		if set != current && set.DeletionTimestamp == nil {
			old = append(old, set)
		}
	}
	surplus := len(old) - int(ptr.Deref(d.Spec.RevisionHistoryLimit, 10))
	if surplus <= 0 {
		return nil
	}
	slices.SortStableFunc(old, func(a, b *appsv1.ReplicaSet) int { return revisionOf(a) - revisionOf(b) })
	return slices.DeleteFunc(old[:surplus], running)
}
