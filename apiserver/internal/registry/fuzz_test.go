package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/fuzztest"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// The seeds of all targets are files in testdata/fuzz; `make fuzz` looks for more.

// readable checks that JSON clients can read what a write leaves.
func readable(t *testing.T, obj object.Object) {
	t.Helper()
	text, err := json.Marshal(obj)
	if err != nil {
		t.Fatalf("accepted and not readable: %v", err)
	}
	again := reflect.New(reflect.TypeOf(obj).Elem()).Interface()
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatalf("accepted and not readable: %v", err)
	}
}

var patchKinds = []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyPatchType}

// FuzzPatch patches a Deployment, of which somebody keeps a record of owners, and a ConfigMap.
func FuzzPatch(f *testing.F) {
	m := leader(f)
	must[*corev1.ConfigMap](f)(m.Create(f.Context(), admin, at("configmaps", "default", ""), configMap("c"), none))
	apply := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"},"finalizers":["x/y"]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"env":[{"name":"E","value":"1"}]},{"name":"d","image":"i"}],"volumes":[{"name":"v","emptyDir":{}}]}}}}`)
	if _, err := m.Patch(f.Context(), admin, at("deployments", "default", "d"), types.ApplyPatchType, apply, registry.WriteOptions{FieldManager: "a"}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind byte, text []byte) {
		options := registry.WriteOptions{DryRun: true, FieldManager: "fuzz", Force: kind&8 != 0}
		if kind&16 != 0 {
			options.FieldValidation = metav1.FieldValidationStrict
		}
		ref := at("deployments", "default", "d")
		if kind&4 != 0 {
			ref = at("configmaps", "default", "c")
		}
		fuzztest.Bounded(t, len(text), func() {
			obj, err := m.Patch(t.Context(), admin, ref, patchKinds[kind&3], text, options)
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			if obj.GetName() != ref.Name || obj.GetNamespace() != "default" {
				t.Errorf("the patch moved the object to %s", object.KeyOf(obj))
			}
			readable(t, obj)
		})
	})
}

// FuzzCreate creates objects as they come in protobuf, after what the doors ask.
func FuzzCreate(f *testing.F) {
	m := leader(f)
	var table []*registry.Kind
	for _, kind := range kinds.Default() {
		if kind.HasVerb("create") {
			table = append(table, kind)
		}
	}
	f.Fuzz(func(t *testing.T, number byte, encoding []byte) {
		kind := table[int(number)%len(table)]
		obj := kind.New()
		fuzztest.Bounded(t, len(encoding), func() {
			if object.CheckProtobuf(encoding, obj) != nil || obj.Unmarshal(encoding) != nil || object.CheckReadable(obj) != nil {
				return
			}
			ref := registry.Ref{Resource: kind.GVR}
			if kind.Namespaced {
				ref.Namespace = "default"
			}
			made, err := m.Create(t.Context(), admin, ref, obj, registry.WriteOptions{DryRun: true})
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			readable(t, made)
		})
	})
}

// FuzzSelectors lists by any selector; what is selected satisfies it.
func FuzzSelectors(f *testing.F) {
	m := leader(f)
	for _, name := range []string{"a", "b"} {
		p := pod(name)
		p.Labels["name"] = name
		must[*corev1.Pod](f)(m.Create(f.Context(), admin, at("pods", "default", ""), p, none))
	}
	f.Fuzz(func(t *testing.T, labelText, fieldText string) {
		fuzztest.Bounded(t, len(labelText)+len(fieldText), func() {
			selector, err := labels.Parse(labelText)
			if err != nil {
				return
			}
			list, err := m.List(t.Context(), at("pods", "default", ""), registry.ListOptions{Labels: selector, Fields: fieldText})
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			for _, record := range list.Records {
				if !selector.Matches(record.Index.Labels) {
					t.Errorf("%s is selected by %q", record.Key, labelText)
				}
			}
		})
	})
}

