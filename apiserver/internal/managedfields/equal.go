package managedfields

import (
	"bytes"
	"fmt"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// equal tells whether two values have the same JSON.
type equal func(a, b reflect.Value) bool

// comparison is an equal that is being made: types contain each other.
type comparison struct{ equal equal }

// equal makes the comparison of values of t.
func (c *compiler) equal(t reflect.Type) (equal, error) {
	if known, ok := c.equals[t]; ok {
		return func(a, b reflect.Value) bool { return known.equal(a, b) }, nil
	}
	made := &comparison{}
	c.equals[t] = made
	var err error
	made.equal, err = c.newEqual(t)
	return made.equal, err
}

func (c *compiler) newEqual(t reflect.Type) (equal, error) {
	switch t {
	case timeType:
		return sameSecond, nil
	case microTimeType:
		return sameMicrosecond, nil
	case quantityType:
		return sameQuantity, nil
	case intOrString:
		return sameIntOrString, nil
	case durationType:
		return func(a, b reflect.Value) bool { return a.Field(0).Int() == b.Field(0).Int() }, nil
	}
	if t.Kind() != reflect.Pointer && special(t) {
		if t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Type.Kind() == reflect.Slice && t.Field(0).Type.Elem().Kind() == reflect.Uint8 {
			// Raw JSON. Rewritten JSON counts as changed.
			return func(a, b reflect.Value) bool { return bytes.Equal(a.Field(0).Bytes(), b.Field(0).Bytes()) }, nil
		}
		return nil, fmt.Errorf("%s has a JSON form of its own", t)
	}
	switch t.Kind() {
	case reflect.String:
		return func(a, b reflect.Value) bool { return a.String() == b.String() }, nil
	case reflect.Bool:
		return func(a, b reflect.Value) bool { return a.Bool() == b.Bool() }, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(a, b reflect.Value) bool { return a.Int() == b.Int() }, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return func(a, b reflect.Value) bool { return a.Uint() == b.Uint() }, nil
	case reflect.Float32, reflect.Float64:
		return func(a, b reflect.Value) bool { return a.Float() == b.Float() }, nil
	case reflect.Pointer:
		return c.equalPointers(t)
	case reflect.Slice:
		return c.equalSlices(t)
	case reflect.Map:
		return c.equalMaps(t)
	case reflect.Struct:
		return c.equalStructs(t)
	}
	return nil, fmt.Errorf("%s cannot be compared", t)
}

func (c *compiler) equalPointers(t reflect.Type) (equal, error) {
	elem, err := c.equal(t.Elem())
	return func(a, b reflect.Value) bool {
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return elem(a.Elem(), b.Elem())
	}, err
}

func (c *compiler) equalSlices(t reflect.Type) (equal, error) {
	if t.Elem().Kind() == reflect.Uint8 {
		return func(a, b reflect.Value) bool { return a.IsNil() == b.IsNil() && bytes.Equal(a.Bytes(), b.Bytes()) }, nil
	}
	elem, err := c.equal(t.Elem())
	return func(a, b reflect.Value) bool {
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		for i := range a.Len() {
			if !elem(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	}, err
}

func (c *compiler) equalMaps(t reflect.Type) (equal, error) {
	elem, err := c.equal(t.Elem())
	return func(a, b reflect.Value) bool {
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		for entries := a.MapRange(); entries.Next(); {
			other := b.MapIndex(entries.Key())
			if !other.IsValid() || !elem(entries.Value(), other) {
				return false
			}
		}
		return true
	}, err
}

func (c *compiler) equalStructs(t reflect.Type) (equal, error) {
	fields, err := jsonFields(t)
	if err != nil {
		return nil, err
	}
	equals := make([]equal, len(fields))
	for i := range fields {
		if equals[i], err = c.equal(t.FieldByIndex(fields[i].index).Type); err != nil {
			return nil, fmt.Errorf("%s: %w", fields[i].name, err)
		}
	}
	return func(a, b reflect.Value) bool {
		for i := range fields {
			f := &fields[i]
			left, right := f.of(a), f.of(b)
			if l, r := f.omitted(left), f.omitted(right); l || r {
				if l != r {
					return false
				}
				continue
			}
			if !equals[i](left, right) {
				return false
			}
		}
		return true
	}, nil
}

func sameSecond(a, b reflect.Value) bool {
	left, right := timeOf(a), timeOf(b)
	return left.IsZero() == right.IsZero() && left.Unix() == right.Unix()
}

func sameMicrosecond(a, b reflect.Value) bool {
	left, right := timeOf(a), timeOf(b)
	return left.IsZero() == right.IsZero() && left.UnixMicro() == right.UnixMicro()
}

// timeOf reads a metav1.Time or MicroTime.
func timeOf(v reflect.Value) time.Time {
	if v = v.Field(0); v.CanAddr() {
		return *v.Addr().Interface().(*time.Time) // a pointer in an interface is not allocated
	}
	return v.Interface().(time.Time)
}

func sameQuantity(a, b reflect.Value) bool {
	left, right := quantityOf(a), quantityOf(b)
	if left.Format == right.Format {
		return left.Cmp(right) == 0
	}
	return left.String() == right.String()
}

func quantityOf(v reflect.Value) resource.Quantity {
	if v.CanAddr() {
		return *v.Addr().Interface().(*resource.Quantity)
	}
	return v.Interface().(resource.Quantity)
}

func sameIntOrString(a, b reflect.Value) bool {
	left, right := a.Interface().(intstr.IntOrString), b.Interface().(intstr.IntOrString)
	if left.Type != right.Type {
		return false
	}
	if left.Type == intstr.String {
		return left.StrVal == right.StrVal
	}
	return left.IntVal == right.IntVal
}
