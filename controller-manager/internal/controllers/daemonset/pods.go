package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/object"
)

// nameField is the field of a node by which a pod asks for it.
const nameField = "metadata.name"

// generationLabel is an older mark of a template, which clients still read.
const generationLabel = "pod-template-generation"

// nodeOf is the node that a pod is on or asks for, empty if it does neither.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return ""
	}
	required := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for i := range required.NodeSelectorTerms {
		for _, field := range required.NodeSelectorTerms[i].MatchFields {
			if field.Key == nameField && field.Operator == corev1.NodeSelectorOpIn && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// newPod makes the pod for a node. The scheduler binds it, and may do so to that node only.
func newPod(set *appsv1.DaemonSet, name, node, hash string) (*corev1.Pod, error) {
	pod, err := podset.New(set, &set.Spec.Template, name)
	if err != nil {
		return nil, err
	}
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	if generation := set.Annotations[appsv1.DeprecatedTemplateGeneration]; generation != "" {
		pod.Labels[generationLabel] = generation
	}
	tolerate(&pod.Spec)
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	// What the template requires of nodes was decided when this one was chosen.
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: nameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}},
	}
	return pod, nil
}

// seniority sorts the pods of a node: those that serve first, then others that run or will,
// then those that have ended or shall; among them bound ones, then the oldest.
func seniority(a, b *corev1.Pod) int {
	rank := func(p *corev1.Pod) int {
		switch {
		case p.DeletionTimestamp != nil:
			return 4
		case podstate.Finished(p):
			return 3
		case p.Spec.NodeName == "":
			return 2
		case !podstate.Ready(p):
			return 1
		}
		return 0
	}
	return cmp.Or(rank(a)-rank(b), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// departed remembers the last pod of each node that is gone, so that its successor's name is
// another, while a create that is repeated without news has the same: on a node there is never
// a second pod because an answer was lost. It is safe for concurrent use. A new leader begins
// with nothing, which is as good: what matters is that the answer stays while nothing happens.
type departed struct {
	mu   sync.Mutex
	last map[object.Key]map[string]types.UID // by set and node
}

// note is told of every change of a pod.
func (d *departed) note(before, after *corev1.Pod) {
	if before == nil || after != nil {
		return
	}
	owner := metav1.GetControllerOfNoCopy(before)
	node := nodeOf(before)
	if owner == nil || owner.Kind != "DaemonSet" || node == "" {
		return
	}
	key := object.Key{Namespace: before.Namespace, Name: owner.Name}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil {
		d.last = map[object.Key]map[string]types.UID{}
	}
	if d.last[key] == nil {
		d.last[key] = map[string]types.UID{}
	}
	d.last[key][node] = before.UID
}

// of copies what is known of a set.
func (d *departed) of(set object.Key) map[string]types.UID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.last[set])
}

func (d *departed) forget(set object.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.last, set)
}

// seen names what has been on a node: what a new pod's name follows from.
func seen(node string, gone types.UID, there []*corev1.Pod) string {
	uids := []string{string(gone)}
	for _, pod := range there {
		uids = append(uids, string(pod.UID))
	}
	slices.Sort(uids)
	return node + "/" + strings.Join(uids, "/")
}
