package masters

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Dial connects to another master's peer port.
type Dial func(address string, opts ...grpc.DialOption) (*grpc.ClientConn, error)

// conns keeps one connection per peer address.
type conns struct {
	dial Dial

	mu     sync.Mutex
	open   map[string]*grpc.ClientConn
	closed bool
}

func newConns(dial Dial) *conns { return &conns{dial: dial, open: map[string]*grpc.ClientConn{}} }

func (c *conns) get(address string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.open[address]; conn != nil {
		return conn, nil
	}
	if c.closed {
		return nil, errors.New("masters have stopped")
	}
	// A master that comes back is wanted in the next election: retry soon.
	conn, err := c.dial(address, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}))
	if err != nil {
		return nil, fmt.Errorf("dial master %s: %w", address, err)
	}
	c.open[address] = conn
	return conn, nil
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for address, conn := range c.open {
		_ = conn.Close()
		delete(c.open, address)
	}
}
