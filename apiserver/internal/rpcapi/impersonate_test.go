package rpcapi_test

import (
	"context"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/rpcapi"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// grant makes a ClusterRole of rules and binds it to a user.
func grant(t *testing.T, admin *client.Client, name, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	for _, obj := range []object.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}}},
	} {
		if _, err := admin.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

// whoAmI asks the door.
func whoAmI(ctx context.Context, conn grpc.ClientConnInterface) (authenticationv1.UserInfo, error) {
	packed, err := object.Pack(&authenticationv1.SelfSubjectReview{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	res, err := objectv1pb.NewObjectServiceClient(conn).Create(ctx, &objectv1pb.CreateRequest{Reference: question(&authenticationv1.SelfSubjectReview{}), Object: packed})
	if err != nil {
		return authenticationv1.UserInfo{}, rpc.FromStatus(err)
	}
	obj, err := object.Unpack(res.GetObject())
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return obj.(*authenticationv1.SelfSubjectReview).Status.UserInfo, nil
}

func TestImpersonationOverGRPC(t *testing.T) {
	d := open(t)
	conn, stranger := d.dial(t, "admin"), d.stranger(t)
	admin := client.New(conn)
	create := rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}}
	read := rbacv1.PolicyRule{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}
	eve := "évé 100%=/"
	grant(t, admin, "eve", eve, create, read)
	if _, err := admin.Create(t.Context(), configMap("one", "1")); err != nil {
		t.Fatal(err)
	}

	// Everything said of a user arrives.
	as := rpc.Impersonation{User: eve, UID: "u 1", Groups: []string{"dev,ops", "größe"}, Extra: map[string][]string{"example.com/a=b+c": {"one", "zwei ü"}, "plain": {""}}}
	info, err := whoAmI(t.Context(), rpc.As(conn, as))
	if err != nil {
		t.Fatal(err)
	}
	if info.Username != eve || info.UID != "u 1" || !slices.Equal(info.Groups, []string{"dev,ops", "größe", "system:authenticated"}) ||
		len(info.Extra) != 2 || !slices.Equal(info.Extra["example.com/a=b+c"], authenticationv1.ExtraValue{"one", "zwei ü"}) || len(info.Extra["plain"]) != 1 {
		t.Errorf("%+v", info)
	}
	byKey := metadata.AppendToOutgoingContext(t.Context(), "impersonate-user", "%C3%A9v%C3%A9%20100%25%3D%2F", "impersonate-extra-scopes", "a%20b", "Impersonate-Extra-Scopes", "c")
	if info, err = whoAmI(byKey, conn); err != nil || !slices.Equal(info.Extra["scopes"], authenticationv1.ExtraValue{"a b", "c"}) {
		t.Errorf("%+v %v", info, err)
	}

	// It has the rights of the other, in every kind of call and each part of one.
	acting := client.New(rpc.As(conn, rpc.Impersonation{User: eve}))
	if _, err := client.Get[*corev1.ConfigMap](t.Context(), acting, object.Key{Namespace: "default", Name: "one"}); err != nil {
		t.Errorf("get: %v", err)
	}
	if _, err := acting.Create(t.Context(), configMap("two", "2")); !apierrors.IsForbidden(err) {
		t.Errorf("create: %v", err)
	}
	if _, err := acting.Transact(t.Context(), []client.Op{client.CreateOp(configMap("two", "2"))}, false); !apierrors.IsForbidden(err) {
		t.Errorf("transact: %v", err)
	}

	for name, ctx := range map[string]context.Context{
		"groups alone": metadata.AppendToOutgoingContext(t.Context(), "impersonate-group", "dev"),
		"a uid alone":  metadata.AppendToOutgoingContext(t.Context(), "impersonate-uid", "1"),
		"extra alone":  metadata.AppendToOutgoingContext(t.Context(), "impersonate-extra", "a=b"),
		"two users":    metadata.AppendToOutgoingContext(t.Context(), "impersonate-user", "a", "impersonate-user", "b"),
	} {
		if _, err := whoAmI(ctx, conn); !apierrors.IsBadRequest(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := whoAmI(t.Context(), rpc.As(stranger, rpc.Impersonation{User: eve})); !apierrors.IsUnauthorized(err) {
		t.Errorf("nobody acts as somebody: %v", err)
	}
	if _, err := whoAmI(t.Context(), rpc.As(d.dial(t, "kube-proxy"), rpc.Impersonation{User: eve})); !apierrors.IsForbidden(err) {
		t.Errorf("a component acts as a user: %v", err)
	}
	if _, err := grpc_health_v1.NewHealthClient(rpc.As(conn, rpc.Impersonation{User: eve})).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
}

// Who may impersonate some may not impersonate others, and no longer than that right lasts.
func TestRightToImpersonate(t *testing.T) {
	log := audittest.Open(t)
	d := openOn(t, memoryBackend(), func(cfg *rpc.ServerConfig) {
		cfg.Surround = rpcapi.Surround(traffic.New(traffic.Config{Audit: log.Log}))
	})
	conn := d.dial(t, "admin")
	admin := client.New(conn)
	read := rbacv1.PolicyRule{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}
	may := func(resource string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{"", "authentication.k8s.io"}, Resources: []string{resource}, ResourceNames: names}
	}
	grant(t, admin, "eve", "eve", read)
	robot := d.robot(t, conn)
	grant(t, admin, "robot", "system:serviceaccount:default:robot", may("users", "eve"), may("groups", "dev"), may("userextras/scopes", "x"))
	ctx, stranger := withToken(t.Context(), robot), d.stranger(t)
	for _, c := range []struct {
		as      rpc.Impersonation
		allowed bool
	}{
		{rpc.Impersonation{User: "eve"}, true}, {rpc.Impersonation{User: "eve", Groups: []string{"dev"}}, true},
		{rpc.Impersonation{User: "eve", Extra: map[string][]string{"scopes": {"x"}}}, true},
		{rpc.Impersonation{User: "bob"}, false}, {rpc.Impersonation{User: "eve", Groups: []string{"dev", "system:masters"}}, false},
		{rpc.Impersonation{User: "eve", UID: "1"}, false}, {rpc.Impersonation{User: "eve", Extra: map[string][]string{"scopes": {"y"}}}, false},
		{rpc.Impersonation{User: "eve", Extra: map[string][]string{"other": {"x"}}}, false}, {rpc.Impersonation{User: "system:serviceaccount:default:other"}, false},
	} {
		list, err := objectv1pb.NewObjectServiceClient(rpc.As(stranger, c.as)).List(ctx, &objectv1pb.ListRequest{Resource: &objectv1pb.Resource{Resource: "configmaps"}})
		for err == nil {
			_, err = list.Recv()
		}
		if c.allowed && err != io.EOF || !c.allowed && !apierrors.IsForbidden(rpc.FromStatus(err)) { //nolint:errorlint // the very value
			t.Errorf("%+v: %v", c.as, err)
		}
	}

	// A caller with a certificate is asked about again, too, as long as it acts as another.
	grant(t, admin, "program", "kijabi:program:m1", may("users", "eve"))
	for name, conn := range map[string]grpc.ClientConnInterface{"robot": stranger, "program": d.dial(t, "program")} {
		ctx := t.Context()
		if name == "robot" {
			ctx = withToken(ctx, robot)
		}
		watch, err := objectv1pb.NewObjectServiceClient(rpc.As(conn, rpc.Impersonation{User: "eve"})).Watch(ctx, &objectv1pb.WatchRequest{
			Resource: &objectv1pb.Resource{Resource: "configmaps"}, SendInitialEvents: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := admin.Delete(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}, client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = watch.Recv()
		}
		if !apierrors.IsForbidden(rpc.FromStatus(err)) {
			t.Errorf("%s: the stream ended with %v", name, err)
		}
	}

	// The log tells both: who called, and as whom.
	events, _ := log.Events(1)
	for deadline := 0; !slices.ContainsFunc(events, func(e audittest.Event) bool {
		return e.Verb == "watch" && e.User.Username == "system:serviceaccount:default:robot" && e.ImpersonatedUser.Username == "eve"
	}); deadline++ {
		more, _ := log.Events(len(events) + 1)
		events = more
	}
	if i := slices.IndexFunc(events, func(e audittest.Event) bool {
		return e.Verb == "list" && e.ResponseStatus.Code == 403 && e.User.Username == "system:serviceaccount:default:robot" && e.ImpersonatedUser.Username == ""
	}); i < 0 {
		t.Errorf("a refusal is not in the log: %+v", events)
	}
}
