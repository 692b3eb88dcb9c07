package registry_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/fuzztest"
	"kijabi.dev/apiserver/internal/registry"
)

// repeated joins n copies of a format that takes their number.
func repeated(n int, format string) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(parts, ",")
}

// Patches that would take minutes or all memory are refused before they do.
func TestPatchesThatCostTooMuch(t *testing.T) {
	m := leader(t)
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("c"), none))
	must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod("p"), none))
	for _, c := range []struct {
		name, resource, object string
		kind                   types.PatchType
		patch, says            string
	}{
		{"bytes", "configmaps", "c", types.MergePatchType, `{"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, "3145728"},
		{"operations", "configmaps", "c", types.JSONPatchType, "[" + repeated(10_001, `{"op":"test","path":"/data/key","value":"value%.0d"}`) + "]", "10000"},
		{
			"copies that double", "configmaps", "c", types.JSONPatchType,
			`[{"op":"add","path":"/x","value":{"a":"` + strings.Repeat("y", 1000) + `"}},` + repeated(30, `{"op":"copy","from":"/x","path":"/x/a%d"}`) + "]", "copy",
		},
		{
			"insertions into a long array", "configmaps", "c", types.JSONPatchType,
			`[{"op":"add","path":"/x","value":[1` + strings.Repeat(",1", 1_000_000) + `]},` + repeated(9000, `{"op":"add","path":"/x/0","value":%d}`) + "]", "arrays",
		},
		{
			"lists that are looked through", "pods", "p", types.StrategicMergePatchType,
			`{"spec":{"$setElementOrder/volumes":[` + repeated(40_000, `{"name":"v%d"}`) + `],"volumes":[` + repeated(40_000, `{"name":"v%d"}`) + `]}}`, "list elements",
		},
		{
			"fields of an apply", "configmaps", "c", types.ApplyPatchType,
			`{"apiVersion":"v1","kind":"ConfigMap","data":{` + repeated(150_000, `"k%d":""`) + `}}`, "fields",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			allocated := fuzztest.Allocated(func() {
				_, err := m.Patch(t.Context(), admin, at(c.resource, "default", c.object), c.kind, []byte(c.patch), registry.WriteOptions{FieldManager: "test"})
				if !apierrors.IsRequestEntityTooLargeError(err) || err.(apierrors.APIStatus).Status().Code != http.StatusRequestEntityTooLarge || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%.300v", err)
				}
			})
			if limit := uint64(len(c.patch))*100 + 32<<20; allocated > limit {
				t.Errorf("%d bytes were allocated for %d", allocated, len(c.patch))
			}
		})
	}
	// As many steps as are allowed, on an array that they make long, are performed.
	patch := "[" + `{"op":"add","path":"/metadata/finalizers","value":[]},` + repeated(5000, `{"op":"add","path":"/metadata/finalizers/0","value":"a/f%d"}`) + "]"
	changed := must[*corev1.ConfigMap](t)(m.Patch(t.Context(), admin, at("configmaps", "default", "c"), types.JSONPatchType, []byte(patch), none))
	if len(changed.Finalizers) != 5000 {
		t.Errorf("%d finalizers", len(changed.Finalizers))
	}
}

// An object that has grown too large for a record of owners can be written all the same, and
// the record stays as it was; only apply is refused.
func TestRecordOfOwnersIsBounded(t *testing.T) {
	m := leader(t)
	intent := []byte(`{"apiVersion":"v1","kind":"ConfigMap","data":{"key":"value"}}`)
	apply := func() error {
		_, err := m.Patch(t.Context(), admin, at("configmaps", "default", "c"), types.ApplyPatchType, intent, registry.WriteOptions{FieldManager: "a"})
		return err
	}
	if err := apply(); err != nil {
		t.Fatal(err)
	}
	large := get[*corev1.ConfigMap](t, m, at("configmaps", "default", "c"))
	owners := len(large.ManagedFields)
	for i := range 100_000 {
		large.Data[fmt.Sprintf("k%d", i)] = ""
	}
	written := must[*corev1.ConfigMap](t)(m.Update(t.Context(), admin, at("configmaps", "default", "c"), large, none))
	if len(written.Data) != 100_001 || len(written.ManagedFields) != owners {
		t.Errorf("%d keys, %d owners", len(written.Data), len(written.ManagedFields))
	}
	if err := apply(); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("apply: %.300v", err)
	}
	// One that is large for its text alone is merged as ever.
	written.Data = map[string]string{"text": strings.Repeat("a,b:c ", 100_000)}
	must[*corev1.ConfigMap](t)(m.Update(t.Context(), admin, at("configmaps", "default", "c"), written, none))
	if err := apply(); err != nil {
		t.Error(err)
	}
}

func TestSelectorsAreBounded(t *testing.T) {
	m := leader(t)
	many, err := labels.Parse(strings.TrimSuffix(strings.Repeat("!a,", 1001), ","))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.List(t.Context(), at("pods", "", ""), registry.ListOptions{Labels: many}); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "1000") {
		t.Errorf("labels: %v", err)
	}
	for _, text := range []string{strings.TrimSuffix(strings.Repeat("a!=b,", 1001), ","), "a=" + strings.Repeat("b", 65<<10)} {
		if _, err := m.List(t.Context(), at("pods", "", ""), registry.ListOptions{Fields: text}); !apierrors.IsBadRequest(err) || len(err.Error()) > 1000 {
			t.Errorf("fields: %.300v", err)
		}
	}
}

// However much is wrong with an object, the answer is bounded.
func TestErrorsAreBounded(t *testing.T) {
	m := leader(t)
	bad := configMap("c")
	for i := range 5000 {
		bad.Finalizers = append(bad.Finalizers, fmt.Sprintf("not a name %d%s", i, strings.Repeat("x", 300)))
	}
	bad.Finalizers[0] = strings.Repeat("x", 1<<20)
	_, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), bad, none)
	if !apierrors.IsInvalid(err) || len(err.Error()) > 300<<10 || !strings.Contains(err.Error(), "Too many") {
		t.Errorf("%d bytes: %.200v", len(fmt.Sprint(err)), err)
	}
}
