package history

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"
)

const hashLabel = "controller.kubernetes.io/hash"

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			Containers:      []corev1.Container{{Name: "main", Image: image, Env: []corev1.EnvVar{{Name: "IMAGE", Value: image}}}},
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](9007199254740993)},
		},
	}
}

func set(image string) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "set", Annotations: map[string]string{"kubernetes.io/change-cause": image}},
		Spec:       appsv1.StatefulSetSpec{Template: template(image)},
	}
}

func question(s *appsv1.StatefulSet, owned ...*appsv1.ControllerRevision) Question {
	return Question{
		Owner: s, Template: &s.Spec.Template, Selector: labels.SelectorFromSet(labels.Set{"app": "web"}), HashLabel: hashLabel,
		Collisions: s.Status.CollisionCount, Owned: owned,
		Taken: func(name string) bool {
			for _, r := range owned {
				if r.Name == name {
					return true
				}
			}
			return false
		},
	}
}

// stored is a revision of a template as the API keeps it.
func stored(t *testing.T, image string, number int64, s *appsv1.StatefulSet) *appsv1.ControllerRevision {
	t.Helper()
	other := s.DeepCopy()
	other.Spec.Template = template(image)
	h, err := Of(question(other))
	if err != nil {
		t.Fatal(err)
	}
	h.Update.Revision, h.Update.UID, h.Update.ResourceVersion = number, types.UID(image), "5"
	return h.Update
}

func of(t *testing.T, q Question) History {
	t.Helper()
	h, err := Of(q)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestOf(t *testing.T) {
	s := set("image:1")
	first, second := stored(t, "image:1", 1, s), stored(t, "image:2", 2, s)
	for name, test := range map[string]struct {
		image    string
		owned    []*appsv1.ControllerRevision
		number   int64
		of       string // name of a known revision
		created  bool
		numbered bool
	}{
		"the first":                    {image: "image:1", number: 1, created: true},
		"one more":                     {image: "image:2", owned: []*appsv1.ControllerRevision{first}, number: 2, created: true},
		"the newest":                   {image: "image:2", owned: []*appsv1.ControllerRevision{second, first}, number: 2, of: second.Name},
		"back to an old one":           {image: "image:1", owned: []*appsv1.ControllerRevision{first, second}, number: 3, of: first.Name, numbered: true},
		"third after two, in disorder": {image: "image:3", owned: []*appsv1.ControllerRevision{second, first}, number: 3, created: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := of(t, question(set(test.image), test.owned...))
			if h.Update.Revision != test.number || h.create != test.created || h.renumber != test.numbered || test.of != "" && h.Update.Name != test.of {
				t.Errorf("%s number %d, create %t, renumber %t", h.Update.Name, h.Update.Revision, h.create, h.renumber)
			}
			if !test.created && h.Known[len(h.Known)-1] != h.Update {
				t.Error("the revision in force is not the newest")
			}
			if first.Revision != 1 || second.Revision != 2 {
				t.Fatal("a shared object was changed")
			}
			if test.created && (h.Update.Annotations["kubernetes.io/change-cause"] != test.image || h.Update.Labels["app"] != "web" ||
				h.Update.Labels[hashLabel] == "" || !strings.HasSuffix(h.Update.Name, "-"+h.Update.Labels[hashLabel]) ||
				len(h.Update.OwnerReferences) != 1 || h.Update.OwnerReferences[0].Kind != "StatefulSet" || !*h.Update.OwnerReferences[0].Controller) {
				t.Errorf("%+v", h.Update.ObjectMeta)
			}
		})
	}
}

func TestCollisions(t *testing.T) {
	s := set("image:1")
	plain := of(t, question(s))
	foreign := stored(t, "image:9", 1, s)
	foreign.Name = plain.Update.Name
	h := of(t, question(s, foreign))
	if h.Update.Name == foreign.Name || ptr.Deref(h.Collisions, 0) != 1 || !h.create {
		t.Errorf("%s beside %s, %d collisions", h.Update.Name, foreign.Name, ptr.Deref(h.Collisions, 0))
	}
	// The count in the status gives the same name without asking round again.
	s.Status.CollisionCount = h.Collisions
	if again := of(t, question(s, foreign)); again.Update.Name != h.Update.Name || *again.Collisions != 1 {
		t.Errorf("%s, then %s", h.Update.Name, again.Update.Name)
	}
}

func TestNamesFitLabels(t *testing.T) {
	s := set("image:1")
	s.Name = strings.Repeat("a", 51) + "-" + strings.Repeat("b", 40)
	if name := of(t, question(s)).Update.Name; len(name) > 63 || strings.Contains(name, "--") {
		t.Errorf("%s has %d characters", name, len(name))
	}
}

