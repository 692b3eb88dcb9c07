package deployment

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/object"
)

// Annotations that kubectl reads and writes.
const (
	annotationRevision = "deployment.kubernetes.io/revision"
	annotationHistory  = "deployment.kubernetes.io/revision-history"
	annotationDesired  = "deployment.kubernetes.io/desired-replicas"
	annotationMax      = "deployment.kubernetes.io/max-replicas"
)

// historyBytes bounds the list of revisions that a set had before.
const historyBytes = 2000

// sameTemplate compares templates without the hash label that sets add.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// number reads a number of pods from an annotation.
func number(set *appsv1.ReplicaSet, annotation string) (n int32, ok bool) {
	value, err := strconv.ParseInt(set.Annotations[annotation], 10, 32)
	return int32(value), err == nil
}

func revisionOf(set *appsv1.ReplicaSet) int {
	n, err := strconv.Atoi(set.Annotations[annotationRevision])
	if err != nil {
		return 0
	}
	return n
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

// newSet makes the set of the Deployment's template.
func newSet(d *appsv1.Deployment, revision string, size int32) *appsv1.ReplicaSet {
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
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(size), Selector: selector, Template: template, MinReadySeconds: d.Spec.MinReadySeconds},
	}
	setAnnotations(set, d, revision)
	setSizes(set, d)
	return set
}

func withLabel(in map[string]string, hash string) map[string]string {
	out := map[string]string{}
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

// setSizes notes for which size of the Deployment a set was sized, which later tells a
// change of that size from a step of a rollout.
func setSizes(set *appsv1.ReplicaSet, d *appsv1.Deployment) {
	surge, _ := limits(d)
	annotate(set, annotationDesired, strconv.Itoa(int(deploymentReplicas(d))))
	annotate(set, annotationMax, strconv.Itoa(int(deploymentReplicas(d)+surge)))
}

// setAnnotations copies the Deployment's annotations, such as the cause of the change, so
// that a rollback can bring them back, and sets the revision. A revision that the set had
// before goes to its history.
func setAnnotations(set *appsv1.ReplicaSet, d *appsv1.Deployment, revision string) {
	for key, value := range d.Annotations {
		switch key {
		case annotationRevision, annotationHistory, annotationDesired, annotationMax,
			corev1.LastAppliedConfigAnnotation, appsv1.DeprecatedRollbackTo:
		default:
			annotate(set, key, value)
		}
	}
	if before := set.Annotations[annotationRevision]; before != "" && before != revision {
		annotate(set, annotationHistory, history(set.Annotations[annotationHistory], before))
	}
	annotate(set, annotationRevision, revision)
}

// history adds a revision to a list of them; the oldest go when it becomes too long.
func history(list, revision string) string {
	if list == "" {
		return revision
	}
	list += "," + revision
	for len(list) > historyBytes {
		_, rest, more := strings.Cut(list, ",")
		if !more {
			return revision
		}
		list = rest
	}
	return list
}
