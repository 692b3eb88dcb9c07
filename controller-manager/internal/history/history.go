// Package history keeps ControllerRevisions: the templates that a StatefulSet or DaemonSet
// has had, in the form in which kubectl rollout reads them and brings one back.
package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/object"
)

// IndexOrphans is the index of revisions without a controller, by namespace, that the
// informer of revisions must have; see Orphans.
const IndexOrphans = "history-orphans"

// Orphans is IndexOrphans' function.
func Orphans(revision *appsv1.ControllerRevision) []string {
	if metav1.GetControllerOfNoCopy(revision) != nil {
		return nil
	}
	return []string{revision.Namespace}
}

// Question is what Of needs to know. All fields are required but Collisions.
type Question struct {
	Owner    object.Object
	Template *corev1.PodTemplateSpec
	Selector labels.Selector
	// Collisions is the collision count in the owner's status.
	Collisions *int32
	// HashLabel is the label that carries a revision's hash.
	HashLabel string
	// Owned are the owner's revisions, Orphans those of its namespace that nobody controls.
	Owned, Orphans []*appsv1.ControllerRevision
	// Taken says whether a revision of a name is known in the namespace.
	Taken func(name string) bool
}

// History is an owner's templates and what must be written so that it is true.
type History struct {
	// Update is the revision of the template as it is. Unless it is in Known it must be created.
	Update *appsv1.ControllerRevision
	// Known are all revisions, oldest first.
	Known []*appsv1.ControllerRevision
	// Collisions belongs into the owner's status.
	Collisions *int32

	create, renumber bool
	adopt            []*appsv1.ControllerRevision
}

// Of finds the revision of the owner's template. A template that the owner had before is
// that old revision again, under a new number: so does a rollback look. An owner on its
// way out gets nothing written. It is pure.
func Of(q Question) (History, error) {
	patch, err := Patch(q.Template)
	if err != nil {
		return History{}, err
	}
	h := History{Known: slices.Clone(q.Owned), Collisions: q.Collisions}
	leaving := q.Owner.GetDeletionTimestamp() != nil
	if !leaving {
		for _, revision := range q.Orphans {
			if revision.DeletionTimestamp == nil && q.Selector.Matches(labels.Set(revision.Labels)) {
				h.adopt = append(h.adopt, revision)
				h.Known = append(h.Known, revision)
			}
		}
	}
	slices.SortFunc(h.Known, order)
	newest := int64(0)
	if n := len(h.Known); n > 0 {
		newest = h.Known[n-1].Revision
	}
	if found := findEqual(h.Known, patch, q.Template); found != nil {
		h.Update = found
		if found.Revision < newest && !leaving {
			h.Update, h.renumber = found.DeepCopy(), true
			h.Update.Revision = newest + 1
			h.Known[slices.Index(h.Known, found)] = h.Update
			slices.SortFunc(h.Known, order)
		}
		return h, nil
	}
	h.Update, h.Collisions, err = newRevision(q, patch, newest+1)
	h.create = !leaving
	return h, err
}

