package store_test

import (
	"testing"

	"pgregory.net/rapid"

	"kijabi.dev/apiserver/internal/store"
)

func TestAttributesAreTheMap(t *testing.T) {
	names := rapid.StringMatching(`[a-c]{0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.MapOfN(names, rapid.String(), 0, 8).Draw(t, "values")
		a := store.AttributesOf(values)
		if len(a) != len(values) {
			t.Fatalf("%d attributes of %d", len(a), len(values))
		}
		for _, name := range append(rapid.SliceOf(names).Draw(t, "names"), "a", "") {
			want, ok := values[name]
			if got, found := a.Lookup(name); got != want || found != ok || a.Get(name) != want || a.Has(name) != ok {
				t.Fatalf("%q: got %q, %v, want %q, %v in %v", name, got, found, want, ok, a)
			}
		}
	})
}
