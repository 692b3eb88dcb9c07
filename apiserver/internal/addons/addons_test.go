package addons

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
)

// fixture is a keeper over a registry that leads and has the namespaces default and kube-system.
type fixture struct {
	*Keeper
	t      *testing.T
	engine *registry.Engine
	clock  *clocktesting.FakeClock
	dir    string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s, err := store.New(store.Config{Name: "m1", Backend: memory.New(), Indexer: registry.NewIndexer(nil), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := registry.New(registry.Config{Store: s, Network: configv1.DefaultNetwork(), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.Background())
	group.Go(s.Run)
	group.Go(s.Lead)
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	for changed := s.TermChanged(); !s.Term().Leading; changed = s.TermChanged() {
		<-changed
	}
	f := &fixture{t: t, engine: engine, clock: clocktesting.NewFakeClock(time.Now()), dir: t.TempDir()}
	caller := registry.Caller{User: "test", Groups: []string{"system:masters"}}
	f.Keeper = New(Config{
		Dir: f.dir, Self: "m1", Masters: func() []string { return []string{"m1"} }, Store: s, Registry: engine, Caller: caller, Clock: f.clock, Log: zap.NewNop(),
	})
	for _, name := range []string{"default", "kube-system"} {
		if _, err := engine.Create(t.Context(), caller, registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("namespaces")}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, registry.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fixture) write(name, content string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// round looks as after a while.
func (f *fixture) round() error {
	f.clock.Step(applyEvery)
	return f.look(f.t.Context())
}

func refTo(name string) registry.Ref {
	return registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("configmaps"), Namespace: "default", Name: name}
}

// value is that of key k of a ConfigMap; empty if there is none.
func (f *fixture) value(name string) string {
	f.t.Helper()
	record, err := f.engine.Get(f.t.Context(), refTo(name))
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil {
		f.t.Fatal(err)
	}
	var m corev1.ConfigMap
	if err := m.Unmarshal(record.Value); err != nil {
		f.t.Fatal(err)
	}
	return m.Data["k"]
}

func (f *fixture) change(name string, change func(*corev1.ConfigMap)) {
	f.t.Helper()
	record, err := f.engine.Get(f.t.Context(), refTo(name))
	if err != nil {
		f.t.Fatal(err)
	}
	m := &corev1.ConfigMap{}
	if err := m.Unmarshal(record.Value); err != nil {
		f.t.Fatal(err)
	}
	change(m)
	if _, err := f.engine.Update(f.t.Context(), f.cfg.Caller, refTo(name), m, registry.WriteOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

const (
	one   = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {k: v}\n"
	twice = "---\n# a comment\n---\napiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: two, namespace: default}, data: {k: v}}\n"
)

func TestManifestsAreKeptApplied(t *testing.T) {
	f := newFixture(t)
	want := func(step string, values map[string]string) {
		t.Helper()
		if err := f.round(); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		for name, value := range values {
			if got := f.value(name); got != value {
				t.Errorf("%s: %s holds %q, want %q", step, name, got, value)
			}
		}
	}
	want("without files", nil)
	f.write("a.yaml", one+twice)
	f.write("ignored.txt", "no manifest")
	want("new", map[string]string{"one": "v", "two": "v"})
	version := func() string {
		record, err := f.engine.Get(t.Context(), inventoryRef())
		if err != nil {
			t.Fatal(err)
		}
		return string(record.Value)
	}
	before := version()
	want("again", map[string]string{"one": "v", "two": "v"})
	if version() != before {
		t.Error("a round that changes nothing writes the inventory")
	}
	f.change("one", func(m *corev1.ConfigMap) { m.Data["k"] = "drifted" })
	f.change("two", func(m *corev1.ConfigMap) {
		m.Data["k"], m.Labels = "mine", map[string]string{modeLabel: modeIgnored}
	})
	want("drifted, and opted out", map[string]string{"one": "v", "two": "mine"})
	f.write("a.yaml", strings.Replace(one, "name: one", "name: one, namespace: default", 1))
	want("the same by another name, and one less that has opted out", map[string]string{"one": "v", "two": "mine"})
	if err := os.Remove(filepath.Join(f.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	want("gone", map[string]string{"one": "", "two": "mine"})

	f.write("b.yaml", strings.Replace(one, "name: one", "name: once, labels: {addons.kijabi.dev/mode: EnsureExists}", 1))
	want("made once", map[string]string{"once": "v"})
	f.change("once", func(m *corev1.ConfigMap) { m.Data["k"] = "mine" })
	want("then its users' own", map[string]string{"once": "mine"})
}

func TestFailuresNameFileAndObject(t *testing.T) {
	f := newFixture(t)
	f.write("good.yaml", one)
	f.write("bad.yaml", strings.Replace(one, "data: {k: v}", "data: {k: 1}", 1)+"---\n{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}\n")
	f.write("worse.yaml", "{apiVersion: v1")
	f.write("open.yaml", twice)
	if err := os.Chmod(filepath.Join(f.dir, "open.yaml"), 0o666); err != nil {
		t.Fatal(err)
	}
	err := f.round()
	for _, part := range []string{"bad.yaml: ConfigMap one: ", `bad.yaml: Widget w: no matches for kind "Widget"`, "worse.yaml: ", "open.yaml: others may write it"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
	if f.value("two") != "" {
		t.Error("a file that others may write was applied")
	}
	_, entries, err := f.inventory(t.Context())
	if err != nil || !strings.Contains(entries["bad.yaml"].Error, "Widget w") || entries["worse.yaml"].Error == "" || entries["good.yaml"].Error != "" {
		t.Errorf("%v, inventory %+v", err, entries)
	}
	list, err := f.engine.List(t.Context(), registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("events"), Namespace: "kube-system"}, registry.ListOptions{})
	if err != nil || len(list.Records) != 4 {
		t.Errorf("%d events, %v", len(list.Records), err)
	}
	// What is put right is applied, and the inventory says so.
	for _, name := range []string{"bad.yaml", "worse.yaml"} {
		if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(f.dir, "open.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.round(); err != nil {
		t.Error(err)
	}
	if f.value("one") != "v" || f.value("two") != "v" {
		t.Errorf("one holds %q, two %q", f.value("one"), f.value("two"))
	}
	_, entries, err = f.inventory(t.Context())
	if err != nil || len(entries) != 2 || entries["open.yaml"].Error != "" {
		t.Errorf("%v, inventory %+v", err, entries)
	}
}

// A directory that cannot be found says nothing about what should be there.
func TestMissingDirectoryRemovesNothing(t *testing.T) {
	f := newFixture(t)
	f.write("a.yaml", one)
	if err := f.round(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.dir, f.dir+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(f.dir + ".away") })
	if err := f.round(); err != nil || f.value("one") != "v" {
		t.Errorf("%v, one holds %q", err, f.value("one"))
	}
}
