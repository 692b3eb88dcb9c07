package object

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// CheckReadable refuses what only the protobuf form of an object can say: text that is no
// UTF-8, times that no four digits of a year hold, raw JSON that is none, an IntOrString
// that is neither. One such object would make every list that shows it unreadable to
// whoever reads JSON. The error names the Go path of the field. obj must be a pointer; it is not changed.
func CheckReadable(obj any) error {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("%T is no object", obj)
	}
	return checkOf(v.Type().Elem())(v.Elem())
}

// A check looks at one value of a type.
type check func(v reflect.Value) error

// checks holds the check of each type that has been asked about, by reflect.Type.
//
//nolint:gochecknoglobals // a cache of what the program's types are
var checks sync.Map

// checkOf returns the check of a type; never nil.
func checkOf(t reflect.Type) check {
	if known, ok := checks.Load(t); ok {
		return known.(check)
	}
	// A type that holds itself finds this one, which waits until the real one is made.
	var real check
	var made sync.WaitGroup
	made.Add(1)
	if other, raced := checks.LoadOrStore(t, check(func(v reflect.Value) error { made.Wait(); return real(v) })); raced {
		return other.(check)
	}
	real = makeCheck(t)
	made.Done()
	checks.Store(t, real)
	return real
}

func nothing(reflect.Value) error { return nil }

func makeCheck(t reflect.Type) check {
	switch t {
	case reflect.TypeFor[metav1.Time]():
		return func(v reflect.Value) error { return checkTime(v.Field(0).Interface().(time.Time)) }
	case reflect.TypeFor[metav1.MicroTime]():
		return func(v reflect.Value) error { return checkTime(v.Field(0).Interface().(time.Time)) }
	case reflect.TypeFor[metav1.FieldsV1](), reflect.TypeFor[runtime.RawExtension]():
		return func(v reflect.Value) error { return checkRaw(v.FieldByName("Raw").Bytes()) }
	case reflect.TypeFor[intstr.IntOrString]():
		return func(v reflect.Value) error {
			if is := v.Interface().(intstr.IntOrString); is.Type != intstr.Int && is.Type != intstr.String {
				return fmt.Errorf(": %d is no type of an IntOrString", is.Type)
			}
			return checkText(v.FieldByName("StrVal"))
		}
	}
	switch t.Kind() {
	case reflect.String:
		return checkText
	case reflect.Pointer:
		inner := checkOf(t.Elem())
		return func(v reflect.Value) error {
			if v.IsNil() {
				return nil
			}
			return inner(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		return checkElements(t)
	case reflect.Map:
		return checkMap(t)
	case reflect.Struct:
		return checkStruct(t)
	default:
		return nothing
	}
}

func checkTime(t time.Time) error {
	if year := t.UTC().Year(); year < 0 || year > 9999 {
		return fmt.Errorf(": the year %d has no four digits", year)
	}
	return nil
}

// maxRawDepth bounds the nesting of raw JSON, as the decoders of JSON do.
const maxRawDepth = 1000

// checkRaw reads raw JSON; none at all is fine, and so is null.
func checkRaw(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	if !json.Valid(raw) || !utf8.Valid(raw) {
		return fmt.Errorf(": %.32q is no JSON", raw)
	}
	if err := CheckDepth(raw, maxRawDepth); err != nil {
		return fmt.Errorf(": %w", err)
	}
	return nil
}

// CheckDepth refuses JSON that is nested deeper than limit. text need not be valid.
func CheckDepth(text []byte, limit int) error {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			if depth++; depth > limit {
				return fmt.Errorf("nested deeper than %d", limit)
			}
		case '}', ']':
			depth--
		case '"':
			i += stringEnd(text[i+1:])
		}
	}
	return nil
}

// stringEnd returns how many bytes follow until behind the quote that ends a string.
func stringEnd(text []byte) int {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

func checkText(v reflect.Value) error {
	if text := v.String(); !utf8.ValidString(text) {
		return fmt.Errorf(": %.32q is no UTF-8", text)
	}
	return nil
}

func checkElements(t reflect.Type) check {
	if t.Elem().Kind() == reflect.Uint8 {
		return nothing // bytes are any
	}
	inner := checkOf(t.Elem())
	return func(v reflect.Value) error {
		for i := range v.Len() {
			if err := inner(v.Index(i)); err != nil {
				return fmt.Errorf("[%d]%w", i, err)
			}
		}
		return nil
	}
}

func checkMap(t reflect.Type) check {
	key, inner := checkOf(t.Key()), checkOf(t.Elem())
	return func(v reflect.Value) error {
		for entries := v.MapRange(); entries.Next(); {
			if err := key(entries.Key()); err != nil {
				return fmt.Errorf("[]%w", err)
			}
			if err := inner(entries.Value()); err != nil {
				return fmt.Errorf("[%q]%w", entries.Key(), err)
			}
		}
		return nil
	}
}

func checkStruct(t reflect.Type) check {
	type member struct {
		index int
		name  string
		check check
	}
	var members []member
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && mayMatter(f.Type) {
			members = append(members, member{i, "." + f.Name, checkOf(f.Type)})
		}
	}
	return func(v reflect.Value) error {
		for i := range members {
			if err := members[i].check(v.Field(members[i].index)); err != nil {
				return fmt.Errorf("%s%w", members[i].name, err)
			}
		}
		return nil
	}
}

// mayMatter leaves out what has nothing to look at.
func mayMatter(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int32, reflect.Int64, reflect.Float64, reflect.Interface:
		return false
	default:
		return true
	}
}
