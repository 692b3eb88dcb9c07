package store_test

import (
	"testing"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

func TestAppendedVersionMerges(t *testing.T) {
	for _, kind := range object.Kinds() {
		obj := kind.New()
		obj.SetName("name")
		obj.SetLabels(map[string]string{"k": "v"})
		value, err := obj.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		for _, version := range []uint64{7, 1 << 40} {
			value = store.AppendVersion(value, version)
			got, err := object.Decode(kind, value)
			if err != nil {
				t.Fatalf("%s: %v", kind.GVK, err)
			}
			if got.GetName() != "name" || got.GetLabels()["k"] != "v" || got.GetResourceVersion() != object.FormatVersion(version) {
				t.Errorf("%s at %d: decoded name %q labels %v version %q", kind.GVK, version, got.GetName(), got.GetLabels(), got.GetResourceVersion())
			}
		}
	}
}
