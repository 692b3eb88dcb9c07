package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// lender lends a file over a unix socket: to each connection it sends one byte and with
// it a descriptor, and then keeps the connection open, whose end is the lender's end.
type lender struct {
	listener *net.UnixListener
	file     *os.File
	log      *zap.Logger
	wait     sync.WaitGroup
}

// lend serves the file at a socket that only root can use.
func lend(socket, path string, log *zap.Logger) (*lender, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lend %s: %w", path, err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("lend %s: %w", path, err)
	}
	old := unix.Umask(0o177)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("lend %s: %w", path, err)
	}
	l := &lender{listener: listener, file: file, log: log}
	l.wait.Go(l.accept)
	return l, nil
}

// close ends the listener. Connections end with the process.
func (l *lender) close() {
	_ = l.listener.Close()
	l.wait.Wait()
	_ = l.file.Close()
}

func (l *lender) accept() {
	for {
		conn, err := l.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.log.Warn("mounts not lent", zap.Error(err))
			continue
		}
		go func() { // ends with the borrower, which may outlive the listener
			defer func() { _ = conn.Close() }()
			if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(l.file.Fd())), nil); err != nil {
				l.log.Warn("mounts not lent", zap.Error(err))
				return
			}
			l.log.Info("mounts lent")
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
}

// loan is a borrowed mount namespace.
type loan struct {
	mounts *os.File
	// lost is closed when the lender ends.
	lost <-chan struct{}
	conn *net.UnixConn
}

func (l *loan) close() {
	_ = l.conn.Close()
	_ = l.mounts.Close()
}

// borrow waits for the lender. It returns nil when a signal ends the waiting.
func borrow(socket string, log *zap.Logger) (*loan, error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for said := false; ; said = true {
		got, err := borrowOnce(ctx, socket)
		if err == nil {
			return got, nil
		}
		if !said {
			log.Info("waiting for containerd's container", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil //nolint:nilnil // nothing was borrowed, and nobody wants it any more
		}
	}
}

func borrowOnce(ctx context.Context, socket string) (*loan, error) {
	dialed, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	conn := dialed.(*net.UnixConn) // it was dialled as such
	mounts, err := receive(conn)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("borrow from %s: %w", socket, err)
	}
	lost := make(chan struct{})
	go func() { // ends with the connection
		defer close(lost)
		_, _ = io.Copy(io.Discard, conn)
	}()
	return &loan{mounts: mounts, lost: lost, conn: conn}, nil
}

// receive reads the one message that carries a descriptor.
func receive(conn *net.UnixConn) (*os.File, error) {
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	data, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err == nil && len(fds) == 1 {
			unix.CloseOnExec(fds[0])
			return os.NewFile(uintptr(fds[0]), "mounts"), conn.SetReadDeadline(time.Time{})
		}
	}
	return nil, errors.New("the answer held no mounts")
}
