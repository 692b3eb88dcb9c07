package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

func TestPanicIsOneFailedCall(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{
		transfer:    func(context.Context) error { panic("boom") },
		watchLeader: func(grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error { panic("boom") },
	})
	masters := mastersv1pb.NewMastersServiceClient(dial(t, ca, server.address, pki.ComponentAdmin, ""))
	if _, err := masters.Transfer(within(t), &mastersv1pb.TransferRequest{}); !apierrors.IsInternalError(err) {
		t.Errorf("unary: %v", err)
	}
	stream, err := masters.WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if !apierrors.IsInternalError(err) {
		t.Errorf("stream: %v", err)
	}
	if _, err := masters.Status(within(t), &mastersv1pb.StatusRequest{}); err != nil {
		t.Errorf("after the panics: %v", err)
	}
}

func TestUnaryCallsHaveADeadline(t *testing.T) {
	ca := pkitest.NewCA(t)
	var left atomic.Int64
	server := start(t, ca, &service{transfer: func(ctx context.Context) error {
		if end, ok := ctx.Deadline(); ok {
			left.Store(int64(time.Until(end)))
		}
		return nil
	}})
	masters := mastersv1pb.NewMastersServiceClient(dial(t, ca, server.address, pki.ComponentAdmin, ""))
	if _, err := masters.Transfer(context.WithoutCancel(t.Context()), &mastersv1pb.TransferRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(left.Load()); got < 20*time.Second || got > 30*time.Second {
		t.Errorf("the handler had %s", got)
	}
}

func TestServerEndsStreamsAndFinishesCalls(t *testing.T) {
	ca := pkitest.NewCA(t)
	entered, release := make(chan struct{}), make(chan struct{})
	server := start(t, ca, &service{transfer: func(context.Context) error {
		close(entered)
		<-release
		return nil
	}}, func(cfg *rpc.ServerConfig) { cfg.GracePeriod = deadline })
	masters := mastersv1pb.NewMastersServiceClient(dial(t, ca, server.address, pki.ComponentAdmin, ""))
	stream, err := masters.WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	called := make(chan error, 1)
	background(t, func(ctx context.Context) error {
		_, err := masters.Transfer(ctx, &mastersv1pb.TransferRequest{})
		called <- err
		return nil
	})
	<-entered
	background(t, func(context.Context) error { server.stop(); return nil })
	if _, err := stream.Recv(); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("the stream ended with %v", err)
	}
	close(release)
	if err := <-called; err != nil {
		t.Errorf("the call in progress: %v", err)
	}
}

func TestHealthFollowsSetServing(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{})
	health := grpc_health_v1.NewHealthClient(dialAnonymous(t, ca, server.address))
	for _, serving := range []bool{true, false, true} {
		server.SetServing(serving)
		res, err := health.Check(within(t), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || (res.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING) != serving {
			t.Errorf("serving %v: %v, %v", serving, res, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{name: "m1"}, func(cfg *rpc.ServerConfig) {
		cfg.Address = "unix://" + filepath.Join(t.TempDir(), "s")
	})
	conn := dial(t, ca, server.address, pki.ComponentAdmin, "")
	if res, err := mastersv1pb.NewMastersServiceClient(conn).Status(within(t), &mastersv1pb.StatusRequest{}); err != nil || res.GetAnsweredBy() != "m1" {
		t.Errorf("got %v, %v", res, err)
	}
	if _, err := rpc.Listen(within(t), server.address); err == nil {
		t.Error("a socket in use was taken over")
	}
}

func TestLimits(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{})
	objects := objectv1pb.NewObjectServiceClient(dial(t, ca, server.address, pki.ComponentAdmin, ""))
	big := &objectv1pb.GetRequest{Reference: &objectv1pb.Reference{Name: strings.Repeat("x", 5<<20)}}
	if _, err := objects.Get(within(t), big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of 5 MiB: %v", err)
	}
	ctx := metadata.AppendToOutgoingContext(within(t), "big", strings.Repeat("x", 80<<10))
	if _, err := objects.Get(ctx, &objectv1pb.GetRequest{}); err == nil {
		t.Error("headers of 80 KiB were accepted")
	}
	if _, err := objects.Get(within(t), &objectv1pb.GetRequest{}); err != nil {
		t.Errorf("after the refusals: %v", err)
	}
}

func TestLargeAnswersReachTheClient(t *testing.T) {
	ca := pkitest.NewCA(t)
	content := bytes.Repeat([]byte("x"), 6<<20)
	server := start(t, ca, &service{get: func(context.Context, *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error) {
		return &objectv1pb.GetResponse{Object: &anypb.Any{Value: content}}, nil
	}})
	objects := objectv1pb.NewObjectServiceClient(dial(t, ca, server.address, pki.ComponentKubelet, "n1"))
	res, err := objects.Get(within(t), &objectv1pb.GetRequest{})
	if err != nil || !bytes.Equal(res.GetObject().GetValue(), content) {
		t.Errorf("got %d bytes, %v", len(res.GetObject().GetValue()), err)
	}
}

func TestConnectionsPerUser(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{}, func(cfg *rpc.ServerConfig) { cfg.MaxConnectionsPerUser = 2 })
	status := func(conn *grpc.ClientConn) error {
		_, err := mastersv1pb.NewMastersServiceClient(conn).Status(within(t), &mastersv1pb.StatusRequest{})
		return err
	}
	first, second := dial(t, ca, server.address, "kube-proxy", "n1"), dial(t, ca, server.address, "kube-proxy", "n1")
	if err := errors.Join(status(first), status(second)); err != nil {
		t.Fatal(err)
	}
	if err := status(dial(t, ca, server.address, "kube-proxy", "n1")); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("third connection: %v", err)
	}
	if err := status(dial(t, ca, server.address, "kube-proxy", "n2")); err != nil {
		t.Errorf("the same user on another machine: %v", err)
	}
	_ = first.Close()
	eventually(t, "a place becomes free", func() bool {
		return status(dial(t, ca, server.address, "kube-proxy", "n1")) == nil
	})
}

