package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protodesc"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
)

// MaxRequestBytes is the greatest request that a server takes unless configured; at an apiserver
// it is the limit of both doors. It is that of Kubernetes: twice the 1.5 MiB that an etcd of its
// own takes, since JSON is larger than what is stored (k8s.io/apiserver, server.NewConfig).
const MaxRequestBytes = 3 << 20

// Limits of a server; what is not configurable in ServerConfig.
const (
	maxSend           = 8 << 20
	maxHeaders        = 64 << 10
	userStreams       = 100
	nodeStreams       = 250
	keepaliveMinTime  = 10 * time.Second
	userConnectionAge = 30 * time.Minute
	userAgeGrace      = 5 * time.Minute
	defaultDeadline   = 30 * time.Second

	defaultReauthorize = time.Minute
	defaultPerIP       = 64
	defaultPerUser     = 8
	defaultGracePeriod = 3 * time.Second
)

// Times of a connection unless configured; those of keepalive are a client's, too. gRPC's own are
// 2 minutes for a handshake, 2 hours and 20 s for keepalive, and no bound for sending, too long for
// whoever waits for the machine at the other end to be given up.
const (
	handshakeTimeout = 5 * time.Second
	keepaliveTime    = 20 * time.Second
	keepaliveTimeout = 10 * time.Second
	sendTimeout      = 30 * time.Second
)

// Timeouts of a server's connections; zero ones mean the defaults.
type Timeouts struct {
	// Handshake bounds TLS, and then HTTP/2's preface; 5 s.
	Handshake time.Duration
	// Keepalive is how long a client may say nothing before it is asked whether it is there, at
	// least 1 s; 20 s. KeepaliveAnswer is how long its answer may take; 10 s.
	Keepalive, KeepaliveAnswer time.Duration
	// Send is how long a client may take nothing of a stream that has more for it, before its
	// connection is closed; 30 s, the REST door's, too. Negative means no bound, for streams that
	// people may pause.
	Send time.Duration
}

// ServerConfig describes a server.
type ServerConfig struct {
	// Address to listen on: host:port, or unix:///path. Required for Run; Serve
	// takes a listener instead.
	Address string
	// Identity the server presents and checks clients against. Required unless TLS or Trust is set.
	Identity *pki.Identity
	// ClientAuth says how client certificates are treated; zero means
	// tls.VerifyClientCertIfGiven, so that anonymous methods can be called without.
	ClientAuth tls.ClientAuthType
	// TLS replaces the configuration made of Identity and ClientAuth.
	TLS *tls.Config
	// Log of the server. Required.
	Log *zap.Logger
	// Authorize may refuse a call that the access rule admits. Optional.
	Authorize AuthorizeFunc
	// ReauthorizeEvery is how often Authenticate and Authorize are asked about a
	// running stream again; 0 means 1 minute.
	ReauthorizeEvery time.Duration
	// Authenticate identifies callers without a certificate. Optional.
	Authenticate AuthenticateFunc
	// Impersonate decides about calls that their caller wants to make as another. Without
	// it such calls are refused.
	Impersonate ImpersonateFunc
	// Trust replaces TLS where the listener's connections are protected and
	// authenticated by what carries them, such as the tunnel that a node opened: every
	// call is made by this caller. Optional.
	Trust *Caller
	// Node gives every connection the limits of a machine's: more streams and no
	// forced end. Without it only connections whose certificate names a machine's
	// program get them.
	Node bool
	// Streams replaces the number of concurrent streams of a connection; 0 means 250 for
	// machines and 100 for users.
	Streams uint32
	// MaxConnectionsPerIP bounds handshakes in progress, and connections without an
	// identity, of one address; 0 means 64. Unix sockets have no such bound.
	MaxConnectionsPerIP int
	// MaxConnectionsPerUser bounds the connections of one user on one machine; 0 means 8.
	MaxConnectionsPerUser int
	// MaxRequestBytes bounds one message of a client; 0 means the constant of this name.
	MaxRequestBytes int
	// Timeouts of connections.
	Timeouts Timeouts
	// GracePeriod is how long calls in progress may take when the server ends; 0 means 3 s.
	GracePeriod time.Duration
	// Descriptors is what the reflection service describes messages from; nil means
	// those linked into the program.
	Descriptors protodesc.Resolver
	// Surround is called with every call whose caller is known or anonymous, refused or not, and
	// performs it by next. What it returns instead of next's error is what the client is told. Optional.
	Surround func(ctx context.Context, call *Call, next func(context.Context) error) error
	// Options are added to the gRPC servers'. Optional.
	Options []grpc.ServerOption
}

