// Package rest is the HTTPS door of the apiserver: the Kubernetes REST API for
// kubectl, client-go and everything built on them. It authenticates, authorizes and
// translates between HTTP and registry.Registry; what a request means is decided there.
package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/reviews"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/apiserver/internal/transcode"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/rpc"
)

// Limits of the door. They are fixed: a client that needs more does something wrong.
const (
	// maxBodyBytes is what Kubernetes takes, too: twice the 1.5 MiB that an etcd of its own
	// accepts, since JSON is larger than what is stored (k8s.io/apiserver, server.NewConfig).
	// The gRPC door has the same limit.
	maxBodyBytes   = rpc.MaxRequestBytes
	maxHeaderBytes = 64 << 10
	// readHeaderTimeout bounds the handshake and the headers of each HTTP/1.1 request, and how
	// long a new connection may say nothing. The first is what net/http makes of it.
	readHeaderTimeout = 10 * time.Second
	readBodyTimeout   = 30 * time.Second
	writeTimeout      = 30 * time.Second // of one piece; ends slow readers
	requestTimeout    = 60 * time.Second // --request-timeout of Kubernetes
	// idleTimeout is twice that of the clients of Kubernetes, 90 s as in http.DefaultTransport,
	// so that it is they who close: a request never meets a connection that is being closed.
	idleTimeout        = 3 * time.Minute
	shutdownTimeout    = 5 * time.Second
	catchUpTimeout     = 3 * time.Second
	maxStreamsPerConn  = 250
	reauthorizeEvery   = time.Minute
	compressAboveBytes = 128 << 10

	// Every 30 s an HTTP/2 client that sends nothing is asked whether it is there, and has 15 s to
	// answer: what clients of Kubernetes ask of their server (apimachinery, util/net). Headers that
	// come in pieces end by it, too: no answer can come between them.
	pingEvery   = 30 * time.Second
	pingTimeout = 15 * time.Second
	// keepAlive asks the same of the kernel at the other end, for HTTP/1.1: every 15 s, thrice.
	keepAlive = 15 * time.Second
	// userTimeout ends connections whose client acknowledges nothing.
	userTimeout = 30 * time.Second
	// connsPerIP bounds the connections of one address, behind which may be a whole machine
	// of pods, and pendingPerIP those that have not made a request yet, as at the gRPC door.
	connsPerIP   = 1024
	pendingPerIP = 64
)

// Authorizer decides whether a caller may do something; *authz.Authorizer implements it.
// It is asked before the registry is.
type Authorizer interface {
	reviews.Authorizer
	// Admit is Authorize for short requests: it returns the context to perform one with.
	Admit(ctx context.Context, attr authz.Attributes) (context.Context, error)
}

// Nodes finds the way to a node's KubeletService.
type Nodes interface {
	// Node returns a connection on which the node's KubeletService answers, on this
	// master or by a relay. The connection belongs to Nodes. When no master holds the node
	// it returns an *apierrors.StatusError, ServiceUnavailable.
	Node(ctx context.Context, name string) (grpc.ClientConnInterface, error)
}

// TLSIdentity is what the door needs of a *pki.Identity.
type TLSIdentity interface {
	// ServerTLS returns a configuration that serves the newest certificate and
	// checks clients against the newest authorities.
	ServerTLS(auth tls.ClientAuthType) *tls.Config
}

// Check is one line of /readyz and, with Live, of /livez.
type Check struct {
	Name string
	// Live checks fail only when a restart would help.
	Live  bool
	Check func() error
}

// Config of the Server.
type Config struct {
	// Registry behind the door. Required.
	Registry registry.Registry
	// Authorizer of every request. Required.
	Authorizer Authorizer
	// Tokens of service accounts; without, none is accepted. Optional.
	Tokens *authn.Tokens
	// Nodes for logs, exec, attach and port-forward. Required.
	Nodes Nodes
	// Identity the door serves TLS with. Required by Run.
	Identity TLSIdentity
	// Address is host:port to listen on. Required by Run unless Listener is set.
	Address string
	// Listener to serve on instead of Address; Run closes it. Optional.
	Listener net.Listener
	// Checks behind /livez, /readyz and /healthz. Optional.
	Checks []Check
	// AdvertiseAddress is host:port that clients reach this master at; shown in /api. Optional.
	AdvertiseAddress string
	// Traffic sees every request and limits them; one that does nothing when nil.
	Traffic *traffic.Control
	// Metrics answers /metrics; nil for none.
	Metrics http.Handler
	// Programs are those of this machine whose metrics /metrics/NAME shows. Optional.
	Programs map[string]Page
	// Clock; real when nil.
	Clock clock.PassiveClock
	// Log. Required.
	Log *zap.Logger
}

