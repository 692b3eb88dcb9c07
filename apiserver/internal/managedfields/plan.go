package managedfields

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// shape is how the parts of a value are owned.
type shape uint8

const (
	leaf      shape = iota // as a whole: scalars, and whatever is atomic
	structure              // field by field
	mapping                // entry by entry
	keyed                  // a list of structures, each known by its keys
	set                    // a list of scalars, each known by its value
)

// plan says how values of one Go type, at one place of a kind's schema, are owned. Plans
// are immutable and shared.
type plan struct {
	shape   shape
	pointer bool         // the Go value points to what the plan is about
	kind    reflect.Kind // of what the plan is about
	time    bool         // a metav1.Time or MicroTime, which is null when zero

	fields []field // of a structure, by name
	elem   *plan   // of a mapping or list
	keys   []key   // of a keyed list, by name
	equal  equal   // of a leaf, or of a list's items as a whole
	plain  bool    // a leaf that is never null
}

// field is a field of a structure.
type field struct {
	name  string
	text  string // `"f:name":`, as it stands in FieldsV1
	index []int
	omit  omission
	plan  *plan
}

// key is a field by which items of a list are known.
type key struct {
	name  string
	field field
	// missing stands for a key that is left out.
	missing keyValue
}

// omission is when a field does not appear in JSON.
type omission uint8

const (
	never omission = iota
	whenEmpty
	whenZero
)

//nolint:gochecknoglobals // constants
var (
	timeType      = reflect.TypeFor[metav1.Time]()
	microTimeType = reflect.TypeFor[metav1.MicroTime]()
	quantityType  = reflect.TypeFor[resource.Quantity]()
	intOrString   = reflect.TypeFor[intstr.IntOrString]()
	durationType  = reflect.TypeFor[metav1.Duration]()
	marshalerType = reflect.TypeFor[json.Marshaler]()
	zeroerType    = reflect.TypeFor[interface{ IsZero() bool }]()
)

// unowned are the fields of metadata that belong to nobody.
func unowned(name string) bool {
	switch name {
	case "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion":
		return true
	}
	return false
}

// compiler makes plans of a schema.
type compiler struct {
	schema *schema.Schema
	plans  map[planKey]*plan
	equals map[reflect.Type]*comparison
}

type planKey struct {
	goType reflect.Type
	name   string
	as     schema.ElementRelationship
}

// root makes the plan of a kind's object. It fails for types whose values are not all
// there in Go, such as arbitrary JSON.
func (c *compiler) root(ref schema.TypeRef, t reflect.Type) (*plan, error) {
	whole, err := c.compile(ref, t)
	if err != nil {
		return nil, err
	}
	if whole.shape != structure {
		return nil, errors.New("not a structure")
	}
	root := *whole
	root.fields = nil
	for _, f := range whole.fields {
		switch f.name {
		case "apiVersion", "kind":
			continue
		case "metadata":
			metadata := *f.plan
			metadata.fields = slices.DeleteFunc(slices.Clone(metadata.fields), func(f field) bool { return unowned(f.name) })
			f.plan = &metadata
		}
		root.fields = append(root.fields, f)
	}
	return &root, nil
}

func (c *compiler) compile(ref schema.TypeRef, t reflect.Type) (*plan, error) {
	atom, ok := c.schema.Resolve(ref)
	if !ok {
		return nil, fmt.Errorf("%s: no such type in the schema", t)
	}
	id := planKey{goType: t}
	if ref.NamedType != nil {
		id.name = *ref.NamedType
		if ref.ElementRelationship != nil {
			id.as = *ref.ElementRelationship
		}
		if p, ok := c.plans[id]; ok {
			return p, nil
		}
	}
	p := &plan{}
	if id.name != "" {
		c.plans[id] = p // a type may contain itself
	}
	if t.Kind() == reflect.Pointer {
		p.pointer, t = true, t.Elem()
	}
	p.kind, p.time = t.Kind(), t == timeType || t == microTimeType
	return p, c.fill(p, atom, t)
}

