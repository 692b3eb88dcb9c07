package transcode

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// op says how one value is written.
type op uint8

const (
	opString op = iota
	opBool
	opInt32
	opInt64
	opBytes
	opMessage
	opTime
	opMicroTime
	opQuantity
	opIntOrString
	opFields
)

// shape says how many values a field has.
type shape uint8

const (
	single   shape = iota // a value that is zero when absent
	pointer               // one value or none
	repeated              // a list
	keyed                 // a map from strings
)

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// field is the plan of one member of a struct.
type field struct {
	// key is `"name":`.
	key string
	// message is the plan of the value, for opMessage.
	message *message
	op      op
	shape   shape
	// wire is the protobuf wire type, tag the length of the tag in bytes.
	wire, tag uint8
	// omit leaves a zero value out though it is there.
	omit bool
	// inline puts the members of the value among those of the message around it.
	inline bool
}

// message is the plan of one Go struct. It is not changed once it is compiled.
type message struct {
	goType reflect.Type
	// decoded is true for structs that have to be decoded for their JSON; the plan has no
	// fields then.
	decoded bool
	// fields in the order of the JSON; at most maxFields.
	fields []field
	// positions in fields, plus one, by protobuf field number.
	positions []uint8
	// always has a bit for each field that is written even when it is absent.
	always uint64
	// head is written before the fields: apiVersion and kind.
	head string
	// versionField is the position of the resource version, plus one, in ObjectMeta.
	versionField int
}

const (
	maxFields = 64
	// maxNumber keeps tags within two bytes.
	maxNumber = 2047
	// versionNumber is the field number of ObjectMeta's resource version.
	versionNumber = 6
)

// compiler makes plans; each type has one.
type compiler map[reflect.Type]*message

// of returns the plan of a struct.
func (c compiler) of(t reflect.Type) *message {
	if m, ok := c[t]; ok {
		return m
	}
	m := &message{goType: t}
	c[t] = m // types refer to themselves
	if !c.fill(m) || !distinct(memberNames(m, nil)) {
		m.decoded, m.fields, m.positions, m.always = true, nil, nil, 0
	}
	if t == reflect.TypeFor[metav1.ObjectMeta]() && !m.decoded {
		m.versionField = int(m.positions[versionNumber])
	}
	return m
}

