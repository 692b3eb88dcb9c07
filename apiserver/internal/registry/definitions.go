package registry

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"

	"kijabi.dev/apiserver/internal/registry/customkinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

const definitionsResource = "customresourcedefinitions.apiextensions.k8s.io"

// table is all that is served at a moment. It is immutable.
type table struct {
	kinds      []*Kind
	byResource map[schema.GroupVersionResource]*Kind
	preferred  map[schema.GroupResource]*Kind
}

func newTable(rows []*Kind) *table {
	t := &table{
		kinds: rows, byResource: make(map[schema.GroupVersionResource]*Kind, len(rows)), preferred: make(map[schema.GroupResource]*Kind, len(rows)),
	}
	for _, kind := range rows {
		t.byResource[kind.GVR] = kind
		if _, ok := t.preferred[kind.GVR.GroupResource()]; !ok {
			t.preferred[kind.GVR.GroupResource()] = kind
		}
	}
	return t
}

// definitions follows the stored CustomResourceDefinitions and keeps the table of kinds.
// The store tells it of each change before anybody else learns of it, so whoever has seen
// that a definition is established finds its kind served. It also gives out names: what is
// given to the writes of a batch is reserved until the commit confirms it.
type definitions struct {
	log    *zap.Logger
	built  []*Kind
	groups map[string]bool // of the kinds that are built in
	table  atomic.Pointer[table]

	mu       sync.Mutex
	byName   map[string]*customkinds.Definition
	reserved map[string]*customkinds.Definition
}

var _ store.Observer = (*definitions)(nil)

func newDefinitions(built []*Kind, log *zap.Logger) *definitions {
	d := &definitions{
		log: log, built: built, groups: map[string]bool{},
		byName: map[string]*customkinds.Definition{}, reserved: map[string]*customkinds.Definition{},
	}
	for _, kind := range built {
		d.groups[kind.GVR.Group] = true
	}
	d.table.Store(newTable(built))
	return d
}

// Reset starts over from all objects.
func (d *definitions) Reset(all iter.Seq[*store.Record]) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.byName
	d.byName = map[string]*customkinds.Definition{}
	clear(d.reserved)
	for record := range all {
		if record.Key.Resource == definitionsResource {
			d.learn(record, before[record.Key.Name])
		}
	}
	d.rebuild()
}

// Begin forgets names that no commit confirmed.
func (d *definitions) Begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.reserved)
}

// Apply follows committed changes.
func (d *definitions) Apply(events []store.Event) {
	changed := false
	for i := range events {
		record := events[i].Record
		if record.Key.Resource != definitionsResource {
			continue
		}
		if !changed {
			d.mu.Lock()
			defer d.mu.Unlock()
			changed = true
		}
		if events[i].Type == store.Deleted {
			delete(d.byName, record.Key.Name)
		} else {
			d.learn(record, d.byName[record.Key.Name])
		}
	}
	if changed {
		d.rebuild()
	}
}

func (d *definitions) learn(record *store.Record, before *customkinds.Definition) {
	definition, err := customkinds.New(record.Value, before)
	if err != nil { // its kinds are not served
		d.log.Error("a stored definition cannot be read", zap.String("name", record.Key.Name), zap.Error(err))
		delete(d.byName, record.Key.Name)
		return
	}
	d.byName[record.Key.Name] = definition
}

// rebuild makes the table anew: built-in rows, then those of definitions by group, the
// newest stable version first. The caller holds mu.
func (d *definitions) rebuild() {
	var custom []*Kind
	for _, definition := range d.byName {
		custom = append(custom, definition.Kinds...)
	}
	slices.SortFunc(custom, func(a, b *Kind) int {
		if c := strings.Compare(a.GVR.Group, b.GVR.Group); c != 0 {
			return c
		}
		if c := version.CompareKubeAwareVersionStrings(b.GVR.Version, a.GVR.Version); c != 0 {
			return c
		}
		return strings.Compare(a.GVR.Resource, b.GVR.Resource)
	})
	d.table.Store(newTable(slices.Concat(d.built, custom)))
}

// taken collects the names that others than a definition have in its group.
func (d *definitions) taken(name, group string) customkinds.Taken {
	out := customkinds.Taken{Resources: map[string]bool{}, Kinds: map[string]bool{}}
	add := func(all map[string]*customkinds.Definition) {
		for other, definition := range all {
			if other == name || definition.Group != group {
				continue
			}
			names := definition.Accepted
			for _, resource := range slices.Concat([]string{names.Plural, names.Singular}, names.ShortNames) {
				out.Resources[resource] = true
			}
			out.Kinds[names.Kind], out.Kinds[names.ListKind] = true, true
		}
	}
	add(d.byName)
	add(d.reserved)
	return out
}

// settle sets a definition's names and conditions, as far as obj is one.
func (d *definitions) settle(obj object.Object) {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	customkinds.Settle(crd, d.taken(crd.Name, crd.Spec.Group))
}

// claim returns what reserves the names of a definition, for the single writer; nil for
// other objects. It asks for another plan when somebody else was quicker.
func (d *definitions) claim(obj object.Object) func(dry bool) error {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil
	}
	names := crd.Status.AcceptedNames
	return func(dry bool) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		taken := d.taken(crd.Name, crd.Spec.Group)
		for _, name := range slices.Concat([]string{names.Plural, names.Singular}, names.ShortNames) {
			if name != "" && taken.Resources[name] {
				return errReplan
			}
		}
		if names.Kind != "" && taken.Kinds[names.Kind] || names.ListKind != "" && taken.Kinds[names.ListKind] {
			return errReplan
		}
		if !dry {
			d.reserved[crd.Name] = &customkinds.Definition{Name: crd.Name, Group: crd.Spec.Group, Accepted: names}
		}
		return nil
	}
}

// foreign refuses definitions in groups that the apiserver serves by itself.
func (d *definitions) foreign(obj object.Object) field.ErrorList {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok || !d.groups[crd.Spec.Group] {
		return nil
	}
	groups := slices.Sorted(maps.Keys(d.groups))
	return field.ErrorList{field.Forbidden(field.NewPath("spec", "group"), fmt.Sprintf("the groups %s are built in", strings.TrimPrefix(strings.Join(groups, ", "), ", ")))}
}

// definitionOpen refuses new objects of a kind whose definition is gone or going. It is
// called while a batch is formed, when memory holds every earlier write.
func (e *Engine) definitionOpen(kind *Kind, name string) error {
	if kind.Custom == nil {
		return nil
	}
	record, ok := e.store.Get(store.Key{Resource: definitionsResource, Name: kind.Custom.Definition})
	switch {
	case !ok || record.Index.UID != kind.Custom.UID:
		return unknownResource(kind.GroupResource())
	case record.Index.Deleting:
		return apierrors.NewForbidden(kind.GroupResource(), name, errorText("create not allowed while custom resource definition is terminating"))
	}
	return nil
}

func unknownResource(gr schema.GroupResource) error {
	err := apierrors.NewNotFound(gr, "")
	err.ErrStatus.Message = "the server could not find the requested resource (" + gr.String() + ")"
	return err
}
