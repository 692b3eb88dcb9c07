package rpcapi_test

import (
	"bytes"
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/rpcapi"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

func TestCallsAreAudited(t *testing.T) {
	log := audittest.Open(t)
	d := openOn(t, memoryBackend(), func(cfg *rpc.ServerConfig) {
		cfg.Surround = rpcapi.Surround(traffic.New(traffic.Config{Audit: log.Log}))
	})
	conn := d.dial(t, "admin")
	service := objectv1pb.NewObjectServiceClient(conn)
	secrets := &objectv1pb.Resource{Version: "v1", Resource: "secrets"}
	reference := func(name string) *objectv1pb.Reference {
		return &objectv1pb.Reference{Resource: secrets, Namespace: "default", Name: name}
	}
	const canary = "canary-of-a-secret"
	packed, err := object.Pack(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"k": []byte(canary)}})
	if err != nil {
		t.Fatal(err)
	}
	var header metadata.MD
	ctx := rpc.WithEpoch(rpc.WithRequestID(t.Context(), "request-1"), 0)
	if _, err := service.Create(ctx, &objectv1pb.CreateRequest{Reference: reference("s"), Object: packed}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get("audit-id"); len(got) != 1 || got[0] != "request-1" {
		t.Errorf("audit-id %v", got)
	}
	if _, err := service.Get(t.Context(), &objectv1pb.GetRequest{Reference: reference("none")}); !apierrors.IsNotFound(rpc.FromStatus(err)) {
		t.Errorf("get: %v", err)
	}
	list, err := service.List(t.Context(), &objectv1pb.ListRequest{Resource: secrets, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = list.Recv()
	}
	if _, err := service.Transact(t.Context(), &objectv1pb.TransactRequest{Operations: []*objectv1pb.Operation{
		{Operation: &objectv1pb.Operation_Delete{Delete: &objectv1pb.DeleteRequest{Reference: reference("s")}}},
	}}); err != nil {
		t.Fatal(err)
	}
	proxy := objectv1pb.NewObjectServiceClient(d.dial(t, "kube-proxy"))
	if _, err := proxy.Get(t.Context(), &objectv1pb.GetRequest{Reference: reference("s")}); !apierrors.IsForbidden(rpc.FromStatus(err)) {
		t.Errorf("get by kube-proxy: %v", err)
	}
	watching, stop := context.WithCancel(t.Context())
	watch, err := service.Watch(watching, &objectv1pb.WatchRequest{Resource: secrets, SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	stop()

	const prefix = "/kijabi.object.v1.ObjectService/"
	type line struct {
		uri, verb, resource, name string
		user                      string
		code                      int
		reason, decision          string
	}
	admin, node := "kubernetes-admin", "system:kube-proxy"
	want := []line{
		{prefix + "Create", "create", "secrets", "s", admin, 200, "", "allow"},
		{prefix + "Get", "get", "secrets", "none", admin, 404, "NotFound", "allow"},
		{prefix + "List", "list", "secrets", "", admin, 200, "", "allow"},
		{prefix + "Transact", "transact", "", "", admin, 200, "", "allow"},
		{prefix + "Get", "get", "secrets", "s", node, 403, "Forbidden", "forbid"},
		{prefix + "Watch", "watch", "secrets", "", admin, 200, "", "allow"},
	}
	events, content := log.Events(len(want))
	if len(events) != len(want) {
		t.Errorf("%d events, want %d", len(events), len(want))
	}
	if bytes.Contains(content, []byte(canary)) {
		t.Errorf("the log holds the content of a secret")
	}
	for i, e := range events[:len(want)] {
		got := line{
			e.RequestURI, e.Verb, e.ObjectRef.Resource, e.ObjectRef.Name, e.User.Username,
			e.ResponseStatus.Code, e.ResponseStatus.Reason, e.Annotations["authorization.k8s.io/decision"],
		}
		if got != want[i] {
			t.Errorf("event %d: %+v, want %+v", i, got, want[i])
		}
		if len(e.SourceIPs) != 1 || e.SourceIPs[0] != "127.0.0.1" || e.AuditID == "" {
			t.Errorf("event %d: id %q from %v", i, e.AuditID, e.SourceIPs)
		}
	}
	if got := events[3].Annotations["kijabi.dev/operations"]; got != "delete secrets default/s" {
		t.Errorf("operations %q", got)
	}
}
