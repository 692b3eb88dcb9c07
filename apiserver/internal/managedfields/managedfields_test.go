package managedfields_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	smd "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"kijabi.dev/apiserver/internal/managedfields"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// rounds is how many objects of each kind are made up.
const rounds = 10

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, kind := range kinds.Default() {
		scheme.AddKnownTypeWithName(kind.GVK, kind.New())
	}
	return scheme
}

type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

// pair is a tracker beside the field manager whose answers it must give.
type pair struct {
	*managedfields.Tracker
	oracle *smd.FieldManager
}

func newPair(t testing.TB, scheme *runtime.Scheme, kind *kinds.Kind, subresource string, reset ...string) pair {
	t.Helper()
	types := applyconfigurations.NewTypeConverter(scheme)
	tracker, err := managedfields.New(managedfields.Config{
		Types: types, Scheme: scheme, Defaulter: noDefaults{}, Kind: kind.GVK, Subresource: subresource, Reset: reset,
	})
	if err != nil {
		t.Fatal(err)
	}
	excluded := fieldpath.NewSet()
	for _, name := range reset {
		excluded.Insert(fieldpath.MakePathOrDie(name))
	}
	filters := map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(kind.GVK.GroupVersion().String()): fieldpath.NewExcludeSetFilter(excluded)}
	oracle, err := smd.NewDefaultFieldManager(types, scheme, noDefaults{}, scheme, kind.GVK, kind.GVK.GroupVersion(), subresource, filters)
	if err != nil {
		t.Fatal(err)
	}
	return pair{tracker, oracle}
}

// both performs one write in both ways and compares.
func (p pair) both(t testing.TB, what string, old, obj object.Object, manager string, now metav1.Time) {
	t.Helper()
	expected := obj.DeepCopyObject().(object.Object)
	expected = p.oracle.UpdateNoErrors(old, expected, manager).(object.Object)
	p.Update(old, obj, manager, now)
	want, got := expected.GetManagedFields(), obj.GetManagedFields()
	for i := range want {
		if want[i].Time != nil && want[i].Time.After(now.Time) { // the oracle goes by the clock
			want[i].Time = &now
		}
	}
	if left, right := show(want), show(got); left != right {
		before, _ := json.Marshal(old)
		after, _ := json.Marshal(obj)
		t.Fatalf("%s, by %s\nwant %s\ngot  %s\nold  %s\nnew  %s", what, manager, left, right, before, after)
	}
}

func show(entries []metav1.ManagedFieldsEntry) string {
	text := ""
	for _, e := range entries {
		text += fmt.Sprintf("\n%s %s %s %s %v %s", e.Operation, e.Manager, e.APIVersion, e.Subresource, e.Time, e.FieldsV1.GetRawBytes())
	}
	return text
}

// TestSameAsStructuredMergeDiff makes up objects of every kind and changes to them, by several managers
// and through several subresources, and compares with structured-merge-diff byte for byte.
func TestSameAsStructuredMergeDiff(t *testing.T) {
	scheme := newScheme()
	for _, kind := range kinds.Default() {
		t.Run(kind.GVK.String(), func(t *testing.T) {
			t.Parallel()
			main, status := newPair(t, scheme, kind, "", "status"), newPair(t, scheme, kind, "status", "spec")
			for seed := range uint64(rounds) {
				history(t, kind, main, status, seed)
			}
		})
	}
}

func history(t *testing.T, kind *kinds.Kind, main, status pair, seed uint64) {
	t.Helper()
	f := filler{rand.New(rand.NewPCG(seed, 7)), []int{30, 60, 85}[seed%3]}
	old := kind.New()
	old.GetObjectKind().SetGroupVersionKind(kind.GVK)
	now := metav1.Unix(1000, 0)
	obj := clean(t, kind, func(v reflect.Value) { f.fill(v, 8, false) }, kind.New())
	obj.SetManagedFields(nil)
	main.both(t, fmt.Sprintf("seed %d, create", seed), old, obj, "m", now)
	for step := range 14 {
		old = obj
		now = metav1.Time{Time: now.Add(time.Second)}
		obj = clean(t, kind, func(v reflect.Value) { f.change(v, false) }, old.DeepCopyObject().(object.Object))
		obj.SetUID("u")
		old.SetUID("u")
		obj.SetManagedFields(slices.Clone(old.GetManagedFields()))
		by := main
		if f.chance(30) {
			by = status
		}
		if f.chance(30) {
			f.tamper(obj)
		}
		by.both(t, fmt.Sprintf("seed %d, step %d", seed, step), old, obj, fmt.Sprintf("m%d", f.IntN(4+6*int(seed%3))), now)
	}
}

// tamper sends managedFields along as clients do.
func (f filler) tamper(obj object.Object) {
	entries := obj.GetManagedFields()
	switch f.IntN(7) {
	case 0:
		entries = nil
	case 1:
		if f.chance(20) {
			entries = []metav1.ManagedFieldsEntry{{}}
		}
	case 2:
		if len(entries) > 0 {
			entries[0].Operation = "nonsense"
		}
	case 3:
		if len(entries) > 1 {
			entries = entries[1:]
		}
	case 4, 5:
		if len(entries) > 0 {
			entries[0].Operation = metav1.ManagedFieldsOperationApply
		}
	case 6:
		foreign := metav1.ManagedFieldsEntry{Manager: "foreign", Operation: "Apply", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{}}
		foreign.FieldsV1.SetRawString(`{"f:spec": {"f:replicas":{}, "f:x":{".":{},"k:{\"a\":1}":{"f:b":{}}}}, "f:metadata":{"f:labels":{"f:a":{}}}}`)
		entries = append(entries, foreign)
	}
	obj.SetManagedFields(entries)
}

// clean makes an object and brings it into the form in which it would come from a client.
func clean(t *testing.T, kind *kinds.Kind, work func(reflect.Value), obj object.Object) object.Object {
	t.Helper()
	work(reflect.ValueOf(obj).Elem())
	text, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	out := kind.New()
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	out.GetObjectKind().SetGroupVersionKind(kind.GVK)
	return out
}

// Kinds that hold arbitrary JSON where it is owned field by field.
var unplanned = []string{"ControllerRevision"} //nolint:gochecknoglobals // a constant

func TestKindsHavePlans(t *testing.T) {
	scheme := newScheme()
	for _, kind := range kinds.Default() {
		p := newPair(t, scheme, kind, "")
		if ok, err := p.Planned(); ok == slices.Contains(unplanned, kind.GVK.Kind) {
			t.Errorf("%s: planned %v: %v", kind.GVK, ok, err)
		}
	}
}
