package deployment

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/object"
)

// Annotations that kubectl reads and writes.
const (
	annotationRevision = "deployment.kubernetes.io/revision"
	annotationDesired  = "deployment.kubernetes.io/desired-replicas"
	annotationMax      = "deployment.kubernetes.io/max-replicas"
)

// Reasons of conditions, as Kubernetes words them.
const (
	reasonMinimumAvailable   = "MinimumReplicasAvailable"
	reasonMinimumUnavailable = "MinimumReplicasUnavailable"
	reasonNewAvailable       = "NewReplicaSetAvailable"
	reasonUpdated            = "ReplicaSetUpdated"
	reasonCreated            = "NewReplicaSetCreated"
	reasonTimedOut           = "ProgressDeadlineExceeded"
	reasonPaused             = "DeploymentPaused"
)

// plan is what a Deployment needs done.
type plan struct {
	create       *appsv1.ReplicaSet
	update       []*appsv1.ReplicaSet // changed copies
	remove       []*appsv1.ReplicaSet
	revision     string // to be set on the Deployment, empty if it has it
	status       appsv1.DeploymentStatus
	requeueAfter time.Duration
}

// decide compares a Deployment with its ReplicaSets. It is pure.
func decide(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, now time.Time) plan {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int { // oldest first
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return revisionOf(a) - revisionOf(b)
	})
	current := findCurrent(d, sets)
	var p plan
	if d.DeletionTimestamp != nil {
		p.status = status(d, sets, current, nil, now, &p.requeueAfter)
		return p
	}
	latest := 0
	for _, set := range sets {
		if set != current {
			latest = max(latest, revisionOf(set))
		}
	}
	wanted := map[*appsv1.ReplicaSet]int32{} // replicas each set should ask for
	for _, set := range sets {
		wanted[set] = replicas(set)
	}
	revision := strconv.Itoa(latest + 1)
	if current != nil && revisionOf(current) > latest {
		revision = strconv.Itoa(revisionOf(current))
	}

	switch {
	case current == nil && !d.Spec.Paused:
		p.create = newSet(d, sets, revision)
		p.create.Spec.Replicas = ptr.To(firstReplicas(d, sets))
		if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			scaleDownAll(sets, current, wanted)
		}
	case d.Spec.Paused:
		scalePaused(d, sets, current, wanted)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		recreate(d, sets, current, wanted)
	default:
		roll(d, sets, current, wanted)
	}
	if current != nil || p.create != nil {
		if d.Annotations[annotationRevision] != revision {
			p.revision = revision
		}
	}
	maxReplicas := deploymentReplicas(d) + maxSurge(d)
	for _, set := range sets {
		changed := set.DeepCopy()
		if set == current {
			setAnnotations(changed, d, revision)
			changed.Spec.MinReadySeconds = d.Spec.MinReadySeconds
		}
		changed.Spec.Replicas = ptr.To(wanted[set])
		if set == current || wanted[set] != replicas(set) {
			annotate(changed, annotationDesired, strconv.Itoa(int(deploymentReplicas(d))))
			annotate(changed, annotationMax, strconv.Itoa(int(maxReplicas)))
		}
		if !equality.Semantic.DeepEqual(changed, set) {
			p.update = append(p.update, changed)
		}
	}
	p.remove = expired(d, sets, current)
	p.status = status(d, sets, current, p.create, now, &p.requeueAfter)
	return p
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

// sameTemplate compares templates without the hash label that sets add.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

func revisionOf(set *appsv1.ReplicaSet) int {
	n, err := strconv.Atoi(set.Annotations[annotationRevision])
	if err != nil {
		return 0
	}
	return n
}

func replicas(set *appsv1.ReplicaSet) int32 { return ptr.Deref(set.Spec.Replicas, 1) }

// present is how many pods a set may have now: those it shall give up are there until
// its own loop has deleted them.
func present(set *appsv1.ReplicaSet) int32 { return max(replicas(set), set.Status.Replicas) }

// running says whether a set has pods or shall have some; those that are on their
// way out run until they are gone.
func running(set *appsv1.ReplicaSet) bool {
	return present(set) > 0 || ptr.Deref(set.Status.TerminatingReplicas, 0) > 0
}

func deploymentReplicas(d *appsv1.Deployment) int32 { return ptr.Deref(d.Spec.Replicas, 1) }

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := limits(d)
	return surge
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

