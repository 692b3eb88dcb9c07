package rpcapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// stranger dials without a certificate.
func (d *door) stranger(t testing.TB) *grpc.ClientConn {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(d.ca.CertificatePEM())
	conn, err := grpc.NewClient(d.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, ServerName: pki.APIServerName, MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// create makes an object, or a body of a subresource, and returns the answer.
func create(ctx context.Context, conn *grpc.ClientConn, ref *objectv1pb.Reference, subresource string, obj object.Object) (object.Object, error) {
	packed, err := object.Pack(obj)
	if err != nil {
		return nil, err
	}
	res, err := objectv1pb.NewObjectServiceClient(conn).Create(ctx, &objectv1pb.CreateRequest{Reference: ref, Subresource: subresource, Object: packed})
	if err != nil {
		return nil, rpc.FromStatus(err)
	}
	return object.Unpack(res.GetObject())
}

func question(obj object.Object) *objectv1pb.Reference {
	kind, _ := object.KindOfObject(obj)
	return &objectv1pb.Reference{Resource: &objectv1pb.Resource{Group: kind.GVR.Group, Version: kind.GVR.Version, Resource: kind.GVR.Resource}}
}

// accounts makes the service account default/robot, which may read ConfigMaps there and ask
// about itself, and returns a token of it.
func (d *door) robot(t *testing.T, admin *grpc.ClientConn) string {
	t.Helper()
	api := client.New(admin)
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "robot", Namespace: "default"}}
	for _, obj := range []object.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "reader"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
			{Verbs: []string{"create", "update", "watch"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "reader"}, RoleRef: role, Subjects: subjects},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "asker"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io", "authentication.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectreviews", "selfsubjectrulesreviews"}},
		}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "asker"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "asker"}, Subjects: subjects},
	} {
		if _, err := api.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	account := &objectv1pb.Reference{Resource: &objectv1pb.Resource{Resource: "serviceaccounts"}, Namespace: "default", Name: "robot"}
	answer, err := create(t.Context(), admin, account, "token", &authenticationv1.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	request, ok := answer.(*authenticationv1.TokenRequest)
	if !ok || request.Status.Token == "" || request.Name != "robot" {
		t.Fatalf("no token: %+v", answer)
	}
	return request.Status.Token
}

func TestTokensOverGRPC(t *testing.T) {
	d := open(t)
	admin, stranger := d.dial(t, "admin"), d.stranger(t)
	token := d.robot(t, admin)
	ctx := withToken(t.Context(), token)
	objects := objectv1pb.NewObjectServiceClient(stranger)
	configMaps := &objectv1pb.Resource{Resource: "configmaps"}
	if _, err := client.New(admin).Create(t.Context(), configMap("one", "1")); err != nil {
		t.Fatal(err)
	}
	one := &objectv1pb.GetRequest{Reference: &objectv1pb.Reference{Resource: configMaps, Namespace: "default", Name: "one"}}
	if _, err := objects.Get(ctx, one); err != nil {
		t.Errorf("by token: %v", err)
	}
	for name, ctx := range map[string]context.Context{
		"no token": t.Context(), "wrong token": withToken(t.Context(), token+"x"), "two tokens": withToken(ctx, token),
		"another scheme": metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic YTpi"),
	} {
		if _, err := objects.Get(ctx, one); !apierrors.IsUnauthorized(rpc.FromStatus(err)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := create(ctx, stranger, &objectv1pb.Reference{Resource: configMaps, Namespace: "default"}, "", configMap("two", "2")); !apierrors.IsForbidden(err) {
		t.Errorf("a reader writes: %v", err)
	}
	// A transaction is guarded as single writes are.
	larger, err := object.Pack(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "larger"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = objects.Transact(ctx, &objectv1pb.TransactRequest{Operations: []*objectv1pb.Operation{{Operation: &objectv1pb.Operation_Create{Create: &objectv1pb.CreateRequest{
		Reference: &objectv1pb.Reference{Resource: &objectv1pb.Resource{Group: rbacv1.GroupName, Resource: "roles"}, Namespace: "default"}, Object: larger,
	}}}}})
	if err := rpc.FromStatus(err); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
		t.Errorf("escalation in a transaction: %v", err)
	}
	// So does one whose right is gone. Streams of others go on.
	limited, err := objects.Watch(withToken(t.Context(), token), &objectv1pb.WatchRequest{Resource: &objectv1pb.Resource{Group: rbacv1.GroupName, Resource: "roles"}, Namespace: "default", SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := limited.Recv(); err != nil {
		t.Fatal(err)
	}
	unlimited, err := objectv1pb.NewObjectServiceClient(admin).Watch(t.Context(), &objectv1pb.WatchRequest{Resource: configMaps, Namespace: "default", SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unlimited.Recv(); err != nil { // it has begun
		t.Fatal(err)
	}
	reader := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
	}}
	if _, err := client.New(admin).Update(t.Context(), reader); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = limited.Recv()
	}
	if !apierrors.IsForbidden(rpc.FromStatus(err)) {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := client.New(admin).Create(t.Context(), configMap("seen", "1")); err != nil {
		t.Fatal(err)
	}
	for seen := false; !seen; {
		batch, err := unlimited.Recv()
		if err != nil {
			t.Fatalf("an administrator's stream: %v", err)
		}
		seen = len(batch.GetEvents()) > 0
	}
	// A stream ends when its token does.
	watch, err := objects.Watch(ctx, &objectv1pb.WatchRequest{Resource: configMaps, Namespace: "default", SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := client.New(admin).Delete(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}}, client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if err == io.EOF || !apierrors.IsUnauthorized(rpc.FromStatus(err)) { //nolint:errorlint // the very value
		t.Errorf("the stream ended with %v", err)
	}
}

func TestReviewsOverGRPC(t *testing.T) {
	d := open(t)
	admin, stranger := d.dial(t, "admin"), d.stranger(t)
	token := d.robot(t, admin)
	ctx := withToken(t.Context(), token)
	ask := func(ctx context.Context, conn *grpc.ClientConn, obj object.Object) object.Object {
		t.Helper()
		answer, err := create(ctx, conn, question(obj), "", obj)
		if err != nil {
			t.Fatalf("%T: %v", obj, err)
		}
		return answer
	}
	self, _ := ask(ctx, stranger, &authenticationv1.SelfSubjectReview{}).(*authenticationv1.SelfSubjectReview)
	if info := self.Status.UserInfo; info.Username != "system:serviceaccount:default:robot" || info.UID == "" || len(info.Extra["authentication.kubernetes.io/credential-id"]) != 1 {
		t.Errorf("who am I: %+v", info)
	}
	may := func(verb, resource, namespace string) bool {
		t.Helper()
		answer, _ := ask(ctx, stranger, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Resource: resource, Namespace: namespace},
		}}).(*authorizationv1.SelfSubjectAccessReview)
		return answer.Status.Allowed
	}
	if !may("list", "configmaps", "default") || may("list", "configmaps", "other") || may("delete", "configmaps", "default") {
		t.Error("the answers about configmaps are wrong")
	}
	rules, _ := ask(ctx, stranger, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}).(*authorizationv1.SelfSubjectRulesReview)
	if len(rules.Status.ResourceRules) != 3 || rules.Status.Incomplete {
		t.Errorf("rules: %+v", rules.Status)
	}
	whose, _ := ask(t.Context(), admin, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}).(*authenticationv1.TokenReview)
	if !whose.Status.Authenticated || whose.Status.User.Username != "system:serviceaccount:default:robot" {
		t.Errorf("whose token: %+v", whose.Status)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "x", Groups: []string{"system:masters"}, NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"},
	}}
	theirs, _ := ask(t.Context(), admin, review.DeepCopy()).(*authorizationv1.SubjectAccessReview)
	if !theirs.Status.Allowed {
		t.Errorf("an administrator: %+v", theirs.Status)
	}
	if _, err := create(ctx, stranger, question(review), "", review.DeepCopy()); !apierrors.IsForbidden(err) {
		t.Errorf("anybody asks about others: %v", err)
	}
	if _, err := create(t.Context(), admin, question(review), "", configMap("x", "")); !apierrors.IsBadRequest(err) {
		t.Errorf("another kind: %v", err)
	}
}
