package rpcapi_test

import (
	"testing"

	"go.uber.org/zap"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
)

func definition(plural, kind string) *apiextensionsv1.CustomResourceDefinition {
	open := true
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &open}},
			}},
		},
	}
}

func custom(kind, resource, name string, owner *metav1.OwnerReference) *object.Custom {
	c := &object.Custom{Resource: resource, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	c.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: kind})
	c.SetContent(map[string]any{"spec": map[string]any{"size": int64(3)}})
	if owner != nil {
		c.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return c
}

// Objects of defined kinds travel over gRPC as those of others do, and whoever collects
// garbage follows them as they come and go.
func TestDefinedKindsOverGRPC(t *testing.T) {
	d := open(t)
	api := client.New(d.dial(t, "controller-manager"))
	admin := client.New(d.dial(t, "apiserver"))

	caches := informer.NewSet(api, zap.NewNop())
	definitions := informer.Of[*apiextensionsv1.CustomResourceDefinition](caches)
	customs := informer.CustomsOf(caches, informer.CustomsConfig{
		Definitions: definitions, Log: zap.NewNop(),
		Dial: func() (*client.Client, func() error, error) { return api, func() error { return nil }, nil },
	})
	background(t, caches.Run)
	if err := caches.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	made, err := admin.Create(t.Context(), definition("things", "Thing"))
	if err != nil {
		t.Fatal(err)
	}
	kind, served := informer.CustomKindOf(made.(*apiextensionsv1.CustomResourceDefinition))
	if !served || kind.GVR.Resource != "things" {
		t.Fatalf("kind %+v, served %v", kind, served)
	}
	first, err := admin.Create(t.Context(), custom("Thing", "things", "a", nil))
	if err != nil {
		t.Fatal(err)
	}
	owner := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "a", UID: first.GetUID()}
	results, err := admin.Transact(t.Context(), []client.Op{
		client.CreateOp(custom("Thing", "things", "b", &owner)), client.CreateOp(custom("Thing", "things", "c", nil)),
	}, false)
	if err != nil || len(results) != 2 || results[1].Object.GetUID() == "" {
		t.Fatal(results, err)
	}
	got, err := admin.GetKind(t.Context(), kind, object.Key{Namespace: "default", Name: "b"})
	if err != nil || got.(*object.Custom).Content()["spec"].(map[string]any)["size"] != int64(3) {
		t.Fatal(got, err)
	}
	if _, err := admin.Patch(t.Context(), got, types.MergePatchType, []byte(`{"spec":{"size":4}}`), ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kind is followed", func() bool {
		all := customs.All(false)
		return len(all) == 1 && len(all[0].List()) == 3 && len(all[0].Dependents(first.GetUID())) == 1
	})
	if content := customs.All(false)[0].List()[0].DeepCopyObject().(*object.Custom).Content(); len(content) > 0 {
		t.Errorf("the cache keeps %v", content)
	}
	if err := admin.Delete(t.Context(), got, client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion is seen", func() bool { return len(customs.All(false)[0].Dependents(first.GetUID())) == 0 })
	if _, err := api.DeleteCollection(rpc.WithEpoch(t.Context(), d.epoch), kind, "", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := admin.Delete(t.Context(), made, client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Patch(t.Context(), made, types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`), ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kind is forgotten", func() bool { return len(customs.All(false)) == 0 })
	if _, err := customs.All(true)[0].Get(object.Key{Namespace: "default", Name: "a"}); !apierrors.IsNotFound(err) {
		t.Errorf("an object of a kind that is gone: %v", err)
	}
	// A message that claims to be of another kind is refused.
	fake := custom("ConfigMap", "configmaps", "x", nil)
	fake.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
	if _, err := admin.Create(t.Context(), fake); err == nil {
		t.Error("a custom object is taken for a ConfigMap")
	}
}