// Server serves gRPC with the limits of this package. Services are registered on
// it before Run. It serves users and machines by two gRPC servers with different
// limits, on one address; registering reaches both.
type Server struct {
	*grpc.Server // serves users

	machines *grpc.Server
	cfg      ServerConfig
	tls      *tls.Config
	health   *health.Server
	access   atomic.Pointer[accessTable]
	address  atomic.Pointer[string]
	serving  chan struct{}   // closed once it serves
	stopping context.Context //nolint:containedctx // ends long streams when the server does
	stop     context.CancelFunc

	selfMu sync.Mutex
	self   *grpc.ClientConn // made by Alive
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// NewServer returns a server with health and reflection registered. Its health is
// SERVING until SetServing says otherwise.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		return nil, errors.New("rpc server: no logger")
	}
	if cfg.TLS == nil && cfg.Identity == nil && cfg.Trust == nil {
		return nil, errors.New("rpc server: neither identity nor TLS configuration; nothing is served in clear")
	}
	cfg = withDefaults(cfg)
	s := &Server{cfg: cfg, tls: cfg.TLS, health: health.NewServer(), serving: make(chan struct{})}
	if s.tls == nil && cfg.Identity != nil {
		s.tls = cfg.Identity.ServerTLS(cfg.ClientAuth)
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.Server = grpc.NewServer(append(s.options(userStreams, keepalive.ServerParameters{
		Time: cfg.Timeouts.Keepalive, Timeout: cfg.Timeouts.KeepaliveAnswer,
		MaxConnectionAge: userConnectionAge, MaxConnectionAgeGrace: userAgeGrace,
	}), cfg.Options...)...)
	s.machines = grpc.NewServer(append(s.options(nodeStreams, keepalive.ServerParameters{
		Time: cfg.Timeouts.Keepalive, Timeout: cfg.Timeouts.KeepaliveAnswer, MaxConnectionAge: machineAge(cfg.Identity),
	}), cfg.Options...)...)
	grpc_health_v1.RegisterHealthServer(s, s.health)
	for _, server := range []*grpc.Server{s.Server, s.machines} {
		described := reflection.ServerOptions{Services: server, DescriptorResolver: cfg.Descriptors}
		grpc_reflection_v1.RegisterServerReflectionServer(server, reflection.NewServerV1(described))
		grpc_reflection_v1alpha.RegisterServerReflectionServer(server, reflection.NewServer(described))
	}
	return s, nil
}

func withDefaults(cfg ServerConfig) ServerConfig {
	if cfg.ClientAuth == tls.NoClientCert {
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
	}
	cfg.MaxConnectionsPerIP = cmp.Or(cfg.MaxConnectionsPerIP, defaultPerIP)
	cfg.MaxConnectionsPerUser = cmp.Or(cfg.MaxConnectionsPerUser, defaultPerUser)
	cfg.ReauthorizeEvery = cmp.Or(cfg.ReauthorizeEvery, defaultReauthorize)
	cfg.GracePeriod = cmp.Or(cfg.GracePeriod, defaultGracePeriod)
	cfg.MaxRequestBytes = cmp.Or(cfg.MaxRequestBytes, MaxRequestBytes)
	t := &cfg.Timeouts
	t.Handshake = cmp.Or(t.Handshake, handshakeTimeout)
	t.Keepalive, t.KeepaliveAnswer = cmp.Or(t.Keepalive, keepaliveTime), cmp.Or(t.KeepaliveAnswer, keepaliveTimeout)
	t.Send = cmp.Or(t.Send, sendTimeout)
	return cfg
}

// machineAge is when a machine is asked to move its calls to a new connection,
// before the certificate of the old one ends: renewed at two thirds of its life, that
// leaves time to spare. Streams stay as long as they last. All certificates of a
// cluster live about as long as the server's own.
func machineAge(id *pki.Identity) time.Duration {
	if id == nil {
		return 0
	}
	return pki.Successor(id.Leaf()).Life / 8
}

func (s *Server) options(streams uint32, alive keepalive.ServerParameters) []grpc.ServerOption {
	if s.cfg.Streams > 0 {
		streams = s.cfg.Streams
	}
	return []grpc.ServerOption{
		grpc.Creds(handshaken{}),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(s.cfg.MaxRequestBytes),
		grpc.MaxSendMsgSize(maxSend),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(streams),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ConnectionTimeout(s.cfg.Timeouts.Handshake),
		grpc.KeepaliveParams(alive),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinTime, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
	}
}

// RegisterService registers a service; generated RegisterXServer functions call it.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.Server.RegisterService(desc, impl)
	s.machines.RegisterService(desc, impl)
}

// Health is the health service, for statuses of single services.
func (s *Server) Health() *health.Server { return s.health }

// SetServing sets the overall health, by which clients choose among servers.
func (s *Server) SetServing(serving bool) {
	status := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
}

// Addr is the address the server listens on, with the real port; empty before Run.
func (s *Server) Addr() string {
	if address := s.address.Load(); address != nil {
		return *address
	}
	return ""
}

// Run listens on the configured address and serves until ctx ends. It fails at once
// when a registered method has no access rule.
func (s *Server) Run(ctx context.Context) error {
	listener, err := Listen(ctx, s.cfg.Address)
	if err != nil {
		return err
	}
	return s.Serve(ctx, listener)
}

// Listen opens host:port or unix:///path; a socket file left by a dead process is replaced.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, address = "unix", path
		if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, path); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("listen on unix://%s: another process listens there", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("listen on unix://%s: %w", path, err)
		}
	}
	config := net.ListenConfig{KeepAlive: keepaliveTime}
	listener, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}

// Serve is Run on a listener, which it closes. Serve and Run are called once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	table, err := newAccessTable(s.GetServiceInfo())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	s.access.Store(&table)
	address := listener.Addr().String()
	s.address.Store(&address)
	s.cfg.Log.Info("serving grpc", logging.Address(address))

	gate := newGate(s.cfg, s.tls, listener)
	group := lifecycle.NewGroup(ctx)
	close(s.serving)
	group.Go(gate.run)
	group.Go(func(context.Context) error { return serve(s.Server, gate.users) })
	group.Go(func(context.Context) error { return serve(s.machines, gate.machines) })
	group.Go(func(ctx context.Context) error {
		<-ctx.Done()
		s.shutdown()
		return nil
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("serve grpc on %s: %w", address, err)
	}
	return nil
}

func serve(server *grpc.Server, listener net.Listener) error {
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// shutdown lets calls in progress end, streams at once and the rest within the grace period.
func (s *Server) shutdown() {
	s.health.Shutdown()
	s.stop()
	s.closeSelf()
	hard := time.AfterFunc(s.cfg.GracePeriod, func() {
		s.Server.Stop()
		s.machines.Stop()
	})
	defer hard.Stop()
	s.Server.GracefulStop()
	s.machines.GracefulStop()
}
