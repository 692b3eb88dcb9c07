package forward_test

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/forward"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/rpcapi"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	accessv1pb "kijabi.dev/proto/gen/kijabi/access/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// asked is what the leader's authorizer was asked last.
type asked struct{ last chan authz.Attributes }

func (a asked) Authorize(_ context.Context, attr authz.Attributes) error {
	select {
	case <-a.last:
	default:
	}
	a.last <- attr
	return nil
}

func (a asked) Admit(ctx context.Context, attr authz.Attributes) (context.Context, error) {
	return ctx, a.Authorize(ctx, attr)
}

type way struct{ conn grpc.ClientConnInterface }

func (w way) LeaderConn() (grpc.ClientConnInterface, string, error) { return w.conn, "m1", nil }

func master(t *testing.T, group *lifecycle.Group, name string, backend store.Backend, forwarder registry.Forwarder) (*registry.Engine, *store.Store) {
	t.Helper()
	s, err := store.New(store.Config{Name: name, Backend: backend, Indexer: registry.NewIndexer(nil), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := registry.New(registry.Config{Store: s, Network: configv1.DefaultNetwork(), Log: zap.NewNop(), Forwarder: forwarder})
	if err != nil {
		t.Fatal(err)
	}
	group.Go(s.Run)
	return engine, s
}

func TestForward(t *testing.T) {
	group := lifecycle.NewGroup(context.Background())
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	backend, ca := memory.New(), pkitest.NewCA(t)
	leader, leading := master(t, group, "m1", backend, nil)
	group.Go(func(ctx context.Context) error { return leading.Lead(ctx) })

	var callers atomic.Pointer[rpc.Caller]
	server, err := rpc.NewServer(rpc.ServerConfig{Identity: pkitest.Identity(t, ca, pki.ComponentAPIServer, "m1"), Log: zap.NewNop(), GracePeriod: time.Second, Authorize: func(_ context.Context, caller rpc.Caller, _ string, _ *accessv1pb.Access) error {
		callers.Store(&caller)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	authorizer := asked{make(chan authz.Attributes, 1)}
	objectv1pb.RegisterObjectServiceServer(server, rpcapi.NewObjectService(leader, authorizer, nil))
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	group.Go(func(ctx context.Context) error { return server.Serve(ctx, listener) })
	conn, err := rpc.Dial(listener.Addr().String(), pkitest.Identity(t, ca, pki.ComponentAPIServer, "m2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	follower, followed := master(t, group, "m2", backend, forward.New(way{conn}))

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	alice := registry.Caller{
		User: "alice", UID: "u1", Groups: []string{"dev"}, Extra: map[string][]string{"example.com/scopes": {"a b", "c=d"}}, UserAgent: "test/1",
	}
	namespaces := registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("namespaces")}
	if _, err := follower.Create(ctx, alice, namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, registry.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if attr := <-authorizer.last; attr.User != "alice" || len(attr.Groups) != 1 || attr.Groups[0] != "dev" || attr.Verb != "create" {
		t.Errorf("the leader authorized %+v", attr)
	}
	if caller := callers.Load(); caller.UID != alice.UID || !maps.EqualFunc(caller.Extra, alice.Extra, slices.Equal) {
		t.Errorf("the leader knows of the caller %+v", caller)
	}
	ref := registry.Ref{Resource: corev1.SchemeGroupVersion.WithResource("configmaps"), Namespace: "default"}
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}}
	created, err := follower.Create(ctx, alice, ref, object.DeepCopy(), registry.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if record, ok := followed.Get(store.Key{Resource: "configmaps", Namespace: "default", Name: "a"}); !ok || record.Index.UID != created.GetUID() {
		t.Error("the follower answered before it held the write")
	}
	if _, err := follower.Create(ctx, alice, ref, object.DeepCopy(), registry.WriteOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	ref.Name = "a"
	patched, err := follower.Patch(ctx, alice, ref, types.MergePatchType, []byte(`{"data":{"x":"y"}}`), registry.WriteOptions{})
	if err != nil || patched.(*corev1.ConfigMap).Data["x"] != "y" {
		t.Errorf("patch: %v %v", patched, err)
	}
	// The owner of fields is the client's program, or whom it names, not the master in between.
	if owners := patched.GetManagedFields(); len(owners) != 1 || owners[0].Manager != "test" {
		t.Errorf("after forwarded writes fields are owned by %v", owners)
	}
	patched, err = follower.Patch(ctx, alice, ref, types.MergePatchType, []byte(`{"data":{"x":"z"}}`), registry.WriteOptions{FieldManager: "named"})
	if err != nil || len(patched.GetManagedFields()) != 2 || patched.GetManagedFields()[0].Manager != "named" {
		t.Errorf("patch by a named manager: %v %v", patched, err)
	}
	results, err := follower.Transact(ctx, alice, []registry.Operation{
		{Verb: registry.VerbCreate, Ref: ref, Object: object.DeepCopy()},
		{Verb: registry.VerbCreate, Ref: registry.Ref{Resource: ref.Resource, Namespace: "default"}, Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b"}}},
	}, true)
	if err != nil || !apierrors.IsAlreadyExists(results[0].Err) || results[1].Object.GetName() != "b" {
		t.Errorf("transact: %+v %v", results, err)
	}
	wrong := types.UID("x")
	if _, _, err := follower.Delete(ctx, alice, ref, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) {
		t.Errorf("delete with a wrong uid: %v", err)
	}
	if _, gone, err := follower.Delete(ctx, alice, ref, metav1.DeleteOptions{}); err != nil || !gone {
		t.Errorf("delete: %v %v", gone, err)
	}
	ref.Name = ""
	if n, err := follower.DeleteCollection(ctx, alice, ref, metav1.DeleteOptions{}, registry.ListOptions{}); err != nil || n != 1 {
		t.Errorf("delete collection: %d %v", n, err)
	}
	fenced := alice
	fenced.Epoch = 1
	if _, err := follower.Create(ctx, fenced, ref, object.DeepCopy(), registry.WriteOptions{}); apierrors.ReasonForError(err) != registry.ReasonFenced {
		t.Errorf("an epoch that is over: %v", err)
	}
}
