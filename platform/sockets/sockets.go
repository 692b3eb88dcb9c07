// Package sockets keeps a program's sockets open while the program restarts: what
// arrives meanwhile waits in their queues and is answered by the next run, even after
// a crash.
//
// The service manager holds duplicates. The protocol is systemd's, of sd_listen_fds(3)
// and of FDSTORE in sd_notify(3); our supervisor speaks it too. Without a service
// manager sockets are opened and closed as ever.
package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Variables by which a service manager hands sockets over and says where it listens.
const (
	listenFDs     = "LISTEN_FDS"
	listenFDNames = "LISTEN_FDNAMES"
	listenPID     = "LISTEN_PID"
	notifySocket  = "NOTIFY_SOCKET"

	firstFD = 3 // by the protocol
)

// Store gives sockets by name: those an earlier run has left with the service manager,
// or else new ones, which it leaves there. A nil *Store only opens new ones. It is not
// safe for concurrent use. The sockets are their user's, and to close one does not end
// the service manager's duplicate. Names are of letters, digits and dashes.
type Store struct {
	log       *zap.Logger
	manager   string                // where it listens; empty without one
	inherited map[string][]*os.File // not yet asked for
}

// Inherit takes what the service manager has handed over. It must be called once, before
// the program starts others: it hides the sockets and their variables from children.
func Inherit(log *zap.Logger) (*Store, error) {
	count, names, pid := os.Getenv(listenFDs), os.Getenv(listenFDNames), os.Getenv(listenPID)
	for _, variable := range []string{listenFDs, listenFDNames, listenPID} {
		if err := os.Unsetenv(variable); err != nil {
			return nil, fmt.Errorf("inherit sockets: %w", err)
		}
	}
	s := &Store{log: log, manager: os.Getenv(notifySocket), inherited: map[string][]*os.File{}}
	// A manager that cannot know the pid before it forks leaves it out.
	if count == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("inherit sockets: %s is %q, want a number", listenFDs, count)
	}
	for fd := firstFD; fd < firstFD+n; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("inherit sockets: descriptor %d of %s=%d: %w", fd, listenFDs, n, err)
		}
	}
	labels := append(strings.Split(names, ":"), make([]string, n)...)
	for i := range n {
		s.inherited[labels[i]] = append(s.inherited[labels[i]], os.NewFile(uintptr(firstFD+i), labels[i]))
	}
	return s, nil
}

// Listen returns a listening TCP socket. Port 0 takes an inherited socket of any port.
func (s *Store) Listen(ctx context.Context, name string, address netip.AddrPort) (*net.TCPListener, error) {
	return obtain(ctx, s, name, address, func(file *os.File) (*net.TCPListener, net.Addr, error) {
		listener, err := net.FileListener(file)
		if err != nil {
			return nil, nil, err
		}
		tcp, ok := listener.(*net.TCPListener)
		if !ok {
			return nil, nil, errors.Join(errors.New("not a TCP socket"), listener.Close())
		}
		return tcp, tcp.Addr(), nil
	}, func() (*net.TCPListener, error) {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp"+family(address), address.String())
		if err != nil {
			return nil, err
		}
		return listener.(*net.TCPListener), nil //nolint:forcetypeassert // "tcp" gives nothing else
	})
}

// ListenPacket returns a UDP socket. Port 0 takes an inherited socket of any port.
func (s *Store) ListenPacket(ctx context.Context, name string, address netip.AddrPort) (*net.UDPConn, error) {
	return obtain(ctx, s, name, address, func(file *os.File) (*net.UDPConn, net.Addr, error) {
		conn, err := net.FilePacketConn(file)
		if err != nil {
			return nil, nil, err
		}
		udp, ok := conn.(*net.UDPConn)
		if !ok {
			return nil, nil, errors.Join(errors.New("not a UDP socket"), conn.Close())
		}
		return udp, udp.LocalAddr(), nil
	}, func() (*net.UDPConn, error) {
		conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp"+family(address), address.String())
		if err != nil {
			return nil, err
		}
		return conn.(*net.UDPConn), nil //nolint:forcetypeassert // "udp" gives nothing else
	})
}

// Close gives up the inherited sockets that nobody has asked for, here and in the
// service manager: a later version may use other names.
func (s *Store) Close(ctx context.Context) {
	if s == nil {
		return
	}
	for name, files := range s.inherited {
		s.log.Info("inherited socket is not used", zap.String("socket", name))
		for _, file := range files {
			_ = file.Close()
		}
		s.tell(name, s.remove(ctx, name))
	}
	s.inherited = nil
}

// socket is what both kinds have in common.
type socket interface {
	syscall.Conn
	Close() error
}

// obtain returns the inherited socket that adopt finds at address, or what open opens.
func obtain[S socket](ctx context.Context, s *Store, name string, address netip.AddrPort,
	adopt func(*os.File) (S, net.Addr, error), open func() (S, error),
) (S, error) {
	var none S
	if s != nil {
		files := s.inherited[name]
		delete(s.inherited, name)
		found, ok := choose(s.log, files, address, adopt)
		if ok {
			return found, nil
		}
		if len(files) > 0 {
			// The manager's duplicate may be in the way of the new socket.
			s.tell(name, errors.Join(s.remove(ctx, name), s.settle(ctx)))
		}
	}
	opened, err := open()
	if err != nil {
		return none, fmt.Errorf("socket %s: %w", name, err)
	}
	if s != nil {
		s.tell(name, s.store(ctx, name, opened))
	}
	return opened, nil
}

// choose returns the first of files that is at address and closes the others.
func choose[S socket](log *zap.Logger, files []*os.File, address netip.AddrPort, adopt func(*os.File) (S, net.Addr, error)) (found S, ok bool) {
	for _, file := range files {
		adopted, local, err := adopt(file) // a duplicate
		_ = file.Close()
		switch {
		case err != nil:
			log.Warn("inherited socket cannot be used", zap.String("socket", file.Name()), zap.Error(err))
		case ok || !same(local, address):
			log.Info("inherited socket is replaced", zap.String("socket", file.Name()),
				zap.Stringer("address", local), zap.Stringer("wanted", address))
			_ = adopted.Close()
		default:
			found, ok = adopted, true
		}
	}
	return found, ok
}

// family is told to the net package, which takes 0.0.0.0 for all of IPv6, too.
func family(address netip.AddrPort) string {
	if address.Addr().Unmap().Is4() {
		return "4"
	}
	return "6"
}

// same says whether a socket at local is what was asked for by wanted.
func same(local net.Addr, wanted netip.AddrPort) bool {
	is, err := netip.ParseAddrPort(local.String())
	return err == nil && is.Addr().Unmap() == wanted.Addr().Unmap() && (wanted.Port() == 0 || is.Port() == wanted.Port())
}

// tell logs that the service manager was not told: the program can serve all the same.
func (s *Store) tell(name string, err error) {
	if err != nil {
		s.log.Warn("service manager not told of a socket, a restart may lose what arrives meanwhile",
			zap.String("socket", name), zap.Error(err))
	}
}