func TestAdoption(t *testing.T) {
	s := set("image:1")
	orphan, other := stored(t, "image:1", 4, s), stored(t, "image:2", 7, s)
	orphan.OwnerReferences, other.OwnerReferences, other.Labels = nil, nil, map[string]string{"app": "db"}
	q := question(s)
	q.Orphans = []*appsv1.ControllerRevision{other, orphan}
	h := of(t, q)
	if len(h.adopt) != 1 || h.adopt[0] != orphan || h.Update != orphan || h.create || h.renumber {
		t.Errorf("adopt %d, create %t, renumber %t", len(h.adopt), h.create, h.renumber)
	}
	orphan.DeletionTimestamp = ptr.To(metav1.Now())
	if h := of(t, q); len(h.adopt) != 0 || !h.create {
		t.Errorf("one on its way out is adopted by %d, create %t", len(h.adopt), h.create)
	}
	orphan.DeletionTimestamp = nil
	s.DeletionTimestamp = ptr.To(metav1.Now())
	if h := of(t, q); len(h.adopt) != 0 || h.create {
		t.Errorf("an owner on its way out adopts %d, creates %t", len(h.adopt), h.create)
	}
}

func TestExpired(t *testing.T) {
	s := set("image:9")
	var owned []*appsv1.ControllerRevision
	for i := range 6 {
		owned = append(owned, stored(t, fmt.Sprintf("image:%d", i), int64(i+1), s))
	}
	h := of(t, question(s, owned...))
	used := func(r *appsv1.ControllerRevision) bool { return r.Revision == 1 || r.Revision == 4 }
	numbers := func(limit *int32) string {
		var out []string
		for _, r := range h.Expired(limit, used) {
			out = append(out, fmt.Sprint(r.Revision))
		}
		return strings.Join(out, " ")
	}
	if got := numbers(ptr.To[int32](2)); got != "2 3" {
		t.Errorf("limit 2 removes %q", got)
	}
	if got := numbers(ptr.To[int32](0)); got != "2 3 5 6" {
		t.Errorf("limit 0 removes %q", got)
	}
	if got := numbers(nil); got != "" {
		t.Errorf("ten are kept, but %q removed", got)
	}
}

// TestSameTemplateInOtherWords reads what a program wrote that knew other fields.
func TestSameTemplateInOtherWords(t *testing.T) {
	s := set("image:1")
	revision := stored(t, "image:1", 1, s)
	revision.Data.Raw = []byte(strings.Replace(string(revision.Data.Raw), `"metadata":{`, `"metadata":{"creationTimestamp":null,`, 1))
	if h := of(t, question(s, revision)); h.create || h.Update != revision {
		t.Error("the same template in other words is another revision")
	}
}

// TestKubectl does with a revision what kubectl rollout history and undo do: they apply its
// data to the set as a strategic merge patch, and to see whether a set is at a revision
// already they make the patch of the set and compare bytes.
func TestKubectl(t *testing.T) {
	old := set("image:1")
	revision := of(t, question(old)).Update
	now := set("image:2")
	now.Spec.Template.Labels["added"] = "later"
	now.Spec.Template.Spec.Containers = append(now.Spec.Template.Spec.Containers, corev1.Container{Name: "added", Image: "later"})
	now.Spec.Template.Spec.NodeSelector = map[string]string{"added": "later"}
	encoded, err := json.Marshal(now)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := strategicpatch.StrategicMergePatch(encoded, revision.Data.Raw, now)
	if err != nil {
		t.Fatal(err)
	}
	var back appsv1.StatefulSet
	if err := json.Unmarshal(patched, &back); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(back.Spec.Template, old.Spec.Template) {
		t.Errorf("undone to %+v", back.Spec.Template)
	}
	if held, err := Template(revision); err != nil || !equality.Semantic.DeepEqual(*held, old.Spec.Template) {
		t.Errorf("holds %+v, %v", held, err)
	}

	// kubectl's patch of a set: its JSON through untyped values, spec.template alone, marked.
	if encoded, err = json.Marshal(small(old)); err != nil {
		t.Fatal(err)
	}
	var untyped map[string]any
	if err := json.Unmarshal(encoded, &untyped); err != nil {
		t.Fatal(err)
	}
	content := untyped["spec"].(map[string]any)["template"].(map[string]any)
	content["$patch"] = "replace"
	want, err := json.Marshal(map[string]any{"spec": map[string]any{"template": content}})
	if err != nil {
		t.Fatal(err)
	}
	if have := of(t, question(small(old))).Update.Data; string(have.Raw) != string(want) {
		t.Errorf("%s\nkubectl has\n%s", have.Raw, want)
	}
	if _, err := Template(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`{"spec":{}}`)}}); err == nil {
		t.Error("a revision without a template is taken for one")
	}
}

// small has no number that kubectl's untyped values round.
func small(s *appsv1.StatefulSet) *appsv1.StatefulSet {
	s = s.DeepCopy()
	s.Spec.Template.Spec.SecurityContext.RunAsUser = ptr.To[int64](1000000)
	return s
}
