// Package podset is what the loops that keep pods for an owner share: which pods are
// the owner's, how new ones are named and made, which go first, and writing many at once.
package podset

import (
	"fmt"
	"hash/fnv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/object"
)

// IndexOrphans is the index of pods without a controller, by namespace, that the
// pod informer must have; see Orphans.
const IndexOrphans = "podset-orphans"

// Orphans is IndexOrphans' function.
func Orphans(pod *corev1.Pod) []string {
	if metav1.GetControllerOfNoCopy(pod) != nil {
		return nil
	}
	return []string{pod.Namespace}
}

// Claim is what Claimed found.
type Claim struct {
	// Own are the owner's pods, finished and terminating ones and those to be adopted included.
	Own []*corev1.Pod
	// Adopt are those of Own that have no controller yet, Release pods that the selector
	// no longer selects.
	Adopt, Release []*corev1.Pod
	// Newest is the newest resource version seen, the owner's included.
	Newest string
}

// Claimed sorts an owner's pods (owned) and those of its namespace that nobody controls
// (orphans) by whether they are the owner's. An owner on its way out neither adopts nor
// releases: the garbage collector removes its pods, and either would race with it.
// Orphans that are finished or terminating stay alone. It is pure.
func Claimed(owner metav1.Object, selector labels.Selector, owned, orphans []*corev1.Pod) Claim {
	c := Claim{Newest: owner.GetResourceVersion()}
	leaving := owner.GetDeletionTimestamp() != nil
	for _, pod := range owned {
		c.Newest = newer(c.Newest, pod.ResourceVersion)
		if !leaving && podstate.Active(pod) && !selector.Matches(labels.Set(pod.Labels)) {
			c.Release = append(c.Release, pod)
			continue
		}
		c.Own = append(c.Own, pod)
	}
	if leaving {
		return c
	}
	for _, pod := range orphans {
		if podstate.Active(pod) && selector.Matches(labels.Set(pod.Labels)) {
			c.Adopt = append(c.Adopt, pod)
			c.Own = append(c.Own, pod)
		}
	}
	return c
}

// newer returns the newer of two resource versions, which are decimal numbers.
func newer(a, b string) string {
	if len(b) > len(a) || len(b) == len(a) && b > a {
		return b
	}
	return a
}

// Adopters yields the keys of the owners, of those given, whose selector selects a pod
// that has no controller.
func Adopters[T object.Object](pod *corev1.Pod, owners []T, selectorOf func(T) (labels.Selector, error)) []object.Key {
	if metav1.GetControllerOfNoCopy(pod) != nil || len(pod.Labels) == 0 {
		return nil
	}
	var keys []object.Key
	for _, owner := range owners {
		if owner.GetNamespace() != pod.Namespace {
			continue
		}
		selector, err := selectorOf(owner)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			keys = append(keys, object.KeyOf(owner))
		}
	}
	return keys
}

// Names yields n different names for new pods of an owner, none of them taken, which says
// whether the namespace is known to have a pod of a name. They are a function of what the loop has seen, so that a
// create that is repeated because its answer was lost meets its own pod instead of making
// a second one (docs/decisions/pods-names-follow-from-what-was-seen.md).
func Names(owner metav1.Object, seen string, n int, taken func(name string) bool) []string {
	prefix := Prefix(owner.GetName())
	out := make([]string, 0, n)
	mine := make(map[string]bool, n)
	for i := 0; len(out) < n; i++ {
		name := prefix + Suffix(fmt.Sprintf("%s/%s/%d", owner.GetUID(), seen, i))
		if !mine[name] && !taken(name) {
			mine[name] = true
			out = append(out, name)
		}
	}
	return out
}

// Prefix is what an owner's pods' names begin with, cut so that five characters more
// make a valid host name.
func Prefix(owner string) string {
	prefix := owner + "-"
	return prefix[:min(len(prefix), 63-suffixLength)]
}

// suffixAlphabet is Kubernetes' for generated names; without vowels there are no words.
const (
	suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength   = 5
)

// Suffix makes five characters, as Kubernetes' generated names end in, from a text.
func Suffix(of string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(of))
	sum := h.Sum64()
	out := make([]byte, suffixLength)
	for i := range out {
		out[i] = suffixAlphabet[sum%uint64(len(suffixAlphabet))]
		sum /= uint64(len(suffixAlphabet))
	}
	return string(out)
}

// New makes a pod of a template, controlled by the owner, which must be of a kind of
// the object table.
func New(owner object.Object, template *corev1.PodTemplateSpec, name string) (*corev1.Pod, error) {
	kind, err := object.KindOfObject(owner)
	if err != nil {
		return nil, err
	}
	copied := template.DeepCopy()
	pod := &corev1.Pod{ObjectMeta: copied.ObjectMeta, Spec: copied.Spec}
	pod.Namespace, pod.Name = owner.GetNamespace(), name
	pod.GenerateName = owner.GetName() + "-"
	pod.ResourceVersion, pod.UID = "", ""
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind.GVK)}
	return pod, nil
}

// RemovalOrder sorts the pods that cost least to lose first, as Kubernetes documents for
// ReplicaSets: unbound, pending, not ready, then those of a lower
// controller.kubernetes.io/pod-deletion-cost, then the most recently ready and created ones.
func RemovalOrder(a, b *corev1.Pod) int {
	rank := func(p *corev1.Pod) int {
		switch {
		case p.Spec.NodeName == "":
			return 0
		case p.Status.Phase == corev1.PodPending || p.Status.Phase == "":
			return 1
		case p.Status.Phase == corev1.PodUnknown:
			return 2
		case !podstate.Ready(p):
			return 3
		}
		return 4
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	if d := deletionCost(a) - deletionCost(b); d != 0 {
		return d
	}
	if podstate.Ready(a) && podstate.Ready(b) {
		ra, rb := podstate.Condition(a, corev1.PodReady).LastTransitionTime, podstate.Condition(b, corev1.PodReady).LastTransitionTime
		if !ra.Equal(&rb) {
			return rb.Compare(ra.Time)
		}
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	}
	return strings.Compare(a.Name, b.Name)
}

func deletionCost(pod *corev1.Pod) int {
	var cost int
	if _, err := fmt.Sscanf(pod.Annotations[corev1.PodDeletionCost], "%d", &cost); err != nil {
		return 0
	}
	return cost
}
