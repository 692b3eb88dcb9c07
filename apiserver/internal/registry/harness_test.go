package registry_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// master is a registry over a running store.
type master struct {
	*registry.Engine
	store *store.Store
	group *lifecycle.Group
}

// start runs a store on a backend with a registry over it.
func start(t testing.TB, name string, backend store.Backend, forwarder registry.Forwarder, change ...func(*registry.Config)) *master {
	t.Helper()
	return startOver(t, store.Config{Name: name, Backend: backend}, forwarder, change...)
}

// startOver is start for a store of a particular kind.
func startOver(t testing.TB, of store.Config, forwarder registry.Forwarder, change ...func(*registry.Config)) *master {
	t.Helper()
	log := zap.NewNop()
	of.Indexer, of.Log, of.Progress = registry.NewIndexer(nil), log, 20*time.Millisecond
	s, err := store.New(of)
	if err != nil {
		t.Fatal(err)
	}
	cfg := registry.Config{Store: s, Network: configv1.DefaultNetwork(), Log: log, Forwarder: forwarder}
	for _, c := range change {
		c(&cfg)
	}
	engine, err := registry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.Background())
	group.Go(s.Run)
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("%s: %v", of.Name, err)
		}
	})
	return &master{Engine: engine, store: s, group: group}
}

func (m *master) lead(t testing.TB) {
	t.Helper()
	m.group.Go(func(ctx context.Context) error { return m.store.Lead(ctx) })
	eventually(t, "the store leads", func() bool { return m.store.Term().Leading })
}

// leader returns a registry that leads, with the namespace default.
func leader(t testing.TB, change ...func(*registry.Config)) *master {
	t.Helper()
	m := start(t, "m1", memory.New(), nil, change...)
	m.lead(t)
	m.namespace(t, "default")
	return m
}

func (m *master) namespace(t testing.TB, name string) {
	t.Helper()
	must[*corev1.Namespace](t)(m.Create(t.Context(), admin, at("namespaces", "", ""), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, registry.WriteOptions{}))
}

var admin = registry.Caller{User: "admin", Groups: []string{"system:masters"}, UserAgent: "test/1"}

func gvr(resource string) schema.GroupVersionResource {
	for _, kind := range object.Kinds() {
		if kind.GVR.Resource == resource {
			return kind.GVR
		}
	}
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func at(resource, namespace, name string, subresource ...string) registry.Ref {
	ref := registry.Ref{Resource: gvr(resource), Namespace: namespace, Name: name}
	if len(subresource) > 0 {
		ref.Subresource = subresource[0]
	}
	return ref
}

// must asserts the type of a write's result and that there is no error.
func must[T object.Object](t testing.TB) func(object.Object, error) T {
	return func(obj object.Object, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return obj.(T)
	}
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{"key": "value"}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
	}
}

// get decodes an object.
func get[T object.Object](t testing.TB, m *master, ref registry.Ref) T {
	t.Helper()
	record, err := m.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	kind, err := m.Kind(ref.Resource)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := object.Decode(kind.Kind, record.Value)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(T)
}
