package rpc

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"kijabi.dev/platform/pki"
)

const (
	// clientReceive is what clients accept in one message; servers send up to 8 MiB.
	clientReceive = 8 << 20
	// dialTimeout bounds connecting and the handshake.
	dialTimeout = 3 * time.Second
)

// Dial returns a connection to an apiserver at host:port (or unix:///path), which
// must prove the name apiserver.kijabi. It connects on first use and reconnects by
// itself. Errors of its calls are as FromStatus makes them and every call carries a
// request id. Options come last and may replace all of this.
func Dial(address string, id *pki.Identity, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return DialName(address, pki.APIServerName, id, opts...)
}

// DialName is Dial for a server that must prove the given name, as
// pki.ServerName(component, machine) makes it.
func DialName(address, serverName string, id *pki.Identity, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	if id == nil {
		return nil, errors.New("dial " + address + ": no identity")
	}
	all := append(transportOptions(id, serverName),
		grpc.WithChainUnaryInterceptor(unaryClient), grpc.WithChainStreamInterceptor(streamClient))
	return grpc.NewClient(target(address), append(all, opts...)...)
}

// target keeps gRPC from resolving names by its own DNS client, which knows less
// than the system's.
func target(address string) string {
	if strings.HasPrefix(address, "unix:") || strings.Contains(address, ":///") {
		return address
	}
	return "passthrough:///" + address
}

// Windows of flow control: what a peer may send ahead of its reader, in bytes. Fixed ones, since
// gRPC's way to find its own costs a ping for every message of a quiet connection, and begins
// so low that a list of 10,000 pods takes twice as long.
const (
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

func transportOptions(id *pki.Identity, serverName string) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(renewing{TransportCredentials: credentials.NewTLS(id.ClientTLS(serverName)), id: id}),
		grpc.WithContextDialer(dial),
		// Whoever names no owner of the fields it writes owns them by this name.
		grpc.WithUserAgent(cmp.Or(pki.Program(id.Leaf().Subject.CommonName), filepath.Base(os.Args[0])) + "/kijabi"),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: time.Second},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(clientReceive), grpc.ForceCodecV2(codec{})),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(),
	}
}

// renewing are TLS credentials that end a connection made without a certificate,
// because it had expired, as soon as there is a new one: the calls on it would stay
// anonymous.
type renewing struct {
	credentials.TransportCredentials

	id *pki.Identity
}

// ClientHandshake connects.
func (r renewing) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	anonymous := r.id.Expired()
	conn, info, err := r.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil || !anonymous {
		return conn, info, err
	}
	temporary := &temporaryConn{Conn: conn}
	temporary.forget = r.id.OnChange(func() { _ = raw.Close() })
	return temporary, info, nil
}

// Clone copies the credentials, as gRPC does per connection.
func (r renewing) Clone() credentials.TransportCredentials {
	return renewing{TransportCredentials: r.TransportCredentials.Clone(), id: r.id}
}

type temporaryConn struct {
	net.Conn

	forget func()
}

// Close ends the connection.
func (c *temporaryConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// dial connects with a bound on how long sent data may stay unacknowledged: a
// machine that vanished sends no reset.
func dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout: dialTimeout, KeepAlive: keepaliveTime,
		Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { setTimeoutOption(fd, keepaliveTimeout) })
		},
	}
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return dialer.DialContext(ctx, "unix", path)
	}
	return dialer.DialContext(ctx, "tcp", address)
}

// SetUserTimeout has the kernel give up an accepted TCP connection whose peer acknowledges nothing
// that it is sent for that long. Other connections are left alone.
func SetUserTimeout(conn net.Conn, timeout time.Duration) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { setTimeoutOption(fd, timeout) })
	}
}

// setTimeoutOption fails on sockets that are no TCP, which need no such bound.
func setTimeoutOption(fd uintptr, timeout time.Duration) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
}

// unaryClient gives each call a request id and its errors their Kubernetes form.
func unaryClient(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return FromStatus(invoke(ensureRequestID(ctx), method, req, reply, conn, opts...))
}

// streamClient does the same for streams.
func streamClient(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ensureRequestID(ctx), desc, conn, method, opts...)
	if err != nil {
		return nil, FromStatus(err)
	}
	return &clientStream{ClientStream: stream, mapError: FromStatus}, nil
}

// clientStream maps the errors of a stream; io.EOF stays itself.
type clientStream struct {
	grpc.ClientStream

	mapError func(error) error
}

// RecvMsg receives the next message.
func (s *clientStream) RecvMsg(m any) error { return s.convert(s.ClientStream.RecvMsg(m)) }

// SendMsg sends a message; io.EOF means that RecvMsg has the reason.
func (s *clientStream) SendMsg(m any) error { return s.convert(s.ClientStream.SendMsg(m)) }

// CloseSend ends sending.
func (s *clientStream) CloseSend() error { return s.convert(s.ClientStream.CloseSend()) }

func (s *clientStream) convert(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return s.mapError(err)
}
