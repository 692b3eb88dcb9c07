package rpc_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1pb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	accessv1pb "kijabi.dev/proto/gen/kijabi/access/v1"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

func TestServerRefusesToStartWithoutAccessRule(t *testing.T) {
	server, err := rpc.NewServer(rpc.ServerConfig{
		Address: "127.0.0.1:0", Identity: pkitest.Identity(t, pkitest.NewCA(t), pki.ComponentDNS, "n1"), Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "other.v1.OtherService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Forgotten"}},
	}, nil)
	err = server.Run(within(t))
	if err == nil || !strings.Contains(err.Error(), "/other.v1.OtherService/Forgotten") {
		t.Errorf("got %v", err)
	}
}

func TestNewServerNeedsTLS(t *testing.T) {
	if _, err := rpc.NewServer(rpc.ServerConfig{Log: zap.NewNop()}); err == nil {
		t.Error("a server without an identity was made")
	}
}

func TestAccess(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{name: "m1"}, func(cfg *rpc.ServerConfig) { cfg.MaxConnectionsPerUser = 64 })
	methods := map[string]func(conn *grpc.ClientConn) error{
		"anonymous": func(conn *grpc.ClientConn) error {
			_, err := certificatev1pb.NewCertificateServiceClient(conn).Renew(within(t), &certificatev1pb.RenewRequest{})
			return err
		},
		"health": func(conn *grpc.ClientConn) error {
			_, err := grpc_health_v1.NewHealthClient(conn).Check(within(t), &grpc_health_v1.HealthCheckRequest{})
			return err
		},
		"reflection": func(conn *grpc.ClientConn) error {
			stream, err := reflectionv1pb.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
			if err != nil {
				return err
			}
			list := &reflectionv1pb.ServerReflectionRequest_ListServices{}
			// A stream that is refused before it is sent to answers EOF; Recv says why.
			if err := stream.Send(&reflectionv1pb.ServerReflectionRequest{MessageRequest: list}); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			_, err = stream.Recv()
			return rpc.FromStatus(err)
		},
		"authenticated": func(conn *grpc.ClientConn) error {
			_, err := mastersv1pb.NewMastersServiceClient(conn).Status(within(t), &mastersv1pb.StatusRequest{})
			return err
		},
		"admin or master": func(conn *grpc.ClientConn) error {
			_, err := mastersv1pb.NewMastersServiceClient(conn).Transfer(within(t), &mastersv1pb.TransferRequest{})
			return err
		},
		"stream for managers": func(conn *grpc.ClientConn) error {
			stream, err := mastersv1pb.NewMastersServiceClient(conn).WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	}
	const none = "nobody"
	allowed := map[string][]string{
		none:                {"anonymous", "health"},
		pki.ComponentDNS:    {"anonymous", "health", "reflection", "authenticated"},
		pki.ComponentAdmin:  {"anonymous", "health", "reflection", "authenticated", "admin or master", "stream for managers"},
		"apiserver":         {"anonymous", "health", "reflection", "authenticated", "admin or master", "stream for managers"},
		"scheduler":         {"anonymous", "health", "reflection", "authenticated", "stream for managers"},
		"unknown-component": {"anonymous", "health", "reflection", "authenticated"},
	}
	for who, list := range allowed {
		conn := dialAnonymous(t, ca, server.address)
		if who != none {
			conn = dial(t, ca, server.address, who, "m2")
		}
		for name, call := range methods {
			err := call(conn)
			switch want := slices.Contains(list, name); {
			case want && err != nil:
				t.Errorf("%s, %s: %v", who, name, err)
			case !want && who == none && !apierrors.IsUnauthorized(err):
				t.Errorf("%s, %s: got %v, want Unauthorized", who, name, err)
			case !want && who != none && !apierrors.IsForbidden(err):
				t.Errorf("%s, %s: got %v, want Forbidden", who, name, err)
			}
		}
	}
}

