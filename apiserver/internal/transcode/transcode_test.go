package transcode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// filler fills objects at random, with a liking for values at the edges.
type filler struct{ *rand.Rand }

func (f filler) text() string {
	samples := []string{
		"", "a", "nginx", "registry.example.com/team/app:v1.2.3", "<b>&amp;</b>", "quote\" back\\slash", "tab\tline\nend\r\b\f\x00\x1f\x7f",
		"키잡이", "κυβερνήτης ist lang genug für Wörter", "\u2028\u2029", "bad\xff\xfeutf8\xc3", "\xed\xa0\x80 surrogate", "12345678", "123456\"89", "1234567<", "😀",
	}
	text := samples[f.IntN(len(samples))]
	if f.IntN(3) == 0 {
		text += samples[f.IntN(len(samples))]
	}
	return text
}

func (f filler) quantity() resource.Quantity {
	samples := []string{"0", "1", "100m", "1000m", "1500m", "2000", "1Gi", "1024Mi", "1536Mi", "0.5", "1e3", "1E", "5Ti", "8Ki", "1001Ki", "-3", "1.500", "+7", "123456789", "1234567890", "1n", "10u", "0.1Gi", "1M", "1000k", "2048G", "9223372036854775807Ki"}
	q := resource.MustParse(samples[f.IntN(len(samples))])
	if f.IntN(2) == 0 {
		q.Add(resource.MustParse("1")) // forgets the text
	}
	return q
}

func (f filler) time() time.Time {
	switch f.IntN(4) {
	case 0:
		return time.Time{}
	case 1:
		return time.Unix(0, 0)
	default:
		return time.Unix(f.Int64N(1<<34)-1<<33, f.Int64N(1e9))
	}
}

func (f filler) special(v reflect.Value) bool {
	switch into := v.Addr().Interface().(type) {
	case *metav1.TypeMeta: // travels in no encoding
	case *metav1.Time:
		into.Time = f.time()
	case *metav1.MicroTime:
		into.Time = f.time()
	case *resource.Quantity:
		*into = f.quantity()
	case *intstr.IntOrString:
		if *into = intstr.FromInt32(f.Int32N(9) - 1); f.IntN(2) == 0 {
			*into = intstr.FromString(f.text())
		}
	case *metav1.FieldsV1:
		samples := []string{"", "{}", `{"f:a":{}}`, `{"f:metadata":{"f:labels":{".":{},"f:app":{}},"k:{\"a\":\"b\"}":{"f:x":{}}},"f:z":{}}`, `{ "a" : {} }`, `{"a":1}`, `{"<":{}}`, `null`, `{"a":{},"b":{"c":{}}}`}
		into.SetRawString(samples[f.IntN(len(samples))])
	case *apiextensionsv1.JSON:
		samples := []string{"null", `{"a":[1,2]}`, `"<&>"`}
		into.Raw = []byte(samples[f.IntN(len(samples))])
	case *runtime.RawExtension:
		samples := []string{"", `{"a":[1,2,{"b":null}]}`, ` { "x" : "<&>" } `, `"text"`}
		if sample := samples[f.IntN(len(samples))]; sample != "" {
			into.Raw = []byte(sample)
		}
	default:
		return false
	}
	return true
}

func (f filler) fill(v reflect.Value, depth int) {
	if v.CanAddr() && f.special(v) {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if depth == 0 || f.IntN(depth+3) < 2 { // leaves zero what lies deep
				f.fill(v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), depth)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), f.IntN(4), 4))
		for i := range v.Len() {
			f.fill(v.Index(i), depth)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range f.IntN(4) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(key, depth)
			f.fill(value, depth)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(f.text())
	case reflect.Bool:
		v.SetBool(f.IntN(2) == 0)
	case reflect.Uint8:
		v.SetUint(f.Uint64N(256))
	case reflect.Int32, reflect.Int64:
		samples := []int64{0, 1, -1, 80, math.MaxInt32, math.MinInt32}
		v.SetInt(samples[f.IntN(len(samples))])
		if v.Kind() == reflect.Int64 && f.IntN(4) == 0 {
			v.SetInt(f.Int64() - math.MaxInt64/2)
		}
	case reflect.Float64:
		samples := []float64{0, 1, -2.5, 1e21, 1e-9}
		v.SetFloat(samples[f.IntN(len(samples))])
	default:
		panic(fmt.Sprintf("the filler does not know %s", v.Type()))
	}
}

