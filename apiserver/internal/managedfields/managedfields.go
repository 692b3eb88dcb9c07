// Package managedfields keeps the record of who owns which field of an object, which
// server-side apply and its clients go by. It gives the answers of structured-merge-diff.
// What happens on every write, a create or an update, it computes from the Go types of the
// built-in kinds, by plans made once of the same schema; applies, and kinds of which there
// are no Go types, are left to structured-merge-diff itself.
package managedfields

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Object is an object that fields are owned of.
type Object interface {
	metav1.Object
	runtime.Object
}

// Config is what a Tracker needs. Every field but Subresource and Reset is required.
type Config struct {
	// Types knows the schema.
	Types managedfields.TypeConverter
	// Scheme makes and converts the kind's objects.
	Scheme *runtime.Scheme
	// Defaulter completes what an apply has merged.
	Defaulter runtime.ObjectDefaulter
	// Kind is the kind, in the version in which it is written.
	Kind schema.GroupVersionKind
	// Subresource that is written; empty: the object itself.
	Subresource string
	// Reset are top-level fields that such writes do not change, whatever they say.
	Reset []string
	// Unplanned leaves plain writes to structured-merge-diff, too: Types says more than the Go
	// types do.
	Unplanned bool
}

// Tracker keeps the record for one kind and subresource. It is safe for concurrent use.
type Tracker struct {
	cfg     Config
	version string
	manager *managedfields.FieldManager
	plan    *plan // nil: structured-merge-diff does it all
	empty   Object
	walks   sync.Pool
	// form and parse convert objects to what manager knows, and back; nil: it knows them.
	form  func(Object) runtime.Object
	parse func(runtime.Object) (Object, error)
}

// New returns a tracker.
func New(cfg Config) (*Tracker, error) {
	version := cfg.Kind.GroupVersion()
	manager, err := managedfields.NewDefaultFieldManager(cfg.Types, cfg.Scheme, cfg.Defaulter, cfg.Scheme, cfg.Kind, version, cfg.Subresource, filters(version, cfg.Reset))
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", cfg.Kind.Kind, err)
	}
	made, err := cfg.Scheme.New(cfg.Kind)
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", cfg.Kind.Kind, err)
	}
	empty, ok := made.(Object)
	if !ok {
		return nil, fmt.Errorf("field manager of %s: it has no metadata", cfg.Kind.Kind)
	}
	empty.GetObjectKind().SetGroupVersionKind(cfg.Kind)
	t := &Tracker{cfg: cfg, version: version.String(), manager: manager, empty: empty}
	t.walks.New = func() any { return &walk{} }
	if !cfg.Unplanned {
		t.plan, _ = t.compile() // a kind whose plan cannot be made goes without
	}
	return t, nil
}

// filters leave top-level fields out of what is owned.
func filters(version schema.GroupVersion, fields []string) map[fieldpath.APIVersion]fieldpath.Filter {
	if len(fields) == 0 {
		return nil
	}
	reset := fieldpath.NewSet()
	for _, name := range fields {
		reset.Insert(fieldpath.MakePathOrDie(name))
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(version.String()): fieldpath.NewExcludeSetFilter(reset)}
}

// Versions makes, defaults and converts the unstructured objects of a kind without Go types.
type Versions interface {
	runtime.ObjectCreater
	runtime.ObjectDefaulter
	runtime.ObjectConvertor
}

// CustomConfig is what the tracker of a kind without Go types needs. Every field but
// Subresource and Reset is required.
type CustomConfig struct {
	// Types knows the schema.
	Types    managedfields.TypeConverter
	Versions Versions
	// Kind, Subresource and Reset are as in Config.
	Kind        schema.GroupVersionKind
	Subresource string
	Reset       []string
	// Empty is an object of which nothing is set but its kind.
	Empty Object
	// Form makes an unstructured copy of an object, and Parse the object of one that it may keep.
	Form  func(Object) runtime.Object
	Parse func(runtime.Object) (Object, error)
}

