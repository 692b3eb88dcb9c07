package rest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"go.uber.org/zap"

	"kijabi.dev/platform/rpc"
)

// connections bounds how many connections one address has. It is told of them by
// http.Server.ConnState, from many goroutines.
type connections struct {
	log *zap.Logger
	// perIP bounds all of one address, pendingPerIP those that have not sent a request yet.
	perIP, pendingPerIP int

	mu      sync.Mutex
	open    map[net.Conn]bool // whether it is pending
	all     map[string]int
	pending map[string]int
}

func newConnections(perIP, pendingPerIP int, log *zap.Logger) *connections {
	return &connections{
		log: log, perIP: perIP, pendingPerIP: pendingPerIP,
		open: map[net.Conn]bool{}, all: map[string]int{}, pending: map[string]int{},
	}
}

// changed is an http.Server.ConnState.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	ip, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return // no network
	}
	switch state {
	case http.StateNew:
		if !c.add(conn, ip) {
			c.log.Warn("connection refused: too many of one address", zap.String("address", ip))
			_ = conn.Close()
		}
	case http.StateActive, http.StateIdle:
		c.settle(conn, ip)
	case http.StateClosed, http.StateHijacked:
		c.settle(conn, ip)
		c.remove(conn, ip)
	}
}

func (c *connections) add(conn net.Conn, ip string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[ip] >= c.perIP || c.pending[ip] >= c.pendingPerIP {
		return false
	}
	c.open[conn] = true
	c.all[ip]++
	c.pending[ip]++
	return true
}

// settle notes that a connection is no longer pending.
func (c *connections) settle(conn net.Conn, ip string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[conn] {
		c.open[conn] = false
		less(c.pending, ip)
	}
}

func (c *connections) remove(conn net.Conn, ip string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.open[conn]; known { // one that was refused is not
		delete(c.open, conn)
		less(c.all, ip)
	}
}

func less(counts map[string]int, ip string) {
	if counts[ip]--; counts[ip] == 0 {
		delete(counts, ip)
	}
}

// prepare is an http.Server.ConnContext: a client that has vanished without a word is given
// up once it has acknowledged nothing for a while, however much TCP would go on to try.
func prepare(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	rpc.SetUserTimeout(conn, userTimeout)
	return ctx
}