// viaDecoding is how objects are written without this package.
func viaDecoding(kind object.Kind, value []byte, item bool) ([]byte, error) {
	obj, err := object.Decode(kind, value)
	if err != nil {
		return nil, err
	}
	if item {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(obj); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// compare checks both forms of a value; fast is false if it was decoded.
func compare(t *testing.T, all *Transcoders, kind object.Kind, value []byte) {
	t.Helper()
	one := all.Of(kind)
	for form, item := range map[string]bool{"whole": false, "item": true} {
		want, wantErr := viaDecoding(kind, value, item)
		transcode := one.Append
		if item {
			transcode = one.AppendItem
		}
		got, err := transcode([]byte("before{"), value)
		if wantErr != nil {
			if err == nil {
				t.Fatalf("%s %s: %x is accepted as %s, but decoding says: %v", form, kind.GVK.Kind, value, got, wantErr)
			}
			want = nil
		} else if err != nil {
			t.Fatalf("%s %s: %v, want %s", form, kind.GVK.Kind, err, want)
		}
		if want = append([]byte("before{"), want...); !bytes.Equal(got, want) {
			t.Fatalf("%s %s:\n%s", form, kind.GVK.Kind, cmp.Diff(string(want), string(got)))
		}
	}
}

// planned tells whether a value is written without decoding it.
func planned(tr *Transcoder, value []byte) bool {
	if tr.item.decoded {
		return false
	}
	w := writer{value: value}
	_, ok := w.object(nil, tr.item, span{0, uint32(len(value))}, 0, 0)
	return ok
}

// Filled objects of all kinds, as the store keeps them, are written as decoding writes them.
func TestEveryKindIsWrittenAsDecoded(t *testing.T) {
	var all Transcoders
	for i, kind := range object.Kinds() {
		t.Run(kind.GVK.Kind+"."+kind.GVK.GroupVersion().String(), func(t *testing.T) {
			f := filler{rand.New(rand.NewPCG(uint64(i), 1))} //nolint:gosec // the same objects each time
			for round := range 300 {
				obj := kind.New()
				if round > 0 {
					f.fill(reflect.ValueOf(obj).Elem(), round%3)
				}
				obj.SetResourceVersion("")
				value, err := obj.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				compare(t, &all, kind, value)
				compare(t, &all, kind, store.AppendVersion(value, uint64(round)<<20))
			}
		})
	}
}

// decodedTypes are those whose plan is to decode them. Others are a loss of speed.
var decodedTypes = []string{"v1.JSON", "v1.JSONSchemaProps", "v1.CertificateSigningRequestSpec", "v1.SubjectAccessReviewSpec", "v1.TokenRequestSpec", "v1.UserInfo", "runtime.RawExtension"}

func TestTypesAreTranscoded(t *testing.T) {
	var all Transcoders
	for _, kind := range object.Kinds() {
		all.Of(kind)
	}
	allowed := map[string]bool{}
	for _, name := range decodedTypes {
		allowed[name] = true
	}
	for goType, m := range all.plans {
		if m.decoded && !allowed[goType.String()] {
			t.Errorf("%s is decoded", goType)
		}
	}
}

// Of what encoders write nothing is decoded as a whole.
func TestStoredObjectsAreNotDecoded(t *testing.T) {
	var all Transcoders
	f := filler{rand.New(rand.NewPCG(7, 7))} //nolint:gosec // the same objects each time
	for _, kind := range object.Kinds() {
		for range 20 {
			obj := kind.New()
			f.fill(reflect.ValueOf(obj).Elem(), 2)
			obj.SetResourceVersion("")
			obj.SetManagedFields(nil) // of some samples only decoding knows that they are wrong
			value, err := obj.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			value = store.AppendVersion(value, 1<<40)
			if _, err := viaDecoding(kind, value, true); err == nil && !planned(all.Of(kind), value) {
				t.Fatalf("%s is decoded: %s", kind.GVK.Kind, obj)
			}
		}
	}
}

func TestMetadataOfAnyKind(t *testing.T) {
	var all Transcoders
	gvk := schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: "PartialObjectMetadata"}
	pod := usualPod(3)
	value, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := all.OfMetadata(gvk).Append(nil, store.AppendVersion(value, 99))
	if err != nil {
		t.Fatal(err)
	}
	partial := &metav1.PartialObjectMetadata{ObjectMeta: pod.ObjectMeta}
	partial.SetGroupVersionKind(gvk)
	partial.ResourceVersion = "99"
	want, err := json.Marshal(partial)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

// Encodings that no encoder of these types makes mean what they mean to the decoder.
func TestUnusualEncodings(t *testing.T) {
	var all Transcoders
	kind := object.KindOf[*corev1.Pod]()
	value, err := usualPod(1).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	add := func(more ...byte) []byte { return append(bytes.Clone(value), more...) }
	for name, value := range map[string][]byte{
		"empty":                  {},
		"metadata merged":        add(0x0a, 5, 0x0a, 3, 'n', 'e', 'w'),
		"two versions":           store.AppendVersion(store.AppendVersion(bytes.Clone(value), 1), 2),
		"version in between":     append(store.AppendVersion(bytes.Clone(value), 1), value...),
		"version alone":          store.AppendVersion(nil, 5),
		"spec merged":            add(0x12, 4, 0x52, 2, 'n', '1'),
		"twice":                  add(value...),
		"unknown fields":         add(0x78, 1, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x7d, 1, 2, 3, 4, 0x7a, 1, 'x'),
		"unknown group":          add(0x7b, 0x08, 1, 0x7c),
		"field zero":             add(0x02, 0),
		"wrong wire type":        add(0x08, 1),
		"end of a group":         add(0x0c),
		"truncated":              value[:len(value)-1],
		"length beyond the end":  add(0x12, 0x7f),
		"huge length":            add(0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"endless tag":            add(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"long tag":               {0x8a, 0x00, 3, 0x0a, 1, 'a'},
		"labels out of order":    {0x0a, 16, 0x5a, 6, 0x0a, 1, 'b', 0x12, 1, '1', 0x5a, 6, 0x0a, 1, 'a', 0x12, 1, '2'},
		"label twice":            {0x0a, 16, 0x5a, 6, 0x0a, 1, 'a', 0x12, 1, '1', 0x5a, 6, 0x0a, 1, 'a', 0x12, 1, '2'},
		"label without value":    {0x0a, 5, 0x5a, 3, 0x0a, 1, 'a'},
		"label backwards":        {0x0a, 8, 0x5a, 6, 0x12, 1, '1', 0x0a, 1, 'a'},
		"labels with a gap":      {0x0a, 19, 0x5a, 6, 0x0a, 1, 'a', 0x12, 1, '1', 0x0a, 1, 'n', 0x5a, 6, 0x0a, 1, 'b', 0x12, 1, '2'},
		"finalizers with a gap":  {0x0a, 9, 0x72, 1, 'a', 0x0a, 1, 'n', 0x72, 1, 'b'},
		"quantity too long":      {0x12, 18, 0x82, 0x02, 15, 0x0a, 3, 'c', 'p', 'u', 0x12, 8, 0x0a, 6, '1', '0', '2', '4', 'M', 'i'},
		"quantity of thousands":  {0x12, 16, 0x82, 0x02, 13, 0x0a, 3, 'c', 'p', 'u', 0x12, 6, 0x0a, 4, '2', '0', '0', '0'},
		"packed numbers":         {0x12, 6, 0x72, 4, 0x22, 2, 1, 2},
		"time without seconds":   {0x0a, 4, 0x42, 2, 0x10, 5},
		"time of two values":     {0x0a, 6, 0x42, 4, 0x08, 1, 0x08, 2},
		"times":                  {0x0a, 8, 0x42, 2, 0x08, 1, 0x42, 2, 0x08, 2},
		"number beyond 32 bits":  {0x12, 8, 0x28, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
		"false of many bytes":    {0x12, 4, 0x58, 0x80, 0x80, 0x00},
		"quantity of nonsense":   {0x12, 14, 0x82, 0x02, 11, 0x0a, 3, 'c', 'p', 'u', 0x12, 4, 0x0a, 2, 'x', 'y'},
		"quantity of nothing":    {0x12, 10, 0x82, 0x02, 7, 0x0a, 3, 'c', 'p', 'u', 0x12, 0},
		"intstr of another type": {0x12, 22, 0x12, 20, 0x62, 18, 0x1a, 16, 0x0a, 14, 0x12, 10, 0x12, 8, 0x08, 7, 0x10, 1, 0x1a, 2, 'a', 'b'},
	} {
		t.Run(name, func(t *testing.T) { compare(t, &all, kind, value) })
	}
}

func FuzzAppend(f *testing.F) {
	var all Transcoders
	kinds := object.Kinds()
	random := filler{rand.New(rand.NewPCG(3, 3))} //nolint:gosec // the same objects each time
	for i, kind := range kinds {
		obj := kind.New()
		random.fill(reflect.ValueOf(obj).Elem(), 1)
		value, err := obj.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), value)
		f.Add(byte(i), store.AppendVersion(value, 77))
	}
	f.Fuzz(func(t *testing.T, number byte, value []byte) {
		compare(t, &all, kinds[int(number)%len(kinds)], value)
	})
}

func FuzzStringsAndQuantities(f *testing.F) {
	for _, s := range []string{"", "a", "100m", "1Gi", "1000", "12345678<", "x\xff", "\u2028", `{"f:a":{}}`, `{"k:{\"a\":\"b\"}":{".":{}},"b":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		want, err := json.Marshal(string(s))
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, s); !bytes.Equal(got, want) {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
		if canonical(s) {
			q := resource.Quantity{}
			if err := q.Unmarshal(append([]byte{0x0a, byte(len(s))}, s...)); err != nil {
				t.Fatalf("%q: %v", s, err)
			}
			q.Neg()
			q.Neg() // forgets the text
			if got := q.String(); got != string(s) {
				t.Errorf("%q is written as %q", s, got)
			}
		}
		if compactFields(s) {
			if got, err := json.Marshal(metav1.NewFieldsV1(string(s))); err != nil || !bytes.Equal(got, s) {
				t.Errorf("%s: %s, %v", s, got, err)
			}
		}
	})
}
