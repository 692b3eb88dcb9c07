package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
)

// gate accepts connections, does their handshake, counts them, and hands them to
// the gRPC server of their class: users or machines.
type gate struct {
	cfg      ServerConfig
	tls      *tls.Config
	listener net.Listener
	users    *queueListener
	machines *queueListener
	tickets  *tickets
	pending  *tickets
}

func newGate(cfg ServerConfig, tlsConfig *tls.Config, listener net.Listener) *gate {
	return &gate{
		cfg: cfg, tls: tlsConfig, listener: listener,
		users: newQueueListener(listener.Addr()), machines: newQueueListener(listener.Addr()),
		tickets: newTickets(), pending: newTickets(),
	}
}

// run accepts until ctx ends, then closes the listener and the queues.
func (g *gate) run(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	group.Go(func(ctx context.Context) error {
		<-ctx.Done()
		return errors.Join(ignoreClosed(g.listener.Close()), g.users.Close(), g.machines.Close())
	})
	group.Go(func(ctx context.Context) error {
		for {
			conn, err := g.listener.Accept()
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				if temporary(ctx, err) {
					continue
				}
				return err
			}
			g.accept(group, conn)
		}
	})
	return group.Wait()
}

// temporary waits a little when accepting failed for want of descriptors or
// because the client gave up, which is no reason to end.
func temporary(ctx context.Context, err error) bool {
	var t interface{ Temporary() bool }
	if !errors.As(err, &t) || !t.Temporary() {
		return false
	}
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
	return true
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (g *gate) accept(group *lifecycle.Group, conn net.Conn) {
	ip := hostOf(conn.RemoteAddr())
	release, ok := g.pending.take(ip, g.cfg.MaxConnectionsPerIP)
	if !ok {
		g.cfg.Log.Warn("connection refused: too many handshakes from one address", logging.Address(ip))
		_ = conn.Close()
		return
	}
	group.Go(func(ctx context.Context) error {
		defer release()
		g.handshake(ctx, conn, ip)
		return nil // one client's failure is not the server's
	})
}

// handshake ends with the connection in a queue or closed.
func (g *gate) handshake(ctx context.Context, conn net.Conn, ip string) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeouts.Handshake)
	defer cancel()
	if g.cfg.Trust != nil {
		if trusted := trustedConn(conn); !g.machines.put(ctx, trusted) {
			_ = trusted.Close()
		}
		return
	}
	SetUserTimeout(conn, g.cfg.Timeouts.KeepaliveAnswer)
	secure := tls.Server(conn, g.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		g.cfg.Log.Debug("tls handshake failed", logging.Address(ip), zap.Error(err))
		_ = conn.Close()
		return
	}
	state := secure.ConnectionState()
	key, limit, queue := "ip:"+ip, g.cfg.MaxConnectionsPerIP, g.users
	var expires time.Time
	if len(state.VerifiedChains) > 0 {
		leaf := state.VerifiedChains[0][0]
		caller := CallerOf(leaf)
		key, limit, expires = "user:"+caller.Name+"@"+caller.Machine, g.cfg.MaxConnectionsPerUser, leaf.NotAfter
		if caller.Machine != "" {
			queue = g.machines
		}
	}
	if g.cfg.Node {
		queue = g.machines
	}
	release, ok := g.tickets.take(key, limit)
	if !ok {
		g.cfg.Log.Warn("connection refused: too many of one user", logging.User(key), logging.Address(ip), zap.Int("limit", limit))
		_ = secure.Close()
		return
	}
	peer := newPeerConn(secure, state, release, expires)
	if !queue.put(ctx, peer) {
		_ = peer.Close()
	}
}

func hostOf(address net.Addr) string {
	if address == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		return "" // a unix socket or a pipe: not counted
	}
	return host
}

// tickets count what is in use by key.
type tickets struct {
	mu    sync.Mutex
	inUse map[string]int
}

func newTickets() *tickets { return &tickets{inUse: map[string]int{}} }

// take counts one more for key unless limit is reached. Release must be called
// once. The empty key is not counted.
func (t *tickets) take(key string, limit int) (release func(), ok bool) {
	if key == "" || key == "ip:" {
		return func() {}, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inUse[key] >= limit {
		return nil, false
	}
	t.inUse[key]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.inUse[key]--; t.inUse[key] == 0 {
			delete(t.inUse, key)
		}
	}, true
}

// peerConn is a connection that passed the gate.
type peerConn struct {
	net.Conn

	info    credentials.AuthInfo
	release func()
	once    sync.Once
}

// newPeerConn makes one after its handshake. It closes itself when the peer's
// certificate ends.
func newPeerConn(conn *tls.Conn, state tls.ConnectionState, release func(), expires time.Time) *peerConn {
	info := peerInfo{TLSInfo: credentials.TLSInfo{State: state}, carrier: carrier{conn.NetConn()}}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	if len(state.VerifiedChains) > 0 {
		info.caller = CallerOf(state.VerifiedChains[0][0])
	}
	p := &peerConn{Conn: conn, info: info, release: release}
	if !expires.IsZero() {
		expiry := time.AfterFunc(time.Until(expires), func() { _ = conn.NetConn().Close() })
		p.release = func() {
			expiry.Stop()
			release()
		}
	}
	return p
}

// trustedConn makes one of a connection whose carrier protects it.
func trustedConn(conn net.Conn) *peerConn {
	info := trustedInfo{carrier: carrier{conn}}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return &peerConn{Conn: conn, info: info, release: func() {}}
}

// Close ends the connection and frees its place.
func (p *peerConn) Close() error {
	p.once.Do(p.release)
	return p.Conn.Close()
}

// carrier is what a connection's bytes go over.
type carrier struct{ conn net.Conn }

// hangUp ends the connection at once, with all calls on it.
func (c carrier) hangUp() { _ = c.conn.Close() }

// peerInfo holds who is at the other end, found out once per connection.
type peerInfo struct {
	credentials.TLSInfo
	carrier

	caller Caller // zero without a verified certificate; its slices are shared by all calls
}

type trustedInfo struct {
	credentials.CommonAuthInfo
	carrier
}

// AuthType names the kind.
func (trustedInfo) AuthType() string { return "carrier" }

// handshaken are the credentials of connections that passed the gate.
type handshaken struct{}

var _ credentials.TransportCredentials = handshaken{}

func (handshaken) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	peer, ok := conn.(*peerConn)
	if !ok {
		return nil, nil, errors.New("connection did not come through the gate")
	}
	return peer, peer.info, nil
}

func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials cannot dial")
}

func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (handshaken) Clone() credentials.TransportCredentials { return handshaken{} }

func (handshaken) OverrideServerName(string) error { return nil }

// queueListener hands out connections that the gate puts into it.
type queueListener struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

var _ net.Listener = (*queueListener)(nil)

func newQueueListener(address net.Addr) *queueListener {
	return &queueListener{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// put returns false if nobody accepts any more.
func (q *queueListener) put(ctx context.Context, conn net.Conn) bool {
	select {
	case q.conns <- conn:
		return true
	case <-q.closed:
		return false
	case <-ctx.Done():
		return false
	}
}

// Accept returns the next connection.
func (q *queueListener) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (q *queueListener) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

// Addr is the address of the real listener.
func (q *queueListener) Addr() net.Addr { return q.address }