// order sorts the oldest first.
func order(a, b *appsv1.ControllerRevision) int {
	if a.Revision != b.Revision {
		return int(max(-1, min(1, a.Revision-b.Revision)))
	}
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// findEqual returns the newest revision of a template. Bytes settle it nearly always; another
// version of this program may have written the same template in other words.
func findEqual(known []*appsv1.ControllerRevision, patch []byte, template *corev1.PodTemplateSpec) *appsv1.ControllerRevision {
	for _, revision := range slices.Backward(known) {
		if revision.DeletionTimestamp == nil && bytes.Equal(revision.Data.Raw, patch) {
			return revision
		}
	}
	for _, revision := range slices.Backward(known) {
		if revision.DeletionTimestamp != nil {
			continue
		}
		if had, err := Template(revision); err == nil && equality.Semantic.DeepEqual(had, template) {
			return revision
		}
	}
	return nil
}

// Patch is what a revision holds: a strategic merge patch that replaces the whole template.
// kubectl compares it byte by byte, so keys are sorted at every depth.
func Patch(template *corev1.PodTemplateSpec) ([]byte, error) {
	encoded, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	var fields map[string]any
	if err := utiljson.Unmarshal(encoded, &fields); err != nil { // whole numbers stay whole
		return nil, fmt.Errorf("encode template: %w", err)
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template is the template that a revision holds.
func Template(revision *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var held struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(revision.Data.Raw, &held); err != nil {
		return nil, fmt.Errorf("controller revision %s: %w", object.KeyOf(revision), err)
	}
	if held.Spec.Template == nil {
		return nil, fmt.Errorf("controller revision %s holds no template", object.KeyOf(revision))
	}
	return held.Spec.Template, nil
}

// longestName leaves names fit for the value of a label, where StatefulSets put them.
const longestName = 63

// newRevision makes a revision that is not stored yet. Its name ends in a hash of what it holds
// and of the number of collisions, which grows until nobody else has the name.
func newRevision(q Question, patch []byte, number int64) (*appsv1.ControllerRevision, *int32, error) {
	kind, err := object.KindOfObject(q.Owner)
	if err != nil {
		return nil, nil, err
	}
	collisions := q.Collisions
	hash := hashOf(patch, collisions)
	for q.Taken(nameOf(q.Owner.GetName(), hash)) {
		collisions = ptr.To(ptr.Deref(collisions, 0) + 1)
		hash = hashOf(patch, collisions)
	}
	marked := map[string]string{}
	maps.Copy(marked, q.Template.Labels)
	marked[q.HashLabel] = hash
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: q.Owner.GetNamespace(), Name: nameOf(q.Owner.GetName(), hash), Labels: marked,
			// Such as kubernetes.io/change-cause, which kubectl rollout history shows.
			Annotations:     maps.Clone(q.Owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(q.Owner, kind.GVK)},
		},
		Data:     runtime.RawExtension{Raw: patch},
		Revision: number,
	}, collisions, nil
}

func hashOf(patch []byte, collisions *int32) string {
	h := fnv.New32a()
	_, _ = h.Write(patch)
	if collisions != nil {
		_, _ = fmt.Fprintf(h, "/%d", *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func nameOf(owner, hash string) string {
	prefix := owner[:min(len(owner), longestName-1-len(hash))]
	return strings.TrimRight(prefix, "-.") + "-" + hash
}

// Hash is a revision's hash as its label says, its name if it has no such label.
func Hash(revision *appsv1.ControllerRevision, label string) string {
	if hash := revision.Labels[label]; hash != "" {
		return hash
	}
	return revision.Name
}

// Find returns the known revision of a name, nil if there is none.
func (h *History) Find(name string) *appsv1.ControllerRevision {
	for _, revision := range h.Known {
		if revision.Name == name {
			return revision
		}
	}
	return nil
}

// Expired lists the oldest revisions beyond the limit (nil means ten). Those that are in use
// neither count nor expire.
func (h *History) Expired(limit *int32, inUse func(*appsv1.ControllerRevision) bool) []*appsv1.ControllerRevision {
	var idle []*appsv1.ControllerRevision
	for _, revision := range h.Known {
		if revision.DeletionTimestamp == nil && revision.Name != h.Update.Name && !inUse(revision) {
			idle = append(idle, revision)
		}
	}
	return idle[:max(0, len(idle)-int(ptr.Deref(limit, 10)))]
}

// Adopters yields the keys of the owners, of those given, that would adopt a revision
// which has no controller.
func Adopters[T object.Object](revision *appsv1.ControllerRevision, owners []T, selectorOf func(T) *metav1.LabelSelector) []object.Key {
	if metav1.GetControllerOfNoCopy(revision) != nil {
		return nil
	}
	var keys []object.Key
	for _, owner := range owners {
		if owner.GetNamespace() != revision.Namespace {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(selectorOf(owner))
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(revision.Labels)) {
			keys = append(keys, object.KeyOf(owner))
		}
	}
	return keys
}