func TestConnectionEndsWithItsCertificate(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{})
	req := pki.Subject(pki.ComponentScheduler, "m1")
	req.Life = 2 * time.Second
	certPEM, keyPEM, err := ca.Issue(req)
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(certPEM, keyPEM, ca.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(server.address, id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := mastersv1pb.NewMastersServiceClient(conn).WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("the stream ended with %v", err)
	}
	if time.Now().Before(id.Leaf().NotAfter) {
		t.Error("the stream ended before the certificate")
	}
}

func TestTrustedCarrier(t *testing.T) {
	ca := pkitest.NewCA(t)
	var seen atomic.Pointer[rpc.Caller]
	server := start(t, ca, &service{transfer: func(ctx context.Context) error {
		caller, _ := rpc.CallerFrom(ctx)
		seen.Store(&caller)
		return nil
	}}, func(cfg *rpc.ServerConfig) {
		cfg.Identity, cfg.Trust = nil, &rpc.Caller{Name: "kijabi:apiserver", Roles: []string{"apiserver", "master"}}
	})
	conn := dial(t, ca, server.address, pki.ComponentAdmin, "", grpc.WithTransportCredentials(insecure.NewCredentials()))
	masters := mastersv1pb.NewMastersServiceClient(conn)
	ctx := rpc.WithForwarded(within(t), rpc.Caller{Name: "jane"})
	if _, err := masters.Transfer(ctx, &mastersv1pb.TransferRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := seen.Load(); got.Name != "jane" || !got.Forwarded {
		t.Errorf("caller is %+v", got)
	}
	stream, err := masters.WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Errorf("as itself: %v", err)
	}
}

// TestExpiredCertificateCanBeRenewed is a machine that was off for too long: its
// connection is anonymous, good for nothing but renewing, and turns authenticated.
func TestExpiredCertificateCanBeRenewed(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{})
	req := pki.Subject(pki.ComponentKubelet, "n1")
	req.Life = time.Millisecond
	files := pkitest.Files(t, ca, req)
	id, err := pki.OpenIdentity(files)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "expired", id.Expired)
	conn, err := rpc.Dial(server.address, id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	masters := mastersv1pb.NewMastersServiceClient(conn)
	if _, err := masters.Status(within(t), &mastersv1pb.StatusRequest{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("with an expired certificate: %v", err)
	}
	if _, err := certificatev1pb.NewCertificateServiceClient(conn).Renew(within(t), &certificatev1pb.RenewRequest{}); err != nil {
		t.Errorf("renewing: %v", err)
	}
	if err := pki.RenewNow(t.Context(), files, pki.SignWith(ca, time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := id.Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "authenticated", func() bool {
		_, err := masters.Status(within(t), &mastersv1pb.StatusRequest{})
		return err == nil
	})
}
