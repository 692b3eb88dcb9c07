package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kijabi.dev/platform/lifecycle"
)

// How long a connection may be silent before the kernel asks the other end, between two questions,
// and after how many it is given up.
const (
	keepAlive     = 15 * time.Second
	keepAliveMiss = 3
)

// Extend returns a listener that also accepts what comes to the virtual addresses at base's
// port. It listens there all the time, held or not, so that a connection is accepted the
// moment an address is taken. Closing it closes base. A nil Holder returns base.
func (h *Holder) Extend(ctx context.Context, base net.Listener) (net.Listener, error) {
	if h == nil {
		return base, nil
	}
	at, err := netip.ParseAddrPort(base.Addr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the virtual addresses beside %s: %w", base.Addr(), err), base.Close())
	}
	d := &door{Listener: base, accepted: make(chan accepted), group: lifecycle.NewGroup(context.WithoutCancel(ctx))}
	d.serve(base)
	for _, address := range h.cfg.Addresses {
		config := net.ListenConfig{Control: unassigned, KeepAlive: -1}
		listener, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(address, at.Port()).String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on the virtual address: %w", err), d.Close())
		}
		d.serve(&tracked{Listener: listener, conns: &h.conns})
	}
	return d, nil
}

// unassigned lets a socket listen on an address that this machine does not have.
func unassigned(network, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		if network == "tcp6" {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		}
	})
	return errors.Join(err, failed)
}

// door accepts from several listeners. The embedded one is the base, whose address it shows.
type door struct {
	net.Listener

	all      []net.Listener
	accepted chan accepted
	group    *lifecycle.Group
}

type accepted struct {
	conn net.Conn
	err  error
}

func (d *door) serve(l net.Listener) {
	d.all = append(d.all, l)
	d.group.Go(func(ctx context.Context) error {
		for ctx.Err() == nil {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			select {
			case d.accepted <- accepted{conn, err}:
			case <-ctx.Done():
				if conn != nil {
					_ = conn.Close()
				}
			}
		}
		return nil
	})
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case a := <-d.accepted:
		return a.conn, a.err
	case <-d.group.Context().Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.group.Cancel()
	var errs []error
	for _, l := range d.all {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, d.group.Wait())...)
}

// conns are the open connections that came by virtual addresses.
type conns struct {
	mu  sync.Mutex
	all map[*conn]struct{}
}

// drop closes them: whoever sits behind one dials again and reaches the next holder, instead of
// waiting for an answer that has no way back.
func (c *conns) drop() {
	c.mu.Lock()
	all := c.all
	c.all = nil
	c.mu.Unlock()
	for conn := range all {
		_ = conn.TCPConn.Close()
	}
}

// tracked is a listener on a virtual address.
type tracked struct {
	net.Listener

	conns *conns
}

// conn is a connection that is forgotten when it is closed.
type conn struct {
	*net.TCPConn

	conns *conns
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.conns.mu.Lock()
	delete(c.conns.all, c)
	c.conns.mu.Unlock()
	return c.TCPConn.Close()
}

// Accept implements net.Listener.
func (t *tracked) Accept() (net.Conn, error) {
	raw, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := raw.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connection of %T", raw), raw.Close())
	}
	alive := net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: keepAliveMiss}
	if err := tcp.SetKeepAliveConfig(alive); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	c := &conn{TCPConn: tcp, conns: t.conns}
	t.conns.mu.Lock()
	defer t.conns.mu.Unlock()
	if t.conns.all == nil {
		t.conns.all = map[*conn]struct{}{}
	}
	t.conns.all[c] = struct{}{}
	return c, nil
}
