package object_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/platform/kube/object"
)

const widget = `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"b","labels":{"x":"y"}},"spec":{"big":9007199254740993,"list":[1,2.5,"three",null]},"status":{}}`

func TestCustomObjectsKeepTheirContent(t *testing.T) {
	obj, strict, err := object.DecodeCustom([]byte(widget))
	if err != nil || len(strict) > 0 {
		t.Fatal(err, strict)
	}
	packed, err := object.Pack(obj)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := packed.GetTypeUrl(), "type.googleapis.com/kijabi.object.v1.JSONObject"; got != want {
		t.Errorf("type url %q, want %q", got, want)
	}
	back, err := object.Unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]object.Object{"decoded": obj, "unpacked": back, "copied": back.DeepCopyObject().(object.Object)} {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal([]byte(widget), &want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if !bytes.Contains(text, []byte("9007199254740993")) {
			t.Errorf("%s: whole numbers lose precision: %s", name, text)
		}
	}
}

// A second occurrence of the metadata adds to the first, as the store needs it.
func TestCustomMetadataIsMerged(t *testing.T) {
	obj, _, err := object.DecodeCustom([]byte(widget))
	if err != nil {
		t.Fatal(err)
	}
	obj.Revision = 7
	encoded, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	stamped := append(encoded, 0x0a, 4, 0x32, 2, '4', '2')
	kind := object.CustomKind(schema.GroupVersionKind{Group: "example.com", Version: "v2", Kind: "Widget"}, "widgets", true)
	out, err := object.Decode(kind, stamped)
	if err != nil {
		t.Fatal(err)
	}
	if out.GetResourceVersion() != "42" || out.GetName() != "a" || out.GetLabels()["x"] != "y" {
		t.Errorf("metadata %+v", out.(*object.Custom).ObjectMeta)
	}
	if got := out.GetObjectKind().GroupVersionKind(); got != kind.GVK {
		t.Errorf("read as %s, want %s", got, kind.GVK)
	}
	if got := object.RevisionOf(stamped); got != 7 {
		t.Errorf("revision %d", got)
	}
}

func TestCustomStrictErrors(t *testing.T) {
	_, strict, err := object.DecodeCustom([]byte(`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","other":"b"},"spec":{"a":1,"a":2}}`))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, one := range strict {
		texts = append(texts, one.Error())
	}
	if diff := cmp.Diff([]string{`duplicate field "spec.a"`, `unknown field "metadata.other"`}, texts); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{`[]`, `null`, `{"metadata":3}`, `{"metadata":{"name":3}}`} {
		if _, _, err := object.DecodeCustom([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	broken := &object.Custom{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	encoded, _ := broken.Marshal()
	if err := broken.Unmarshal(append(encoded, 0x22, 1, '[')); err == nil {
		t.Error("content that is no object is accepted")
	}
}
