package sockets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// managerTimeout bounds each wait for the service manager.
const managerTimeout = 5 * time.Second

// store leaves a duplicate of conn with the service manager, in place of others of name.
func (s *Store) store(ctx context.Context, name string, conn syscall.Conn) error {
	if err := s.remove(ctx, name); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("store socket: %w", err)
	}
	var sent error
	// FDPOLL=0: it must not be dropped for an error that was reported on it.
	err = raw.Control(func(fd uintptr) { sent = s.send(ctx, "FDSTORE=1\nFDPOLL=0\nFDNAME="+name, int(fd)) })
	return errors.Join(err, sent)
}

// remove lets the service manager close what it holds by name.
func (s *Store) remove(ctx context.Context, name string) error {
	return s.send(ctx, "FDSTOREREMOVE=1\nFDNAME="+name)
}

// settle returns when the service manager has acted on all that it was sent: it then
// closes the pipe it is given.
func (s *Store) settle(ctx context.Context) error {
	if s.manager == "" {
		return nil
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	defer func() { _ = reader.Close() }()
	sent := s.send(ctx, "BARRIER=1", int(writer.Fd()))
	if err := errors.Join(sent, writer.Close()); err != nil {
		return err
	}
	if err := reader.SetReadDeadline(time.Now().Add(managerTimeout)); err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	if _, err := reader.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	return nil
}

// send sends one datagram with descriptors. An address that begins with @ is in the
// abstract namespace, which the net package writes the same way.
func (s *Store) send(ctx context.Context, state string, fds ...int) error {
	if s.manager == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", s.manager)
	if err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", s.manager, err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetWriteDeadline(time.Now().Add(managerTimeout)); err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", s.manager, err)
	}
	raw, err := conn.(*net.UnixConn).SyscallConn() //nolint:forcetypeassert // "unixgram" gives nothing else
	if err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", s.manager, err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte(state), rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err := errors.Join(err, sent); err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", s.manager, err)
	}
	return nil
}