// NewCustom returns a tracker of a kind without Go types.
func NewCustom(cfg CustomConfig) (*Tracker, error) {
	version := cfg.Kind.GroupVersion()
	manager, err := managedfields.NewDefaultCRDFieldManager(cfg.Types, cfg.Versions, cfg.Versions, cfg.Versions, cfg.Kind, version, cfg.Subresource, filters(version, cfg.Reset))
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", cfg.Kind.Kind, err)
	}
	return &Tracker{
		cfg:     Config{Kind: cfg.Kind, Subresource: cfg.Subresource, Reset: cfg.Reset},
		version: version.String(), manager: manager, empty: cfg.Empty, form: cfg.Form, parse: cfg.Parse,
	}, nil
}

// merge lets structured-merge-diff note a plain write.
func (t *Tracker) merge(old, obj Object, manager string) {
	if t.form == nil {
		t.manager.UpdateNoErrors(old, obj, manager)
		return
	}
	if merged, ok := t.manager.UpdateNoErrors(t.form(old), t.form(obj), manager).(metav1.Object); ok {
		obj.SetManagedFields(merged.GetManagedFields())
	}
}

func (t *Tracker) compile() (*plan, error) {
	typed, err := t.cfg.Types.ObjectToTyped(t.empty)
	if err != nil {
		return nil, err
	}
	c := &compiler{schema: typed.Schema(), plans: map[planKey]*plan{}, equals: map[reflect.Type]*comparison{}}
	root, err := c.root(typed.TypeRef(), reflect.TypeOf(t.empty).Elem())
	if err != nil {
		return nil, err
	}
	root.fields = slices.DeleteFunc(root.fields, func(f field) bool { return slices.Contains(t.cfg.Reset, f.name) })
	return root, nil
}

// Create notes in a new object's managedFields that manager owns what is in it.
func (t *Tracker) Create(obj Object, manager string, now metav1.Time) {
	t.Update(t.empty, obj, manager, now)
}

// Update notes in obj's managedFields what a write changes that makes obj of old. Old is left
// alone; the fields of entries may be shared between both afterwards.
//
// As in Kubernetes, a write of the object itself may bring managedFields of its own, of which
// an empty one ends the record until somebody applies, and broken ones are ignored.
func (t *Tracker) Update(old, obj Object, manager string, now metav1.Time) {
	entries, plain := t.entries(old, obj)
	switch {
	case len(entries) == 0 && old.GetUID() != "":
		obj.SetManagedFields(nil)
		return
	case t.plan == nil || !plain:
		t.merge(old, obj, manager)
		retime(entries, obj.GetManagedFields(), now)
		return
	}
	w := t.walk(old, obj)
	defer t.walks.Put(w)
	if w.failed {
		obj.SetManagedFields(old.GetManagedFields())
		return
	}
	who := metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: t.version, Subresource: t.cfg.Subresource}
	if manager == "" {
		who.Manager = "unknown"
	}
	updated, err := w.update(entries, who, now)
	if err != nil {
		updated = old.GetManagedFields()
	}
	obj.SetManagedFields(updated)
}

// walk compares two objects. The walk must be put back.
func (t *Tracker) walk(old, obj Object) *walk {
	w := t.walks.Get().(*walk)
	w.reset()
	w.structures(t.plan, value{reflect.ValueOf(old).Elem(), present}, value{reflect.ValueOf(obj).Elem(), present})
	return w
}

// entries returns the record that a write goes by, as a slice of its own, and whether it is
// all about this version of the kind.
func (t *Tracker) entries(old, obj Object) (entries []metav1.ManagedFieldsEntry, plain bool) {
	live, given := old.GetManagedFields(), obj.GetManagedFields()
	plain = true
	if t.cfg.Subresource == "" && !sameEntries(live, given) {
		if reset(given) {
			return nil, true
		}
		if decoded, err := normal(given); err == nil && len(decoded) > 0 {
			entries = decoded
		}
	}
	if entries == nil {
		entries = slices.Clone(live)
	}
	for i := range entries {
		plain = plain && entries[i].APIVersion == t.version
	}
	return entries, plain
}