// fill plans the fields of a struct; false if one is beyond what plans can say.
func (c compiler) fill(m *message) bool {
	t := m.goType
	if hasMethods(t) {
		return false
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == reflect.TypeFor[metav1.TypeMeta]() && f.Anonymous && f.Tag.Get("protobuf") == "" {
			continue // travels in no encoding; head has it
		}
		number, planned, ok := c.field(f)
		if !ok || len(m.fields) == maxFields {
			return false
		}
		if planned.inline && planned.message.decoded {
			return false
		}
		if t == reflect.TypeFor[appsv1.StatefulSetSpec]() && f.Name == "VolumeClaimTemplates" {
			// As object.Decode says, claims inside of a set carry their kind.
			planned.message = withHead(planned.message, corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
		}
		if written(f, &planned) {
			m.always |= 1 << len(m.fields)
		}
		m.fields = append(m.fields, planned)
		if missing := number + 1 - len(m.positions); missing > 0 {
			m.positions = append(m.positions, make([]uint8, missing)...)
		}
		if m.positions[number] != 0 {
			return false
		}
		m.positions[number] = uint8(len(m.fields)) //nolint:gosec // at most maxFields
	}
	return true
}

// written tells whether a field appears in the JSON even when it is absent.
func written(f reflect.StructField, planned *field) bool {
	options := jsonOptions(f)
	if slices.Contains(options, "omitzero") {
		return false
	}
	return planned.inline || planned.shape == single && !planned.scalar() || !slices.Contains(options, "omitempty")
}

// field plans one field; ok is false if it cannot be.
func (c compiler) field(f reflect.StructField) (number int, planned field, ok bool) {
	parts := strings.Split(f.Tag.Get("protobuf"), ",")
	if len(parts) < 2 || !f.IsExported() {
		return 0, field{}, false
	}
	number, err := strconv.Atoi(parts[1])
	if err != nil || number < 1 || number > maxNumber {
		return 0, field{}, false
	}
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	options := jsonOptions(f)
	if name == "-" || slices.Contains(options, "string") {
		return 0, field{}, false
	}
	planned, ok = c.value(f.Type)
	if !ok {
		return 0, field{}, false
	}
	planned.tag = 1
	if number > 15 {
		planned.tag = 2
	}
	if f.Anonymous && name == "" {
		planned.inline = true
		return number, planned, planned.shape == single && planned.op == opMessage
	}
	if name == "" {
		name = f.Name
	}
	planned.key = quoted(name) + ":"
	empty, zero := slices.Contains(options, "omitempty"), slices.Contains(options, "omitzero")
	switch {
	case planned.shape != single: // there or not: whoever calls knows
	case planned.op == opTime || planned.op == opMicroTime:
		planned.omit = zero
	case planned.scalar():
		planned.omit = empty || zero
		ok = !zero || planned.op != opBytes
	default:
		ok = !zero
	}
	return number, planned, ok
}

// scalar is true for values that encoding/json can call empty.
func (f *field) scalar() bool { return f.wire == wireVarint || f.op == opString || f.op == opBytes }

// value plans the values of a Go type.
func (c compiler) value(t reflect.Type) (field, bool) {
	var f field
	var ok bool
	switch {
	case t.Kind() == reflect.Struct:
		f, ok = c.one(t)
	case hasMethods(t):
		return f, false
	case t.Kind() == reflect.Pointer:
		f, ok = c.one(t.Elem())
		f.shape = pointer
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		f, ok = c.one(t.Elem())
		f.shape = repeated
		ok = ok && f.op != opBytes
	case t.Kind() == reflect.Map:
		f, ok = c.one(t.Elem())
		f.shape = keyed
		ok = ok && t.Key().Kind() == reflect.String && !hasMethods(t.Key()) && f.wire == wireBytes
	default:
		f, ok = c.one(t)
	}
	return f, ok
}

// one plans a single value.
func (c compiler) one(t reflect.Type) (field, bool) {
	switch t {
	case reflect.TypeFor[metav1.Time]():
		return field{op: opTime, wire: wireBytes}, true
	case reflect.TypeFor[metav1.MicroTime]():
		return field{op: opMicroTime, wire: wireBytes}, true
	case reflect.TypeFor[resource.Quantity]():
		return field{op: opQuantity, wire: wireBytes}, true
	case reflect.TypeFor[intstr.IntOrString]():
		return field{op: opIntOrString, wire: wireBytes}, true
	case reflect.TypeFor[metav1.FieldsV1]():
		return field{op: opFields, wire: wireBytes}, true
	}
	if t.Kind() == reflect.Struct {
		if !reflect.PointerTo(t).Implements(reflect.TypeFor[unmarshaler]()) {
			return field{}, false
		}
		return field{op: opMessage, message: c.of(t), wire: wireBytes}, true
	}
	if hasMethods(t) {
		return field{}, false
	}
	switch t.Kind() {
	case reflect.String:
		return field{op: opString, wire: wireBytes}, true
	case reflect.Bool:
		return field{op: opBool, wire: wireVarint}, true
	case reflect.Int32:
		return field{op: opInt32, wire: wireVarint}, true
	case reflect.Int64, reflect.Int:
		return field{op: opInt64, wire: wireVarint}, true
	case reflect.Slice:
		return field{op: opBytes, wire: wireBytes}, t.Elem().Kind() == reflect.Uint8
	default:
		return field{}, false
	}
}

// unmarshaler reads protobuf.
type unmarshaler interface{ Unmarshal(data []byte) error }

// hasMethods tells whether a type says itself how it is written.
func hasMethods(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	if p.Implements(reflect.TypeFor[json.Marshaler]()) || p.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return true
	}
	return t.Kind() != reflect.Struct && p.Implements(reflect.TypeFor[unmarshaler]())
}

func jsonOptions(f reflect.StructField) []string {
	return strings.Split(f.Tag.Get("json"), ",")[1:]
}

// memberNames lists the names in the JSON of a struct.
func memberNames(m *message, names []string) []string {
	for i := range m.fields {
		if f := &m.fields[i]; f.inline {
			names = memberNames(f.message, names)
		} else {
			names = append(names, f.key)
		}
	}
	return names
}

// distinct tells whether no name occurs twice. If one did, encoding/json would choose.
func distinct(names []string) bool {
	slices.Sort(names)
	return len(slices.Compact(slices.Clone(names))) == len(names)
}

// withHead is the plan of objects that show their kind.
func withHead(m *message, gvk schema.GroupVersionKind) *message {
	out := *m
	out.head = `"kind":` + quoted(gvk.Kind) + `,"apiVersion":` + quoted(gvk.GroupVersion().String())
	return &out
}

func quoted(s string) string { return string(appendString(nil, []byte(s))) }