func TestForeignCertificatesAreRefused(t *testing.T) {
	ca, other := pkitest.NewCA(t), pkitest.NewCA(t)
	server := start(t, ca, &service{})
	for name, conn := range map[string]*grpc.ClientConn{
		"client of another CA trusting ours": dialTrusting(t, other, ca, server.address),
		"client that trusts another CA":      dialTrusting(t, ca, other, server.address),
	} {
		_, err := mastersv1pb.NewMastersServiceClient(conn).Status(within(t), &mastersv1pb.StatusRequest{})
		if !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	wrongName, err := rpc.DialName(server.address, pki.ServerName(pki.ComponentKubelet, "m1"), pkitest.Identity(t, ca, pki.ComponentAdmin, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = wrongName.Close() }()
	if _, err = mastersv1pb.NewMastersServiceClient(wrongName).Status(within(t), &mastersv1pb.StatusRequest{}); err == nil {
		t.Error("a server of another name was accepted")
	}
}

// dialTrusting presents a certificate of signer and accepts servers of trusted.
func dialTrusting(t *testing.T, signer, trusted *pki.CA, address string) *grpc.ClientConn {
	t.Helper()
	certPEM, keyPEM, err := signer.Issue(pki.Subject(pki.ComponentKubelet, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(certPEM, keyPEM, trusted.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(address, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestCallerFromCertificate(t *testing.T) {
	ca := pkitest.NewCA(t)
	var seen atomic.Pointer[rpc.Caller]
	server := start(t, ca, &service{status: func(ctx context.Context) (*mastersv1pb.StatusResponse, error) {
		caller, _ := rpc.CallerFrom(ctx)
		seen.Store(&caller)
		return &mastersv1pb.StatusResponse{}, nil
	}})
	call := func(ctx context.Context, conn *grpc.ClientConn) rpc.Caller {
		t.Helper()
		if _, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{}); err != nil {
			t.Fatal(err)
		}
		return *seen.Load()
	}
	node := dial(t, ca, server.address, pki.ComponentKubelet, "n1.example")
	got := call(rpc.WithRequestID(rpc.WithEpoch(within(t), 7), "r1"), node)
	if program, _, _ := strings.Cut(got.UserAgent, "/"); program != "kubelet" {
		t.Errorf("the client calls itself %q", got.UserAgent)
	}
	got.UserAgent = ""
	want := rpc.Caller{
		Name: "system:node:n1.example", Groups: []string{"system:nodes", "kijabi:role:node", "system:authenticated"},
		Roles: []string{"node"}, Machine: "n1.example", RequestID: "r1", Epoch: 7,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("caller (-want +got):\n%s", diff)
	}
	if one, two := call(within(t), node).RequestID, call(within(t), node).RequestID; one == "" || one == two {
		t.Errorf("request ids are %q and %q", one, two)
	}
}

func TestForwardedCallerOnlyFromAPIServer(t *testing.T) {
	ca := pkitest.NewCA(t)
	var seen atomic.Pointer[rpc.Caller]
	server := start(t, ca, &service{transfer: func(ctx context.Context) error {
		caller, _ := rpc.CallerFrom(ctx)
		seen.Store(&caller)
		return nil
	}})
	original := rpc.Caller{
		Name: "jané 100%", UID: "u 1", Groups: []string{"dev,ops", "system:masters"}, Roles: []string{"admin"},
		Extra:     map[string][]string{"example.com/a=b": {"one", "zwei ü"}, "empty": {""}},
		UserAgent: "kubectl/v1 (é 100%)", RequestID: "r2", Epoch: 9,
	}
	transfer := func(component string) error {
		conn := dial(t, ca, server.address, component, "m2")
		_, err := mastersv1pb.NewMastersServiceClient(conn).Transfer(rpc.WithForwarded(within(t), original), &mastersv1pb.TransferRequest{})
		return err
	}
	if err := transfer(pki.ComponentAPIServer); err != nil {
		t.Fatal(err)
	}
	want := original
	want.Forwarded = true
	if diff := cmp.Diff(want, *seen.Load()); diff != "" {
		t.Errorf("forwarded by an apiserver (-want +got):\n%s", diff)
	}
	if err := transfer(pki.ComponentKubelet); !apierrors.IsForbidden(err) {
		t.Errorf("a kubelet that claims to forward for an administrator got %v", err)
	}
	if err := transfer(pki.ComponentAdmin); err != nil {
		t.Fatal(err)
	}
	if got := seen.Load(); got.Name != "kubernetes-admin" || got.Forwarded {
		t.Errorf("an administrator that claims to forward is seen as %+v", got)
	}
}

func TestAuthenticateAndAuthorizeHooks(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{}, func(cfg *rpc.ServerConfig) {
		cfg.Authenticate = func(ctx context.Context) (rpc.Caller, bool, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			switch tokens := md.Get("authorization"); {
			case len(tokens) == 0:
				return rpc.Caller{}, false, nil
			case tokens[0] == "Bearer good":
				return rpc.Caller{Name: "robot", Groups: []string{"kijabi:role:admin"}}, true, nil
			default:
				return rpc.Caller{}, false, apierrors.NewUnauthorized("the token is unknown")
			}
		}
		cfg.Authorize = func(_ context.Context, caller rpc.Caller, method string, access *accessv1pb.Access) error {
			if access == nil || !strings.HasPrefix(method, "/") {
				return errors.New("hook without method or rule")
			}
			if caller.Machine == "banned" {
				return apierrors.NewUnauthorized("banned")
			}
			return nil
		}
	})
	status := func(conn *grpc.ClientConn, token string) error {
		ctx := within(t)
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
		_, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
		return err
	}
	anonymous := dialAnonymous(t, ca, server.address)
	if err := status(anonymous, "good"); err != nil {
		t.Errorf("good token: %v", err)
	}
	for _, token := range []string{"", "bad"} {
		if err := status(anonymous, token); !apierrors.IsUnauthorized(err) {
			t.Errorf("token %q: %v", token, err)
		}
	}
	ctx := metadata.AppendToOutgoingContext(within(t), "authorization", "Bearer good")
	if _, err := mastersv1pb.NewMastersServiceClient(anonymous).Transfer(ctx, &mastersv1pb.TransferRequest{}); !apierrors.IsForbidden(err) {
		t.Errorf("a token's groups gave a role: %v", err)
	}
	if err := status(dial(t, ca, server.address, pki.ComponentKubelet, "banned"), ""); !apierrors.IsUnauthorized(err) {
		t.Errorf("authorize hook: %v", err)
	}
}

func TestStreamEndsWhenItsCallerLosesTheRight(t *testing.T) {
	ca := pkitest.NewCA(t)
	var lost atomic.Bool
	server := start(t, ca, &service{}, func(cfg *rpc.ServerConfig) {
		cfg.ReauthorizeEvery = 10 * time.Millisecond
		cfg.Authorize = func(context.Context, rpc.Caller, string, *accessv1pb.Access) error {
			if lost.Load() {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "masters"}, "", errors.New("the role binding is gone"))
			}
			return nil
		}
	})
	conn := dial(t, ca, server.address, pki.ComponentScheduler, "m1")
	stream, err := mastersv1pb.NewMastersServiceClient(conn).WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	lost.Store(true)
	if _, err := stream.Recv(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "binding is gone") {
		t.Errorf("the stream ended with %v", err)
	}
}
