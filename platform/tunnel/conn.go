// Package tunnel carries a net.Conn over the byte stream of NodeService.Tunnel.
//
// The kubelet dials a master, opens the stream, wraps it with ClientConn and
// serves its KubeletService on Listener; the master wraps its end with ServerConn
// and calls the kubelet over Dial. So the masters reach every node without ever
// dialling one.
package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// chunk bounds one message: small enough that the inner connection's frames
// interleave with heartbeats on the outer one, large enough to amortize them.
const chunk = 32 << 10

// Conn is one end of the tunnel as a net.Conn. Read and Write may run at the same
// time, each from one goroutine or several. A write that misses its deadline
// closes the connection, because a message cannot be withdrawn from the stream.
type Conn struct {
	send  func([]byte) error
	name  string
	group errgroup.Group // the pump; ends when the stream does

	sendMu sync.Mutex

	readMu   sync.Mutex // one reader at a time owns rest
	rest     []byte
	received chan []byte   // closed by the pump after the last chunk
	pumpErr  error         // valid once received is closed
	closed   chan struct{} // closed by Close
	close    func()        // idempotent

	read, write deadline
}

var _ net.Conn = (*Conn)(nil)

// ServerConn wraps the master's end. The RPC handler must keep running until
// Done is closed; its return ends the stream, and with it the connection.
func ServerConn(stream nodev1pb.NodeService_TunnelServer) *Conn {
	return newConn("node", func(data []byte) error {
		return stream.Send(&nodev1pb.TunnelResponse{Data: data})
	}, func() ([]byte, error) {
		message, err := stream.Recv()
		return message.GetData(), err
	}, func() {})
}

// ClientConn wraps the node's end. The stream must have been opened with a context
// that cancel ends: Close calls it, since nothing else interrupts a stream's sender.
func ClientConn(stream nodev1pb.NodeService_TunnelClient, cancel context.CancelFunc) *Conn {
	return newConn("master", func(data []byte) error {
		return stream.Send(&nodev1pb.TunnelRequest{Data: data})
	}, func() ([]byte, error) {
		message, err := stream.Recv()
		return message.GetData(), err
	}, cancel)
}

// Over wraps any stream of byte messages as a connection to what name says. Both functions are
// called by one goroutine at a time each; receive returns io.EOF at the end of the stream.
// cancel is called once, when the connection ends, and must make both return.
func Over(name string, send func([]byte) error, receive func() ([]byte, error), cancel func()) *Conn {
	return newConn(name, send, receive, cancel)
}

func newConn(name string, send func([]byte) error, receive func() ([]byte, error), cancel func()) *Conn {
	c := &Conn{send: send, name: name, received: make(chan []byte), closed: make(chan struct{})}
	c.close = sync.OnceFunc(func() {
		close(c.closed)
		cancel()
	})
	c.group.Go(func() error {
		c.pump(receive)
		return nil
	})
	return c
}

// pump hands chunks to Read one by one, so that the stream's flow control reaches
// the sender and yet a reader can give up at its deadline.
func (c *Conn) pump(receive func() ([]byte, error)) {
	defer c.close()
	defer close(c.received)
	for {
		data, err := receive()
		if err != nil {
			c.pumpErr = err
			return
		}
		if len(data) == 0 {
			continue
		}
		select {
		case c.received <- data:
		case <-c.closed:
			c.pumpErr = net.ErrClosed
			return
		}
	}
}

// Read returns the next bytes, io.EOF after the other end ended the stream.
func (c *Conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if len(c.rest) == 0 {
		expired := c.read.wait()
		select {
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		default:
		}
		select {
		case data, ok := <-c.received:
			if !ok {
				return 0, c.ended()
			}
			c.rest = data
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *Conn) ended() error {
	if errors.Is(c.pumpErr, io.EOF) {
		return io.EOF
	}
	return &net.OpError{Op: "read", Net: "tunnel", Addr: address(c.name), Err: c.pumpErr}
}

// Write sends p in pieces and returns once the last one is on the stream.
func (c *Conn) Write(p []byte) (int, error) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	expired := c.write.wait()
	stop := context.AfterFunc(channelContext{expired}, c.close)
	defer stop()
	written := 0
	for len(p) > 0 {
		select {
		case <-expired:
			return written, os.ErrDeadlineExceeded
		case <-c.closed:
			return written, net.ErrClosed
		default:
		}
		piece := p[:min(len(p), chunk)]
		if err := c.send(piece); err != nil {
			return written, &net.OpError{Op: "write", Net: "tunnel", Addr: address(c.name), Err: err}
		}
		written += len(piece)
		p = p[len(piece):]
	}
	return written, nil
}

// Close ends the connection; a blocked Read returns. Idempotent.
func (c *Conn) Close() error {
	c.close()
	return nil
}

// Done is closed once the connection has ended, from whichever end.
func (c *Conn) Done() <-chan struct{} { return c.closed }

// LocalAddr and RemoteAddr are names, for logs only.
func (c *Conn) LocalAddr() net.Addr { return address("tunnel") }

// RemoteAddr names the other end's kind.
func (c *Conn) RemoteAddr() net.Addr { return address(c.name) }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

// SetReadDeadline bounds Read; the zero time means none.
func (c *Conn) SetReadDeadline(t time.Time) error { c.read.set(t); return nil }

// SetWriteDeadline bounds Write; the zero time means none.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

type address string

func (address) Network() string  { return "tunnel" }
func (a address) String() string { return string(a) }

// deadline is a channel that closes at a time that may be moved meanwhile.
type deadline struct {
	mu      sync.Mutex
	expired chan struct{}
	timer   *time.Timer
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.expired == nil {
		d.expired = make(chan struct{})
	}
	return d.expired
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	// A channel that has closed stays closed for those who saw it; new callers get a new one.
	passed := false
	if d.expired != nil {
		select {
		case <-d.expired:
			passed = true
		default:
		}
	}
	if d.expired == nil || passed {
		d.expired = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	expired := d.expired
	wait := time.Until(t)
	if wait <= 0 {
		close(expired)
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer {
			close(expired)
			d.timer = nil
		}
	})
	d.timer = timer
}

// channelContext lets context.AfterFunc watch a plain channel.
type channelContext struct{ done <-chan struct{} }

func (channelContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c channelContext) Done() <-chan struct{}     { return c.done }
func (channelContext) Value(any) any               { return nil }
func (c channelContext) Err() error {
	select {
	case <-c.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}