func sameEntries(a, b []metav1.ManagedFieldsEntry) bool {
	return len(a) == len(b) && (b == nil || len(b) > 0) && slices.EqualFunc(a, b, func(a, b metav1.ManagedFieldsEntry) bool {
		return sameOwner(&a, &b) && a.Time.Equal(b.Time) && bytes.Equal(a.FieldsV1.GetRawBytes(), b.FieldsV1.GetRawBytes())
	})
}

// sameOwner tells whether two entries stand for the same manager and way of writing.
func sameOwner(a, b *metav1.ManagedFieldsEntry) bool {
	return a.Manager == b.Manager && a.Operation == b.Operation && a.Subresource == b.Subresource && a.FieldsType == b.FieldsType &&
		(a.APIVersion == b.APIVersion || a.Operation == metav1.ManagedFieldsOperationApply)
}

// reset tells whether managedFields are given so as to end the record.
func reset(entries []metav1.ManagedFieldsEntry) bool {
	return entries != nil && len(entries) == 0 || len(entries) == 1 && entries[0] == metav1.ManagedFieldsEntry{}
}

// Apply merges an intent into live, which may be empty, and returns the merged object with
// its managedFields. The intent may be changed. Errors are conflicts with other managers, and
// whatever is wrong with the intent.
func (t *Tracker) Apply(live Object, intent *unstructured.Unstructured, manager string, force bool, now metav1.Time) (Object, error) {
	given := runtime.Object(live)
	if t.form != nil {
		given = t.form(live)
	}
	merged, err := t.manager.Apply(given, intent, manager, force)
	if err != nil {
		return nil, err
	}
	if merged == nil { // nothing changes
		merged = given
	}
	out, ok := merged.(Object)
	if t.parse != nil {
		if out, err = t.parse(merged); err != nil {
			return nil, err
		}
	} else if !ok {
		return nil, fmt.Errorf("merging %s made a %T", t.cfg.Kind.Kind, merged)
	}
	retime(live.GetManagedFields(), out.GetManagedFields(), now)
	return out, nil
}

// retime sets the time of what structured-merge-diff has written, which goes by a clock of
// its own.
func retime(before, after []metav1.ManagedFieldsEntry, now metav1.Time) {
	for i := range after {
		known := slices.ContainsFunc(before, func(e metav1.ManagedFieldsEntry) bool { return e.Time.Equal(after[i].Time) })
		if after[i].Time != nil && !known {
			after[i].Time = &now
		}
	}
	slices.SortFunc(after, order)
}

// KeepTimes puts back the times in obj's managedFields when obj is old but for those, so that
// a write that changes nothing is none. Old and obj are of one version.
func (t *Tracker) KeepTimes(old, obj Object) {
	before, after := old.GetManagedFields(), obj.GetManagedFields()
	retimed := false
	same := len(before) == len(after) && slices.EqualFunc(before, after, func(a, b metav1.ManagedFieldsEntry) bool {
		retimed = retimed || !a.Time.Equal(b.Time)
		return sameOwner(&a, &b) && a.APIVersion == b.APIVersion && bytes.Equal(a.FieldsV1.GetRawBytes(), b.FieldsV1.GetRawBytes())
	})
	if !same || !retimed {
		return
	}
	if t.plan == nil {
		if obj.SetManagedFields(before); !t.equal(old, obj) {
			obj.SetManagedFields(after)
		}
		return
	}
	w := t.walk(old, obj)
	defer t.walks.Put(w)
	if len(w.nodes) == 0 && !w.failed && old.GetGeneration() == obj.GetGeneration() {
		obj.SetManagedFields(before)
	}
}

// equal compares two objects of a kind without a plan.
func (t *Tracker) equal(a, b Object) bool {
	if t.form == nil {
		return equality.Semantic.DeepEqual(a, b)
	}
	return equality.Semantic.DeepEqual(t.form(a), t.form(b))
}