// templateHash names a template; collisions are resolved by collisionCount.
func templateHash(d *appsv1.Deployment) string {
	template := d.Spec.Template.DeepCopy()
	encoded, err := json.Marshal(template)
	if err != nil {
		panic(err) // pod templates always encode
	}
	h := fnv.New32a()
	_, _ = h.Write(encoded)
	if d.Status.CollisionCount != nil {
		_, _ = fmt.Fprintf(h, "/%d", *d.Status.CollisionCount)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func newSet(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, revision string) *appsv1.ReplicaSet {
	hash := templateHash(d)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, object.KindOf[*appsv1.Deployment]().GVK)},
		},
		Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template, MinReadySeconds: d.Spec.MinReadySeconds},
	}
	setAnnotations(set, d, revision)
	annotate(set, annotationDesired, strconv.Itoa(int(deploymentReplicas(d))))
	annotate(set, annotationMax, strconv.Itoa(int(deploymentReplicas(d)+maxSurge(d))))
	return set
}

func withLabel(in map[string]string, hash string) map[string]string {
	out := map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: hash}
	maps.Copy(out, in)
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

func annotate(set *appsv1.ReplicaSet, key, value string) {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[key] = value
}

// setAnnotations copies the Deployment's annotations, so that a rollback can bring
// them back, and sets the revision.
func setAnnotations(set *appsv1.ReplicaSet, d *appsv1.Deployment, revision string) {
	for key, value := range d.Annotations {
		if key == annotationRevision || key == annotationDesired || key == annotationMax || key == corev1.LastAppliedConfigAnnotation {
			continue
		}
		annotate(set, key, value)
	}
	annotate(set, annotationRevision, revision)
}

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	var total int32
	for _, set := range sets {
		total += of(set)
	}
	return total
}

// firstReplicas is how many pods a new set may start with.
func firstReplicas(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) int32 {
	total := deploymentReplicas(d)
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		for _, set := range sets {
			if running(set) {
				return 0
			}
		}
		return total
	}
	surge, _ := limits(d)
	room := total + surge - sum(sets, present)
	return max(0, min(room, total))
}

func scaleDownAll(sets []*appsv1.ReplicaSet, except *appsv1.ReplicaSet, wanted map[*appsv1.ReplicaSet]int32) {
	for _, set := range sets {
		if set != except {
			wanted[set] = 0
		}
	}
}

// recreate waits until all old pods are gone before it starts new ones.
func recreate(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet, wanted map[*appsv1.ReplicaSet]int32) {
	scaleDownAll(sets, current, wanted)
	for _, set := range sets {
		if set != current && running(set) {
			return
		}
	}
	wanted[current] = deploymentReplicas(d)
}

// scalePaused follows the wanted number without moving pods between revisions: the
// newest set with pods takes the difference.
func scalePaused(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet, wanted map[*appsv1.ReplicaSet]int32) {
	diff := deploymentReplicas(d) - sum(sets, replicas)
	target := current
	for _, set := range sets {
		if replicas(set) > 0 {
			target = set
		}
	}
	if diff > 0 && target != nil {
		wanted[target] += diff
		return
	}
	for _, set := range sets { // oldest first
		cut := min(-diff, wanted[set])
		if cut <= 0 {
			continue
		}
		wanted[set] -= cut
		diff += cut
	}
}

// roll moves pods from old sets to the current one within maxSurge and maxUnavailable.
func roll(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet, wanted map[*appsv1.ReplicaSet]int32) {
	total := deploymentReplicas(d)
	surge, unavailable := limits(d)

	// Grow the current set into what room the others leave.
	others := sum(sets, replicas) - replicas(current)
	room := total + surge - (sum(sets, present) - present(current))
	grown := min(total, max(replicas(current), room))
	wanted[current] = grown

	// Shrink old sets, first those whose pods are not available anyway.
	minAvailable := total - unavailable
	pending := replicas(current) - current.Status.AvailableReplicas
	removable := others + replicas(current) - minAvailable - max(0, pending)
	for _, set := range sets {
		if set == current || removable <= 0 {
			continue
		}
		unhealthy := min(replicas(set)-min(replicas(set), set.Status.AvailableReplicas), removable)
		wanted[set] -= unhealthy
		removable -= unhealthy
	}
	available := sum(sets, func(s *appsv1.ReplicaSet) int32 { return min(s.Status.AvailableReplicas, replicas(s)) })
	spare := min(available-minAvailable, removable)
	for _, set := range sets {
		if set == current || spare <= 0 {
			continue
		}
		cut := min(wanted[set], spare)
		wanted[set] -= cut
		spare -= cut
	}
}

// expired lists old sets without pods beyond the revision history limit.
func expired(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var old []*appsv1.ReplicaSet
	for _, set := range sets {
		if set != current && replicas(set) == 0 && set.Status.Replicas == 0 && set.Generation <= set.Status.ObservedGeneration && set.DeletionTimestamp == nil {
			old = append(old, set)
		}
	}
	slices.SortStableFunc(old, func(a, b *appsv1.ReplicaSet) int { return revisionOf(a) - revisionOf(b) })
	limit := int(ptr.Deref(d.Spec.RevisionHistoryLimit, 10))
	if len(old) <= limit {
		return nil
	}
	return old[:len(old)-limit]
}

