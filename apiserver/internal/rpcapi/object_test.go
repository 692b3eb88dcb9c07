package rpcapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authn/authntest"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/reviews"
	"kijabi.dev/apiserver/internal/rpcapi"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// noPods grants nodes nothing by their pods.
type noPods struct{}

func (noPods) NodeOf(string, string) string               { return "" }
func (noPods) UsedOn(string, string, string, string) bool { return false }
func (noPods) KeptOn(string, string) bool                 { return false }

// door is the gRPC door over a real store and registry that lead.
type door struct {
	service *rpcapi.ObjectService
	tokens  *authn.Tokens
	// authorizer of the calls.
	authorizer *authz.Authorizer
	ca         *pki.CA
	address    string
	epoch      uint64
	// change of the server's configuration.
	change []func(*rpc.ServerConfig)
	stop   func()
}

func background(t testing.TB, tasks ...lifecycle.Task) *lifecycle.Group {
	t.Helper()
	group := lifecycle.NewGroup(context.Background())
	for _, task := range tasks {
		group.Go(task)
	}
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	return group
}

func open(t testing.TB) *door {
	t.Helper()
	return openOn(t, memory.New())
}

func memoryBackend() store.Backend { return memory.New() }

func openOn(t testing.TB, backend store.Backend, change ...func(*rpc.ServerConfig)) *door {
	t.Helper()
	s, err := store.New(store.Config{Name: "m1", Backend: backend, Indexer: registry.NewIndexer(nil), Log: zap.NewNop(), Progress: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	policy := authz.NewPolicy()
	s.Observe(policy)
	authorizer := authz.New(authz.Config{Pods: noPods{}, Policy: policy, Prove: s.Prove})
	tokens := authntest.Tokens(t, s)
	engine, err := registry.New(registry.Config{Store: s, Access: authorizer, Tokens: tokens, Network: configv1.DefaultNetwork(), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	background(t, s.Run, s.Lead)
	eventually(t, "the store leads", func() bool { return s.Term().Leading })
	if _, err := engine.Create(t.Context(), registry.Caller{User: "test"}, registry.Ref{Resource: object.KindOf[*corev1.Namespace]().GVR},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, registry.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	d := &door{service: rpcapi.NewObjectService(engine, authorizer, reviews.New(authorizer, tokens)), tokens: tokens, authorizer: authorizer, ca: pkitest.NewCA(t), epoch: s.Term().Epoch, change: change}
	d.serve(t, "127.0.0.1:0")
	return d
}

// serve opens the door at an address; stop closes it, cutting every connection.
func (d *door) serve(t testing.TB, address string) {
	t.Helper()
	cfg := rpc.ServerConfig{
		Identity: pkitest.Identity(t, d.ca, "apiserver", "m1"), Log: zap.NewNop(), MaxConnectionsPerUser: 100, GracePeriod: time.Millisecond,
		Authenticate: rpcapi.Authenticate(d.tokens), Impersonate: rpcapi.Impersonate(d.authorizer, zap.NewNop()), ReauthorizeEvery: 20 * time.Millisecond,
	}
	for _, change := range d.change {
		change(&cfg)
	}
	server, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	objectv1pb.RegisterObjectServiceServer(server, d.service)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	d.address = listener.Addr().String()
	group := background(t, func(ctx context.Context) error { return server.Serve(ctx, listener) })
	d.stop = func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func (d *door) dial(t testing.TB, component string) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(d.address, pkitest.Identity(t, d.ca, component, "m1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"key": value}}
}

func key(name string) object.Key { return object.Key{Namespace: "default", Name: name} }

func TestObjectsThroughTheDoor(t *testing.T) {
	ctx := t.Context()
	api := client.New(open(t).dial(t, "admin"))

	created, err := api.Create(ctx, configMap("one", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if created.GetUID() == "" || created.GetResourceVersion() == "" {
		t.Errorf("created %+v", created)
	}
	if _, err := api.Create(ctx, configMap("one", "1")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	if _, err := api.Create(ctx, configMap("Not A Name", "1")); !apierrors.IsInvalid(err) {
		t.Errorf("bad name: %v", err)
	}
	stale := created.(*corev1.ConfigMap).DeepCopy()
	stale.Data["key"] = "2"
	updated, err := api.Update(ctx, stale)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Update(ctx, func() *corev1.ConfigMap { s := stale.DeepCopy(); s.Data["key"] = "3"; return s }()); !apierrors.IsConflict(err) {
		t.Errorf("stale update: %v", err)
	}
	if _, err := api.Patch(ctx, configMap("one", ""), types.MergePatchType, []byte(`{"data":{"key":"4"}}`), ""); err != nil {
		t.Error(err)
	}
	got, err := client.Get[*corev1.ConfigMap](ctx, api, key("one"))
	if err != nil || got.Data["key"] != "4" || got.ResourceVersion == updated.GetResourceVersion() {
		t.Errorf("got %v, %v", got, err)
	}
	if err := api.Delete(ctx, got, client.DeleteOptions{UID: "another"}); !apierrors.IsConflict(err) {
		t.Errorf("delete of another uid: %v", err)
	}
	if err := api.Delete(ctx, got, client.DeleteOptions{UID: got.UID}); err != nil {
		t.Error(err)
	}
	if _, err := client.Get[*corev1.ConfigMap](ctx, api, key("one")); !apierrors.IsNotFound(err) {
		t.Errorf("after delete: %v", err)
	}
}

// TestLargeCollectionsComeInPieces lists and watches more than one message may hold.
func TestLargeCollectionsComeInPieces(t *testing.T) {
	d := open(t)
	conn := d.dial(t, "admin")
	api := client.New(conn)
	const objects, size = 5, 400 << 10
	for i := range objects {
		if _, err := api.Create(t.Context(), configMap(fmt.Sprintf("big-%d", i), strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
	}
	service := objectv1pb.NewObjectServiceClient(conn)
	configMaps := &objectv1pb.Resource{Version: "v1", Resource: "configmaps"}
	list, err := service.List(t.Context(), &objectv1pb.ListRequest{Resource: configMaps, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := service.Watch(t.Context(), &objectv1pb.WatchRequest{Resource: configMaps, Namespace: "default", SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	listed, watched := 0, 0
	for {
		message, err := list.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := len(message.GetObjects()); n > 2 {
			t.Errorf("%d objects of %d bytes in one message of a list", n, size)
		}
		listed += len(message.GetObjects())
	}
	for ended := false; !ended; {
		message, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if n := len(message.GetEvents()); n > 2 {
			t.Errorf("%d objects of %d bytes in one message of a watch", n, size)
		}
		watched += len(message.GetEvents())
		ended = message.GetInitialEventsEnd()
	}
	if listed < objects || watched < objects {
		t.Errorf("%d listed, %d watched, want %d", listed, watched, objects)
	}
}

func TestTransact(t *testing.T) {
	ctx := t.Context()
	api := client.New(open(t).dial(t, "admin"))
	ops := []client.Op{client.CreateOp(configMap("a", "1")), client.CreateOp(configMap("Bad Name", "1")), client.CreateOp(configMap("b", "1"))}
	if _, err := api.Transact(ctx, ops, false); !apierrors.IsInvalid(err) {
		t.Errorf("all or none: %v", err)
	}
	if page, err := client.List[*corev1.ConfigMap](ctx, api, client.ListOptions{Namespace: "default"}); err != nil || len(page.Items) != 0 {
		t.Errorf("%d objects of a refused transaction, %v", len(page.Items), err)
	}
	results, err := api.Transact(ctx, ops, true)
	if err != nil || results[0].Err != nil || !apierrors.IsInvalid(results[1].Err) || results[2].Err != nil {
		t.Errorf("each by itself: %v, %v", results, err)
	}
}

func TestCallersAreConfined(t *testing.T) {
	ctx := t.Context()
	d := open(t)
	if _, err := client.New(d.dial(t, "kubelet")).Create(ctx, configMap("x", "1")); !apierrors.IsForbidden(err) {
		t.Errorf("a kubelet created a config map: %v", err)
	}
	secrets := client.New(d.dial(t, "scheduler"))
	if _, err := client.List[*corev1.Secret](ctx, secrets, client.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the scheduler listed secrets: %v", err)
	}
}

// TestInformerSurvivesTheDoor closes the door again and again while a writer goes on
// through another: the informer's collection must end up exact, every change reported once and in order.
func TestInformerSurvivesTheDoor(t *testing.T) {
	ctx := t.Context()
	steady := open(t)
	writer := client.New(steady.dial(t, "admin"))
	shaky := &door{service: steady.service, ca: steady.ca}
	shaky.serve(t, "127.0.0.1:0")

	set := informer.NewSet(client.New(shaky.dial(t, "admin")), zap.NewNop())
	maps := informer.Of[*corev1.ConfigMap](set, informer.Index("value", func(m *corev1.ConfigMap) []string { return []string{m.Data["key"]} }))
	seen := map[string]string{} // by the handler's goroutine only
	var wrong atomic.Int64
	maps.OnChange(func(before, after *corev1.ConfigMap) {
		switch {
		case before != nil && seen[before.Name] != before.ResourceVersion, before == nil && seen[after.Name] != "":
			wrong.Add(1)
		case after == nil:
			delete(seen, before.Name)
		default:
			seen[after.Name] = after.ResourceVersion
		}
	})
	background(t, set.Run)
	if err := set.WaitSynced(ctx); err != nil {
		t.Fatal(err)
	}

	var last string
	for round := range 5 {
		for i := range 40 {
			name := string(rune('a' + i%10))
			obj, err := writer.Create(ctx, configMap(name, "new"))
			if apierrors.IsAlreadyExists(err) {
				if i%3 == 0 {
					err = writer.Delete(ctx, configMap(name, ""), client.DeleteOptions{})
				} else {
					obj, err = writer.Update(ctx, configMap(name, string(rune('0'+round))+string(rune('0'+i))))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if obj != nil {
				last = obj.GetResourceVersion()
			}
			if i == 20 {
				shaky.stop()
				shaky.serve(t, shaky.address)
			}
		}
	}
	wait, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := maps.WaitVersion(wait, last); err != nil {
		t.Fatal(err)
	}
	page, err := client.List[*corev1.ConfigMap](ctx, writer, client.ListOptions{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the collection is exact", func() bool {
		if len(maps.List()) != len(page.Items) {
			return false
		}
		for _, want := range page.Items {
			got, err := maps.Get(object.KeyOf(want))
			if err != nil || got.ResourceVersion != want.ResourceVersion || len(maps.ByIndex("value", want.Data["key"])) == 0 {
				return false
			}
		}
		return true
	})
	if wrong.Load() > 0 {
		t.Errorf("%d changes were reported twice or out of order", wrong.Load())
	}
}

// Nothing is knowledge, too: an informer whose collection is empty and whose program
// was killed must start from its snapshot.
func TestEmptySnapshotIsWrittenAtOnce(t *testing.T) {
	d := open(t)
	file := filepath.Join(t.TempDir(), "secrets")
	set := informer.NewSet(client.New(d.dial(t, "admin")), zap.NewNop())
	informer.Of[*corev1.Secret](set, informer.SnapshotFile(file))
	background(t, set.Run)
	eventually(t, "the file is there", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
}

func TestInformerStartsFromItsSnapshot(t *testing.T) {
	ctx := t.Context()
	d := open(t)
	api := client.New(d.dial(t, "admin"))
	if _, err := api.Create(ctx, configMap("kept", "1")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "state", "configmaps")
	run := func() (*informer.Informer[*corev1.ConfigMap], *lifecycle.Group) {
		set := informer.NewSet(client.New(d.dial(t, "admin")), zap.NewNop())
		maps := informer.Of[*corev1.ConfigMap](set, informer.SnapshotFile(file), informer.SnapshotGrace(50*time.Millisecond))
		group := background(t, set.Run)
		if err := set.WaitSynced(ctx); err != nil {
			t.Fatal(err)
		}
		return maps, group
	}
	first, group := run()
	if first.Stale() {
		t.Error("stale although a master answered")
	}
	group.Cancel()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}

	d.stop()
	second, _ := run()
	if got, err := second.Get(key("kept")); err != nil || got.Data["key"] != "1" || !second.Stale() {
		t.Errorf("from the snapshot: %v, %v, stale %v", got, err, second.Stale())
	}
	d.serve(t, d.address)
	eventually(t, "a master confirms it", func() bool { return !second.Stale() })
}

// counter adds one object for each of a key's missing ones; with stale caches it would add too many.
type counter struct {
	maps   *informer.Informer[*corev1.ConfigMap]
	secret bool
	done   atomic.Int64
	failed atomic.Value
}

func (*counter) Name() string { return "counter" }

func (c *counter) Inputs() []controller.Input {
	return []controller.Input{controller.Mapped(c.maps, func(*corev1.ConfigMap) []object.Key { return []object.Key{key("all")} })}
}

func (*counter) Outputs() []controller.Output {
	return []controller.Output{controller.Fields[*corev1.ConfigMap]("all")}
}

func (c *counter) Reconcile(ctx context.Context, _ object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	c.done.Add(1)
	if c.secret {
		_, err := w.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "undeclared"}})
		if err != nil {
			c.failed.Store(err.Error())
		}
		return 0, nil
	}
	if len(c.maps.List()) < 10 {
		_, err := w.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "n-"}})
		return time.Microsecond, err // at once again: only its own write's coming back makes that safe
	}
	return 0, nil
}

func runtimeWith(t *testing.T, d *door, secret bool) (*counter, *client.Client) {
	t.Helper()
	api := client.New(d.dial(t, "admin"))
	set := informer.NewSet(api, zap.NewNop())
	c := &counter{maps: informer.Of[*corev1.ConfigMap](set), secret: secret}
	loops, err := controller.NewRuntime(controller.RuntimeConfig{Client: api, Clock: clock.RealClock{}, Log: zap.NewNop(), Controllers: []controller.Controller{c}})
	if err != nil {
		t.Fatal(err)
	}
	background(t, set.Run, func(ctx context.Context) error {
		if err := set.WaitSynced(ctx); err != nil {
			return nil //nolint:nilerr // the test ended first
		}
		return loops.Run(ctx)
	})
	if _, err := api.Create(t.Context(), configMap("first", "1")); err != nil {
		t.Fatal(err)
	}
	return c, api
}

func TestControllerReadsItsOwnWrites(t *testing.T) {
	c, api := runtimeWith(t, open(t), false)
	eventually(t, "ten objects", func() bool { return len(c.maps.List()) >= 10 })
	before := c.done.Load()
	if _, err := api.Update(t.Context(), configMap("first", "2")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one more reconcile", func() bool { return c.done.Load() > before })
	page, err := client.List[*corev1.ConfigMap](t.Context(), api, client.ListOptions{Namespace: "default"})
	if err != nil || len(page.Items) != 10 {
		t.Errorf("%d objects, want 10: %v", len(page.Items), err)
	}
}

func TestControllerWritesWhatItDeclared(t *testing.T) {
	c, _ := runtimeWith(t, open(t), true)
	eventually(t, "a refusal", func() bool { return c.failed.Load() != nil })
	if got := c.failed.Load(); got != "create of Secret is outside the controller's declared outputs" {
		t.Errorf("refusal %q", got)
	}
}

// replacer writes back, in different ways, what its cache holds of an object.
type replacer struct {
	maps    *informer.Informer[*corev1.ConfigMap]
	refused chan error
}

func (*replacer) Name() string { return "replacer" }

func (r *replacer) Inputs() []controller.Input { return []controller.Input{controller.Self(r.maps)} }

func (*replacer) Outputs() []controller.Output {
	return []controller.Output{controller.Fields[*corev1.ConfigMap]("all")}
}

func (r *replacer) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	have, err := r.maps.Get(key)
	if err != nil || have.Labels["patched"] != "" {
		return 0, nil //nolint:nilerr // it is gone
	}
	_, err = w.Update(ctx, have)
	r.refused <- err
	_, err = w.Transact(ctx, []client.Op{client.UpdateOp(have, "")}, true)
	r.refused <- err
	_, err = w.Patch(ctx, have, types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), "")
	r.refused <- err
	return 0, nil
}

// What a cache holds in part is not written back whole: that would lose the rest.
func TestWhatIsKeptInPartIsPatched(t *testing.T) {
	api := client.New(open(t).dial(t, "admin"))
	set := informer.NewSet(api, zap.NewNop())
	keep := func(m *corev1.ConfigMap) func() *corev1.ConfigMap {
		m.Data = nil
		return func() *corev1.ConfigMap { return m }
	}
	c := &replacer{maps: informer.Of[*corev1.ConfigMap](set, informer.Keep(keep)), refused: make(chan error, 3)}
	loops, err := controller.NewRuntime(controller.RuntimeConfig{Client: api, Clock: clock.RealClock{}, Log: zap.NewNop(), Controllers: []controller.Controller{c}})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := api.Create(t.Context(), configMap("first", "1"))
	if err != nil {
		t.Fatal(err)
	}
	background(t, set.Run, func(ctx context.Context) error {
		if err := set.WaitSynced(ctx); err != nil {
			return nil //nolint:nilerr // the test ended first
		}
		return loops.Run(ctx)
	})
	for _, way := range []string{"update", "transaction"} {
		if err := <-c.refused; err == nil || !strings.Contains(err.Error(), "in part") {
			t.Errorf("%s: %v", way, err)
		}
	}
	if err := <-c.refused; err != nil {
		t.Errorf("patch: %v", err)
	}
	have, err := client.Get[*corev1.ConfigMap](t.Context(), api, object.KeyOf(stored))
	if err != nil || len(have.Data) == 0 || have.Labels["patched"] != "yes" {
		t.Errorf("stored is %+v: %v", have, err)
	}
}

func TestTwoWritersOfOneOutputAreRefused(t *testing.T) {
	set := informer.NewSet(nil, zap.NewNop())
	maps := informer.Of[*corev1.ConfigMap](set)
	_, err := controller.NewRuntime(controller.RuntimeConfig{
		Clock: clock.RealClock{}, Log: zap.NewNop(),
		Controllers: []controller.Controller{&counter{maps: maps}, &renamed{counter{maps: maps}}},
	})
	if err == nil || err.Error() != "counter and renamed both write ConfigMap all" {
		t.Errorf("error %v", err)
	}
}

type renamed struct{ counter }

func (*renamed) Name() string { return "renamed" }
