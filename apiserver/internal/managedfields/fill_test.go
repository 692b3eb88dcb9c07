package managedfields_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// filler makes objects up.
type filler struct {
	*rand.Rand
	// sparse is the chance, in percent, that something optional is left out.
	sparse int
}

func (f filler) chance(percent int) bool { return f.IntN(100) < percent }

func (f filler) word() string {
	return []string{"a", "b", "c", "a.b/c", "x!", `q"q`, "<&>", "é ", "\\n"}[f.IntN(9)]
}

// fill sets v, which must be settable. Scalars of items of lists are never zero, so that
// their keys are there.
func (f filler) fill(v reflect.Value, depth int, item bool) {
	switch v.Interface().(type) {
	case metav1.Time:
		if !f.chance(f.sparse) {
			v.Set(reflect.ValueOf(metav1.Unix(int64(f.IntN(3)+1)*1000, 0)))
		}
		return
	case metav1.MicroTime:
		v.Set(reflect.ValueOf(metav1.NewMicroTime(time.Unix(int64(f.IntN(2)+1)*1000, int64(f.IntN(3))*1000))))
		return
	case resource.Quantity:
		v.Set(reflect.ValueOf(resource.MustParse([]string{"1", "1Ki", "100m", "1024", "0", "3.5"}[f.IntN(6)])))
		return
	case intstr.IntOrString:
		v.Set(reflect.ValueOf([]intstr.IntOrString{intstr.FromInt32(1), intstr.FromString("1"), intstr.FromString("b"), intstr.FromInt32(0)}[f.IntN(4)]))
		return
	case runtime.RawExtension:
		v.Set(reflect.ValueOf(runtime.RawExtension{Raw: fmt.Appendf(nil, `{"a":%d,"b":{"c":%d}}`, f.IntN(3), f.IntN(3))}))
		return
	case corev1.Protocol: // a key with a default
		v.SetString([]string{"", "TCP", "UDP"}[f.IntN(3)])
		return
	case metav1.FieldsV1, []metav1.ManagedFieldsEntry:
		return
	}
	if !item && f.chance(f.sparse) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if depth == 0 {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), depth-1, item)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i), depth-1, item && v.Field(i).Kind() != reflect.Pointer && v.Field(i).Kind() != reflect.Slice && v.Field(i).Kind() != reflect.Map)
			}
		}
	case reflect.Slice:
		if depth <= 0 {
			return
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(f.word()))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), f.IntN(4), 4))
		for i := range v.Len() {
			f.fill(v.Index(i), depth-1, true)
		}
	case reflect.Map:
		if depth <= 0 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range f.IntN(4) {
			f.entry(v, depth)
		}
	case reflect.String:
		v.SetString(f.word())
	case reflect.Bool:
		v.SetBool(item || f.chance(50))
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Int16, reflect.Int8:
		v.SetInt(int64([]int{1, 2, 10, 80, 8080}[f.IntN(5)] % 120))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(f.IntN(3) + 1))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(f.IntN(3)) + 0.5)
	}
}

func (f filler) entry(m reflect.Value, depth int) {
	key := reflect.New(m.Type().Key()).Elem()
	key.SetString(f.word())
	elem := reflect.New(m.Type().Elem()).Elem()
	f.fill(elem, depth-1, true)
	m.SetMapIndex(key, elem)
}

// change alters v here and there.
func (f filler) change(v reflect.Value, item bool) {
	switch v.Interface().(type) {
	case metav1.Time, metav1.MicroTime, resource.Quantity, intstr.IntOrString, runtime.RawExtension:
		if f.chance(8) {
			f.fill(v, 3, true)
		}
		return
	case metav1.FieldsV1, []metav1.ManagedFieldsEntry:
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		switch {
		case f.chance(5) && !item:
			v.SetZero()
			f.fill(v, 4, false)
		case !v.IsNil():
			f.change(v.Elem(), item)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.change(v.Field(i), item && v.Field(i).Kind() != reflect.Pointer && v.Field(i).Kind() != reflect.Slice && v.Field(i).Kind() != reflect.Map)
			}
		}
	case reflect.Slice:
		f.changeSlice(v)
	case reflect.Map:
		if f.chance(5) {
			v.SetZero()
			f.fill(v, 4, false)
		}
		if f.chance(10) && !v.IsNil() {
			f.entry(v, 4)
		}
		for _, key := range v.MapKeys() {
			if f.chance(10) {
				v.SetMapIndex(key, reflect.Value{})
			}
		}
	default:
		if f.chance(5) {
			if !item {
				v.SetZero()
			}
			f.fill(v, 2, item)
		}
	}
}

func (f filler) changeSlice(v reflect.Value) {
	if f.chance(4) || v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetZero()
		f.fill(v, 4, false)
		return
	}
	if f.chance(8) {
		more := reflect.New(v.Type().Elem()).Elem()
		f.fill(more, 4, true)
		v.Set(reflect.Append(v, more))
	}
	if f.chance(8) && v.Len() > 1 {
		reflect.Swapper(v.Interface())(0, v.Len()-1)
	}
	if f.chance(8) && v.Len() > 0 {
		v.Set(v.Slice(0, v.Len()-1))
	}
	for i := range v.Len() {
		f.change(v.Index(i), true)
	}
}