func status(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, current, created *appsv1.ReplicaSet, now time.Time, requeueAfter *time.Duration) appsv1.DeploymentStatus {
	out := *d.Status.DeepCopy()
	out.ObservedGeneration = d.Generation
	out.Replicas = sum(sets, func(s *appsv1.ReplicaSet) int32 { return s.Status.Replicas })
	out.ReadyReplicas = sum(sets, func(s *appsv1.ReplicaSet) int32 { return s.Status.ReadyReplicas })
	out.AvailableReplicas = sum(sets, func(s *appsv1.ReplicaSet) int32 { return s.Status.AvailableReplicas })
	out.UpdatedReplicas = 0
	if current != nil {
		out.UpdatedReplicas = current.Status.Replicas
	}
	total := deploymentReplicas(d)
	out.UnavailableReplicas = max(0, max(total, sum(sets, replicas))-out.AvailableReplicas)

	_, unavailable := limits(d)
	if out.AvailableReplicas >= total-unavailable {
		setCondition(&out, now, appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinimumAvailable, "Deployment has minimum availability.")
	} else {
		setCondition(&out, now, appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonMinimumUnavailable, "Deployment does not have minimum availability.")
	}
	progress(d, &out, current, created, now, requeueAfter)
	return out
}

// complete says whether the rollout has ended.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	total := deploymentReplicas(d)
	return s.UpdatedReplicas == total && s.Replicas == total && s.AvailableReplicas == total && s.ObservedGeneration >= d.Generation
}

// progress keeps the Progressing condition. Its lastUpdateTime moves whenever the
// rollout got further; without that for progressDeadlineSeconds it has failed.
func progress(d *appsv1.Deployment, out *appsv1.DeploymentStatus, current, created *appsv1.ReplicaSet, now time.Time, requeueAfter *time.Duration) {
	old := condition(d.Status.Conditions, appsv1.DeploymentProgressing)
	if d.Spec.Paused {
		setCondition(out, now, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
		return
	}
	name := ""
	if current != nil {
		name = current.Name
	}
	switch {
	case created != nil:
		setProgress(out, now, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", created.Name))
	case current != nil && complete(d, out):
		if old == nil || old.Reason != reasonNewAvailable {
			setProgress(out, now, corev1.ConditionTrue, reasonNewAvailable, fmt.Sprintf("ReplicaSet %q has successfully progressed.", name))
		}
	case old == nil || old.Reason == reasonPaused || old.Reason == reasonNewAvailable && out.UpdatedReplicas < deploymentReplicas(d) ||
		out.UpdatedReplicas > d.Status.UpdatedReplicas || out.ReadyReplicas > d.Status.ReadyReplicas ||
		out.AvailableReplicas > d.Status.AvailableReplicas || out.Replicas-out.UpdatedReplicas < d.Status.Replicas-d.Status.UpdatedReplicas:
		setProgress(out, now, corev1.ConditionTrue, reasonUpdated, fmt.Sprintf("ReplicaSet %q is progressing.", name))
	case old.Reason == reasonNewAvailable || old.Reason == reasonTimedOut || d.Spec.ProgressDeadlineSeconds == nil:
	default:
		deadline := old.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
		if left := deadline.Sub(now); left > 0 {
			if *requeueAfter == 0 || left < *requeueAfter {
				*requeueAfter = left
			}
			return
		}
		setProgress(out, now, corev1.ConditionFalse, reasonTimedOut, fmt.Sprintf("ReplicaSet %q has timed out progressing.", name))
	}
}

func condition(conditions []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

// setCondition changes a condition only when its status or reason does.
func setCondition(out *appsv1.DeploymentStatus, now time.Time, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	if c := condition(out.Conditions, t); c != nil && c.Status == status && c.Reason == reason {
		return
	}
	replaceCondition(out, now, t, status, reason, message)
}

// setProgress changes the Progressing condition and moves its update time.
func setProgress(out *appsv1.DeploymentStatus, now time.Time, status corev1.ConditionStatus, reason, message string) {
	replaceCondition(out, now, appsv1.DeploymentProgressing, status, reason, message)
}

func replaceCondition(out *appsv1.DeploymentStatus, now time.Time, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	at := metav1.NewTime(now.Truncate(time.Second))
	fresh := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: at, LastTransitionTime: at}
	if c := condition(out.Conditions, t); c != nil {
		if c.Status == status {
			fresh.LastTransitionTime = c.LastTransitionTime
		}
		*c = fresh
		return
	}
	out.Conditions = append(out.Conditions, fresh)
}
