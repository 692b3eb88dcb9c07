package server

import (
	"net"
	"sync"
	"time"
)

// stream is a TCP listener that can be drained. CoreDNS's Stop closes connections whose
// question has not been read yet; a client would have to notice and ask again.
type stream struct {
	*net.TCPListener

	mu    sync.Mutex
	until time.Time // reads end then; zero while not draining
	open  map[*connection]struct{}
}

func newStream(listener *net.TCPListener) *stream {
	return &stream{TCPListener: listener, open: map[*connection]struct{}{}}
}

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) {
	accepted, err := s.AcceptTCP()
	if err != nil {
		return nil, err
	}
	conn := &connection{TCPConn: accepted, stream: s}
	s.mu.Lock()
	s.open[conn] = struct{}{}
	s.mu.Unlock()
	return conn, nil
}

// drain ends accepting, and reading from the connections there are at the time until.
func (s *stream) drain(until time.Time) {
	_ = s.Close() // its only user is told by Accept
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = until
	for conn := range s.open {
		_ = conn.TCPConn.SetReadDeadline(until) // one that is closed needs none
	}
}

// connection is an accepted connection.
type connection struct {
	*net.TCPConn

	stream *stream
}

// SetReadDeadline implements net.Conn; while draining it is bounded.
func (c *connection) SetReadDeadline(at time.Time) error {
	c.stream.mu.Lock()
	defer c.stream.mu.Unlock()
	if until := c.stream.until; !until.IsZero() && at.After(until) {
		at = until
	}
	return c.TCPConn.SetReadDeadline(at)
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.stream.mu.Lock()
	delete(c.stream.open, c)
	c.stream.mu.Unlock()
	return c.TCPConn.Close()
}
