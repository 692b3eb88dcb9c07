package rest

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
)

// watchedWriter hands out a connection that cancels the request's context when it
// ends. After an upgrade net/http no longer does that.
type watchedWriter struct {
	http.ResponseWriter
	cancel context.CancelFunc
}

// Unwrap lets http.ResponseController through.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack takes the connection over.
func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	ahead, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	watched := &watchedConn{Conn: conn, cancel: w.cancel, ahead: bytes.NewReader(bytes.Clone(ahead))}
	return watched, bufio.NewReadWriter(bufio.NewReader(watched), bufio.NewWriter(watched)), nil
}

// watchedConn reads first what had been read ahead.
type watchedConn struct {
	net.Conn
	cancel context.CancelFunc
	ahead  *bytes.Reader
}

func (c *watchedConn) Read(p []byte) (int, error) {
	if c.ahead.Len() > 0 {
		return c.ahead.Read(p)
	}
	n, err := c.Conn.Read(p)
	if err != nil {
		c.cancel()
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}

// closeWith closes a connection when ctx ends, so that a stopped server leaves no
// blocked readers behind. The returned function undoes it.
func closeWith(ctx context.Context, c io.Closer) func() bool {
	return context.AfterFunc(ctx, func() { _ = c.Close() })
}
