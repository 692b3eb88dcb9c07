package tunnel

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Dial returns a gRPC client connection over conn, which is used once: when it
// ends, calls fail with Unavailable until the node opens a new tunnel. Transport
// security is that of the stream that carries conn. The caller closes both.
func Dial(conn net.Conn, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	var used atomic.Bool
	dialer := func(context.Context, string) (net.Conn, error) {
		if used.Swap(true) {
			return nil, fmt.Errorf("tunnel to the node has ended")
		}
		return conn, nil
	}
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer),
		grpc.WithIdleTimeout(0), // an idle tunnel could not be dialled again
		grpc.WithNoProxy(),
	}, options...)
	client, err := grpc.NewClient("passthrough:///node", options...)
	if err != nil {
		return nil, fmt.Errorf("grpc over tunnel: %w", err)
	}
	return client, nil
}

// Listener yields conn once and then blocks until Close or until conn ends. Serve
// on it ends with net.ErrClosed then.
func Listener(conn *Conn) net.Listener {
	l := &listener{conn: conn, first: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.first <- conn
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

type listener struct {
	conn   *Conn
	first  chan net.Conn
	closed chan struct{}
	close  func()
}

var _ net.Listener = (*listener)(nil)

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.first:
		return conn, nil
	default:
	}
	select {
	case <-l.closed:
	case <-l.conn.Done():
	}
	return nil, net.ErrClosed
}

func (l *listener) Close() error {
	l.close()
	return nil
}

func (l *listener) Addr() net.Addr { return address("tunnel") }