// fill completes the plan of values of t, which is no pointer.
func (c *compiler) fill(p *plan, atom schema.Atom, t reflect.Type) error {
	var err error
	switch {
	case atom.Scalar != nil:
		if !scalar(t) {
			return fmt.Errorf("%s is not a scalar", t)
		}
	case atom.List != nil:
		if p.kind != reflect.Slice || special(t) {
			return fmt.Errorf("%s is not a list", t)
		}
		if atom.List.ElementRelationship == schema.Atomic {
			break
		}
		if p.elem, err = c.compile(atom.List.ElementType, t.Elem()); err != nil {
			return err
		}
		if p.equal, err = c.equal(t.Elem()); err != nil {
			return err
		}
		if p.shape = set; len(atom.List.Keys) > 0 {
			p.shape = keyed
			return c.fillKeys(p, atom.List, t.Elem())
		}
		return keyable(p.elem)
	case atom.Map != nil:
		if p.kind != reflect.Struct && p.kind != reflect.Map || special(t) && atom.Map.ElementRelationship != schema.Atomic {
			return fmt.Errorf("%s is not a map", t)
		}
		if atom.Map.ElementRelationship == schema.Atomic {
			break
		}
		if p.kind == reflect.Struct {
			p.shape = structure
			return c.fillFields(p, atom.Map, t)
		}
		if t.Key().Kind() != reflect.String {
			return fmt.Errorf("%s: keys are not strings", t)
		}
		p.shape = mapping
		p.elem, err = c.compile(atom.Map.ElementType, t.Elem())
		return err
	}
	p.plain = !p.pointer && !p.time && p.kind != reflect.Slice && p.kind != reflect.Map
	p.equal, err = c.equal(t)
	return err
}

func (c *compiler) fillFields(p *plan, m *schema.Map, t reflect.Type) error {
	fields, err := jsonFields(t)
	if err != nil {
		return err
	}
	for i := range fields {
		f := &fields[i]
		ref := m.ElementType
		if declared, ok := m.FindField(f.name); ok {
			ref = declared.Type
		}
		if f.plan, err = c.compile(ref, t.FieldByIndex(f.index).Type); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	p.fields = fields
	return nil
}

func (c *compiler) fillKeys(p *plan, list *schema.List, item reflect.Type) error {
	if item.Kind() == reflect.Pointer {
		item = item.Elem()
	}
	atom, _ := c.schema.Resolve(list.ElementType)
	if atom.Map == nil || item.Kind() != reflect.Struct {
		return errors.New("items with keys are not structures")
	}
	fields, err := jsonFields(item)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(slices.Values(list.Keys)) {
		at, ok := slices.BinarySearchFunc(fields, name, func(f field, name string) int { return strings.Compare(f.name, name) })
		declared, known := atom.Map.FindField(name)
		if !ok || !known {
			return fmt.Errorf("items have no field %s", name)
		}
		k := key{name: name, field: fields[at]}
		if k.field.plan, err = c.compile(declared.Type, item.FieldByIndex(k.field.index).Type); err != nil {
			return err
		}
		if err := keyable(k.field.plan); err != nil {
			return err
		}
		switch value := declared.Default.(type) {
		case nil:
		case string:
			k.missing = keyValue{kind: textKey, text: value}
		case int:
			k.missing = keyValue{kind: numberKey, number: int64(value)}
		default:
			return fmt.Errorf("default of key %s is a %T", name, value)
		}
		p.keys = append(p.keys, k)
	}
	return nil
}

// keyable refuses what no item can be known by.
func keyable(p *plan) error {
	switch p.kind {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return nil
	}
	return fmt.Errorf("%s is no key", p.kind)
}

// special types have a JSON form of their own.
func special(t reflect.Type) bool {
	return t.Implements(marshalerType) || reflect.PointerTo(t).Implements(marshalerType)
}

// scalar tells whether values of t are one scalar in JSON.
func scalar(t reflect.Type) bool {
	switch t {
	case timeType, microTimeType, quantityType, intOrString, durationType:
		return true
	}
	if special(t) {
		return false
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return true
	case reflect.Slice:
		return t.Elem().Kind() == reflect.Uint8
	}
	return false
}

// jsonFields lists the fields that values of t have in JSON, by name.
func jsonFields(t reflect.Type) ([]field, error) {
	var all []field
	for f := range structFields(t) {
		tag := f.Tag.Get("json")
		if tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			if f.Type.Kind() != reflect.Struct {
				return nil, fmt.Errorf("%s: %s is embedded by a pointer", t, f.Name)
			}
			inner, err := jsonFields(f.Type)
			if err != nil {
				return nil, err
			}
			for _, in := range inner {
				in.index = append(slices.Clone(f.Index), in.index...)
				all = append(all, in)
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		entry := field{name: name, index: f.Index, text: string(appendField(nil, name))}
		for option := range strings.SplitSeq(options, ",") {
			switch {
			case option == "omitzero" && (f.Type.Implements(zeroerType) || reflect.PointerTo(f.Type).Implements(zeroerType)) && f.Type != timeType && f.Type != microTimeType:
				return nil, fmt.Errorf("%s: %s says itself when it is zero", t, f.Name)
			case option == "omitzero":
				entry.omit = whenZero
			case option == "omitempty" && entry.omit == never && f.Type.Kind() != reflect.Struct:
				entry.omit = whenEmpty
			}
		}
		all = append(all, entry)
	}
	slices.SortFunc(all, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

func structFields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