// Server is the door.
type Server struct {
	cfg     Config
	codec   *codec
	reviews *reviews.Reviews
	// seen is the latest view; viewing is held by who makes another.
	seen    atomic.Pointer[view]
	viewing sync.Mutex
	// transcoders write stored objects as JSON.
	transcoders transcode.Transcoders
	// readTimeout of a request's body, writeTimeout of one piece of an answer.
	readTimeout, writeTimeout time.Duration
	// headerTimeout, idleTimeout, pingEvery and pingTimeout of connections, for httpServer.
	headerTimeout, idleTimeout, pingEvery, pingTimeout time.Duration
	// reauthorizeEvery is how often a stream's caller is asked about again.
	reauthorizeEvery time.Duration
	// stopping ends watches and streams, while short requests may finish.
	stopping context.Context //nolint:containedctx // lives as long as the server
	stop     context.CancelFunc
}

// New returns a Server ready to Run, or to be used as http.Handler.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Registry == nil:
		return nil, errors.New("rest: Registry is required")
	case cfg.Authorizer == nil:
		return nil, errors.New("rest: Authorizer is required")
	case cfg.Nodes == nil:
		return nil, errors.New("rest: Nodes is required")
	case cfg.Log == nil:
		return nil, errors.New("rest: Log is required")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Traffic == nil {
		cfg.Traffic = traffic.New(traffic.Config{Clock: cfg.Clock})
	}
	stopping, stop := context.WithCancel(context.Background())
	kinds := cfg.Registry.Kinds()
	var tokens reviews.Tokens
	if cfg.Tokens != nil {
		tokens = cfg.Tokens
	}
	return &Server{
		cfg: cfg, codec: newCodec(kinds), reviews: reviews.New(cfg.Authorizer, tokens),
		stopping: stopping, stop: stop, readTimeout: readBodyTimeout, writeTimeout: writeTimeout, reauthorizeEvery: reauthorizeEvery,
		headerTimeout: readHeaderTimeout, idleTimeout: idleTimeout, pingEvery: pingEvery, pingTimeout: pingTimeout,
	}, nil
}

// Close ends all watches and streams. Run does so by itself; only users of the bare handler call it.
func (s *Server) Close() { s.stop() }

// Listen opens host:port for Serve.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	alive := net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 3}
	listener, err := (&net.ListenConfig{KeepAliveConfig: alive}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("rest: listen on %s: %w", address, err)
	}
	return listener, nil
}

// Run is Serve on the configured listener or address.
func (s *Server) Run(ctx context.Context) error {
	listener := s.cfg.Listener
	if listener == nil {
		var err error
		if listener, err = Listen(ctx, s.cfg.Address); err != nil {
			return err
		}
	}
	return s.Serve(ctx, listener)
}

// Serve serves on a listener, which it closes, until ctx ends, then lets short requests finish.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if s.cfg.Identity == nil {
		return errors.Join(errors.New("rest: Identity is required"), listener.Close())
	}
	srv := s.httpServer()
	srv.TLSConfig = serverTLS(s.cfg.Identity.ServerTLS(tls.VerifyClientCertIfGiven))
	serve := func(context.Context) error {
		if err := srv.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("rest: serve on %s: %w", listener.Addr(), err)
		}
		return nil
	}
	end := func(running context.Context) error {
		<-running.Done()
		s.stop()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := srv.Shutdown(last); err != nil {
			return srv.Close()
		}
		return nil
	}
	return lifecycle.RunAll(ctx, serve, end)
}

// httpServer returns a server with the limits of the door.
func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.headerTimeout, // of handshakes, too
		IdleTimeout:       s.idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreamsPerConn,
			SendPingTimeout:      s.pingEvery, PingTimeout: s.pingTimeout, WriteByteTimeout: s.writeTimeout,
		},
		ConnState:                    newConnections(connsPerIP, pendingPerIP, s.cfg.Log).changed,
		ConnContext:                  prepare,
		DisableGeneralOptionsHandler: true, // it answers whom it does not know
		ErrorLog:                     zap.NewStdLog(s.cfg.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
}

// serverTLS offers HTTP/2 and 1.1 on TLS 1.3, also where the identity hands out
// a configuration per connection.
func serverTLS(base *tls.Config) *tls.Config {
	offer := func(c *tls.Config) *tls.Config {
		c = c.Clone()
		c.MinVersion = tls.VersionTLS13
		c.NextProtos = []string{"h2", "http/1.1"}
		return c
	}
	out := offer(base)
	if perClient := base.GetConfigForClient; perClient != nil {
		out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := perClient(hello)
			if err != nil || c == nil {
				return c, err
			}
			return offer(c), nil
		}
	}
	return out
}

// untilStop derives a context that also ends when the server stops; for watches and streams.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { unhook(); cancel() }
}
