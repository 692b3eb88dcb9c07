package rpc_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds everything a test waits for.
const deadline = 20 * time.Second

// service answers for three real services as a test says.
type service struct {
	mastersv1pb.UnimplementedMastersServiceServer
	certificatev1pb.UnimplementedCertificateServiceServer
	objectv1pb.UnimplementedObjectServiceServer

	name        string
	status      func(ctx context.Context) (*mastersv1pb.StatusResponse, error)
	join        func(ctx context.Context) error
	transfer    func(ctx context.Context) error
	watchLeader func(out grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error
	get         func(ctx context.Context, req *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error)
}

func (s *service) Status(ctx context.Context, _ *mastersv1pb.StatusRequest) (*mastersv1pb.StatusResponse, error) {
	if s.status != nil {
		return s.status(ctx)
	}
	return &mastersv1pb.StatusResponse{AnsweredBy: s.name}, nil
}

func (s *service) Join(ctx context.Context, _ *mastersv1pb.JoinRequest) (*mastersv1pb.JoinResponse, error) {
	if s.join != nil {
		if err := s.join(ctx); err != nil {
			return nil, err
		}
	}
	return &mastersv1pb.JoinResponse{}, nil
}

func (s *service) Transfer(ctx context.Context, _ *mastersv1pb.TransferRequest) (*mastersv1pb.TransferResponse, error) {
	if s.transfer != nil {
		if err := s.transfer(ctx); err != nil {
			return nil, err
		}
	}
	return &mastersv1pb.TransferResponse{Leader: s.name}, nil
}

func (s *service) WatchLeader(_ *mastersv1pb.WatchLeaderRequest, out grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error {
	if s.watchLeader != nil {
		return s.watchLeader(out)
	}
	if err := out.Send(&mastersv1pb.WatchLeaderResponse{Leader: s.name}); err != nil {
		return err
	}
	<-out.Context().Done()
	return out.Context().Err()
}

func (s *service) Renew(context.Context, *certificatev1pb.RenewRequest) (*certificatev1pb.RenewResponse, error) {
	return &certificatev1pb.RenewResponse{}, nil
}

func (s *service) Get(ctx context.Context, req *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error) {
	if s.get != nil {
		return s.get(ctx, req)
	}
	return &objectv1pb.GetResponse{}, nil
}

// running is a server under test.
type running struct {
	*rpc.Server
	address string
	stop    func()
}

// start runs a server of service until the test ends or stop is called.
func start(t *testing.T, ca *pki.CA, svc *service, change ...func(*rpc.ServerConfig)) running {
	t.Helper()
	cfg := rpc.ServerConfig{
		Identity: pkitest.Identity(t, ca, pki.ComponentAPIServer, "m1"), Log: zap.NewNop(), GracePeriod: time.Second,
	}
	for _, f := range change {
		f(&cfg)
	}
	server, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatalf("new server: %v", err)
	}
	mastersv1pb.RegisterMastersServiceServer(server, svc)
	certificatev1pb.RegisterCertificateServiceServer(server, svc)
	objectv1pb.RegisterObjectServiceServer(server, svc)
	address := cfg.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := rpc.Listen(t.Context(), address)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	if address = listener.Addr().String(); listener.Addr().Network() == "unix" {
		address = "unix://" + address
	}
	stop := background(t, func(ctx context.Context) error { return server.Serve(ctx, listener) })
	return running{Server: server, address: address, stop: stop}
}

// background runs task until the test ends or the returned function is called,
// and fails the test if the task fails.
func background(t *testing.T, task lifecycle.Task) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	group := lifecycle.NewGroup(ctx)
	group.Go(task)
	stop = sync.OnceFunc(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("task: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// dial connects as a component on a machine.
func dial(t *testing.T, ca *pki.CA, address, component, machine string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(address, pkitest.Identity(t, ca, component, machine), opts...)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dialAnonymous connects without a certificate.
func dialAnonymous(t *testing.T, ca *pki.CA, address string) *grpc.ClientConn {
	t.Helper()
	id := pkitest.Identity(t, ca, pki.ComponentAdmin, "")
	cfg := id.ClientTLS(pki.APIServerName)
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	conn, err := rpc.Dial(address, id, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// within bounds a context by the test's deadline.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("timeout: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// proxy forwards TCP to a server and can fall silent like a machine that lost its
// network: connections stay open and carry nothing.
type proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	frozen chan struct{}
	conns  []net.Conn
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	p := &proxy{listener: listener, target: target, frozen: make(chan struct{})}
	background(t, p.run)
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) freeze() { close(p.frozen) }

func (p *proxy) run(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	group.Go(func(ctx context.Context) error {
		<-ctx.Done()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, conn := range p.conns {
			_ = conn.Close()
		}
		return p.listener.Close()
	})
	group.Go(func(ctx context.Context) error {
		for {
			in, err := p.listener.Accept()
			if err != nil {
				return nil //nolint:nilerr // closed
			}
			out, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			group.Go(func(context.Context) error { p.copy(in, out); return nil })
			group.Go(func(context.Context) error { p.copy(out, in); return nil })
		}
	})
	return group.Wait()
}

func (p *proxy) copy(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-p.frozen:
			if err == nil {
				_, _ = io.Copy(io.Discard, from)
			}
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}