// FuzzContinue resumes lists of one namespace with any token and version: nothing of another
// namespace or resource is shown, and no version that is still to come is promised.
func FuzzContinue(f *testing.F) {
	m := leader(f)
	m.namespace(f, "other")
	for _, namespace := range []string{"default", "other"} {
		for i := range 3 {
			cm := configMap(fmt.Sprintf("c%d", i))
			cm.Namespace = namespace
			must[*corev1.ConfigMap](f)(m.Create(f.Context(), admin, at("configmaps", namespace, ""), cm, none))
		}
	}
	page, err := m.List(f.Context(), at("configmaps", "default", ""), registry.ListOptions{Limit: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(page.Continue, "", "", int64(1)) // its version is that of the day
	now := m.store.Version()
	f.Fuzz(func(t *testing.T, token, version, match string, limit int64) {
		if v, err := object.ParseVersion(version); err == nil && v > now {
			return // the engine waits for it, as its own test says
		}
		list, err := m.List(t.Context(), at("configmaps", "default", ""), registry.ListOptions{
			Continue: token, ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatch(match), Limit: limit,
		})
		if apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
			return // of a version to come, for which it was waited
		}
		if err != nil {
			fuzztest.Refused(t, err)
			return
		}
		for _, record := range list.Records {
			if record.Key.Namespace != "default" || record.Key.Resource != "configmaps" {
				t.Errorf("the list shows %s", record.Key)
			}
		}
		if limit > 0 && int64(len(list.Records)) > limit {
			t.Errorf("%d objects, %d were asked for", len(list.Records), limit)
		}
		if v, err := object.ParseVersion(list.ResourceVersion); err != nil || v == 0 || v > m.store.Version() {
			t.Errorf("the list is of version %s", list.ResourceVersion)
		}
	})
}

// FuzzManagedFields updates an object with any record of who owns its fields.
func FuzzManagedFields(f *testing.F) {
	m := leader(f)
	intent := []byte(`{"apiVersion":"v1","kind":"ConfigMap","data":{"key":"value"}}`)
	if _, err := m.Patch(f.Context(), admin, at("configmaps", "default", "c"), types.ApplyPatchType, intent, registry.WriteOptions{FieldManager: "a"}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, manager, operation, version, subresource string, raw []byte) {
		cm := configMap("c")
		cm.Data["other"] = "value"
		cm.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: manager, Operation: metav1.ManagedFieldsOperationType(operation), APIVersion: version, Subresource: subresource,
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(raw)),
		}}
		if object.CheckReadable(cm) != nil {
			return
		}
		fuzztest.Bounded(t, len(raw), func() {
			obj, err := m.Update(t.Context(), admin, at("configmaps", "default", "c"), cm, registry.WriteOptions{DryRun: true})
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			readable(t, obj)
		})
	})
}

// FuzzIndex: whatever can be decoded is indexed from its encoding as from the object. What is
// stored is the program's own encoding, with the version appended; a foreign one that
// decoders accept may be refused, but must not be taken for something else.
func FuzzIndex(f *testing.F) {
	index := registry.NewIndexer(nil)
	var table []*registry.Kind
	for _, kind := range kinds.Default() {
		if kind.StoredAs == nil {
			table = append(table, kind)
		}
	}
	f.Fuzz(func(t *testing.T, number byte, foreign []byte) {
		kind := table[int(number)%len(table)]
		key := store.Key{Resource: kind.GVR.GroupResource().String(), Name: "a"}
		_, _ = index(key, foreign)
		obj := kind.New()
		if object.CheckProtobuf(foreign, obj) != nil || obj.Unmarshal(foreign) != nil {
			return
		}
		own, err := obj.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range [][]byte{foreign, own, store.AppendVersion(slices.Clip(foreign), 7), store.AppendVersion(slices.Clip(own), 1<<40)} {
			got, err := index(key, value)
			obj := kind.New()
			if obj.Unmarshal(value) != nil {
				t.Fatalf("%s: with a version it cannot be decoded", kind.GVK.Kind)
			}
			if err != nil {
				if bytes.HasPrefix(value, own) {
					t.Fatalf("%s is stored and not indexed: %v", kind.GVK.Kind, err)
				}
				continue
			}
			if got.UID != obj.GetUID() || !slices.Equal(got.Labels, store.AttributesOf(obj.GetLabels())) || got.Deleting != (obj.GetDeletionTimestamp() != nil) {
				t.Errorf("%s: index %+v of %+v", kind.GVK.Kind, got, obj)
			}
			if kind.Fields != nil && !slices.Equal(got.Fields, store.AttributesOf(kind.Fields(obj))) {
				t.Errorf("%s: fields %v, decoded %v", kind.GVK.Kind, got.Fields, kind.Fields(obj))
			}
			meta, err := kinds.ReadWireMeta(value)
			if err != nil || meta.Name != obj.GetName() || meta.Namespace != obj.GetNamespace() || meta.ResourceVersion != obj.GetResourceVersion() {
				t.Errorf("%s: metadata %+v, %v", kind.GVK.Kind, meta, err)
			}
		}
	})
}
