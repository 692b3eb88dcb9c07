package rpcapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/flowcontrol"
	"kijabi.dev/apiserver/internal/rpcapi"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
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

// Calls that find no seat are refused as Kubernetes refuses them; a watch holds one only until
// its first message.
func TestCallsAreLimited(t *testing.T) {
	limiter := flowcontrol.New(flowcontrol.Config{Concurrency: 1})
	limiter.Configure(nil, []*flowcontrolv1.PriorityLevelConfiguration{{
		ObjectMeta: metav1.ObjectMeta{Name: "system"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: new(int32(30)), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}})
	used := func() int {
		for _, load := range limiter.Loads() {
			if load.Level == "system" {
				return load.Used
			}
		}
		return -1
	}
	d := openOn(t, memoryBackend(), func(cfg *rpc.ServerConfig) {
		cfg.Surround = rpcapi.Surround(traffic.New(traffic.Config{Limiter: limiter}))
	})
	conn := d.dial(t, "kube-proxy")
	service := objectv1pb.NewObjectServiceClient(conn)
	services := &objectv1pb.Resource{Version: "v1", Resource: "services"}
	list := func(service objectv1pb.ObjectServiceClient) error {
		stream, err := service.List(t.Context(), &objectv1pb.ListRequest{Resource: services})
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return rpc.FromStatus(err)
	}
	get := func() error {
		_, err := service.Get(t.Context(), &objectv1pb.GetRequest{Reference: &objectv1pb.Reference{Resource: services, Namespace: "default", Name: "none"}})
		return rpc.FromStatus(err)
	}
	seat, err := limiter.Acquire(t.Context(), flowcontrol.Request{User: "system:kube-proxy", Groups: []string{"kijabi:role:kube-proxy"}, Verb: "get", Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if err := get(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("get: %v", err)
	}
	// Clients that know nothing of Kubernetes are told when to come again, too.
	plain, err := grpc.NewClient(d.address, grpc.WithTransportCredentials(credentials.NewTLS(pkitest.Identity(t, d.ca, "kube-proxy", "m1").ClientTLS(pki.APIServerName))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	_, err = objectv1pb.NewObjectServiceClient(plain).Get(t.Context(), &objectv1pb.GetRequest{Reference: &objectv1pb.Reference{Resource: services, Namespace: "default", Name: "none"}})
	retry := time.Duration(0)
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			retry = info.GetRetryDelay().AsDuration()
		}
	}
	if status.Code(err) != codes.ResourceExhausted || retry != time.Second {
		t.Errorf("a plain client: %v, to come again after %s", err, retry)
	}
	if err := list(service); !apierrors.IsTooManyRequests(err) {
		t.Errorf("list: %v", err)
	}
	if err := list(objectv1pb.NewObjectServiceClient(d.dial(t, "scheduler"))); err != nil {
		t.Errorf("list by the scheduler: %v", err)
	}
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
	seat.Release()
	for range 3 {
		watch, err := service.Watch(t.Context(), &objectv1pb.WatchRequest{Resource: services, SendInitialEvents: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		if n := used(); n != 0 {
			t.Errorf("%d seats are held by a watch", n)
		}
	}
	if err := list(service); err != nil {
		t.Errorf("list beside watches: %v", err)
	}
	if err := get(); !apierrors.IsNotFound(err) {
		t.Errorf("get beside watches: %v", err)
	}
	eventually(t, "no seat is left taken", func() bool { return used() == 0 })
}
