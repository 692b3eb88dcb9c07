package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// notifySocket is the name of the socket on which units leave descriptors, beside the
// first control socket.
const notifySocket = "notify.sock"

// stored is a descriptor that a unit's program has left here for its next run. It is a
// number rather than an *os.File, which would change modes that its duplicates share.
type stored struct {
	name string
	fd   int
}

// openNotify opens the socket on which programs talk to their service manager, in
// systemd's protocol of sd_notify(3). Of that, only what concerns descriptors is heard.
func (s *Supervisor) openNotify() error {
	path := filepath.Join(filepath.Dir(s.cfg.Sockets[0]), notifySocket)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("notify socket: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify socket: %w", err)
	}
	err = os.Chmod(path, 0o600)
	if err == nil {
		err = control(conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("notify socket %s: %w", path, err), conn.Close())
	}
	s.notify = conn
	return nil
}

func (s *Supervisor) closeNotify() {
	_ = os.Remove(s.notify.LocalAddr().String())
	_ = s.notify.Close()
}

// serveNotify wakes the loop, which reads the messages itself, until ctx ends.
func (s *Supervisor) serveNotify(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = s.notify.SetReadDeadline(time.Unix(1, 0)) })() // wakes the reader
	raw, err := s.notify.SyscallConn()
	if err != nil {
		return fmt.Errorf("notify socket: %w", err)
	}
	for ctx.Err() == nil {
		err := raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(poll, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("notify socket: %w", err)
		}
		_ = s.do(ctx, func() error { return nil }) // every turn of the loop begins with reading
	}
	return nil
}

// receive reads all messages that have arrived.
func (s *Supervisor) receive() {
	if s.notify == nil {
		return
	}
	const mostRights = 253 // by the kernel, in one message
	message, ancillary := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*mostRights)+unix.CmsgSpace(unix.SizeofUcred))
	for {
		var n, oobn int
		err := control(s.notify, func(fd int) (err error) {
			n, oobn, _, _, err = unix.Recvmsg(fd, message, ancillary, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			return err
		})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // none left, or closed
		}
		fds, pid := parseAncillary(ancillary[:oobn])
		s.heed(string(message[:n]), fds, pid)
	}
}

// parseAncillary returns the descriptors of a message and the process that sent it.
func parseAncillary(ancillary []byte) (fds []int, pid int) {
	parts, err := unix.ParseSocketControlMessage(ancillary)
	if err != nil {
		return nil, 0
	}
	for _, part := range parts {
		if sent, err := unix.ParseUnixRights(&part); err == nil {
			fds = append(fds, sent...)
		} else if sender, err := unix.ParseUnixCredentials(&part); err == nil {
			pid = int(sender.Pid)
		}
	}
	return fds, pid
}

// heed acts on one message. Only the main process of a unit has a say.
func (s *Supervisor) heed(message string, fds []int, pid int) {
	defer func() { closeAll(fds) }() // those that are not kept
	var service *service
	for _, known := range s.services {
		if known.pid == pid && pid > 0 {
			service = known
		}
	}
	if service == nil {
		return
	}
	set := map[string]string{}
	for line := range strings.Lines(message) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		set[name] = value
	}
	name := set["FDNAME"]
	if set["FDSTOREREMOVE"] != "1" && set["FDSTORE"] != "1" {
		return
	}
	service.drop(name)
	if set["FDSTORE"] != "1" {
		return
	}
	log := s.cfg.Log.With(zap.String("unit", service.unit.Name), zap.String("descriptor", name))
	if name == "" || strings.ContainsAny(name, ": ") || len(service.stored)+len(fds) > service.unit.FileDescriptorStoreMax {
		log.Warn("descriptor not stored: its name is not plain, or there are more than the unit may store",
			zap.Int("max", service.unit.FileDescriptorStoreMax))
		return
	}
	for _, fd := range fds {
		service.stored = append(service.stored, stored{name, fd})
	}
	fds = nil
	log.Info("descriptor stored")
}

// drop closes the stored descriptors called name.
func (s *service) drop(name string) {
	s.stored = slices.DeleteFunc(s.stored, func(d stored) bool {
		if d.name == name {
			_ = unix.Close(d.fd)
		}
		return d.name == name
	})
}

// dropAbove closes stored descriptors until max are left.
func (s *service) dropAbove(max int) {
	for len(s.stored) > max {
		s.drop(s.stored[len(s.stored)-1].name)
	}
}

// storeEnv tells the unit's program where to leave descriptors, and which it gets from
// its last run. LISTEN_PID is not among it, for the pid is not known before the fork.
func (s *Supervisor) storeEnv(service *service) []string {
	if s.notify == nil || service.unit.FileDescriptorStoreMax == 0 {
		return nil
	}
	env := []string{"NOTIFY_SOCKET=" + s.notify.LocalAddr().String()}
	if len(service.stored) > 0 {
		names := make([]string, 0, len(service.stored))
		for _, d := range service.stored {
			names = append(names, d.name)
		}
		env = append(env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return env
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// control runs fn with the descriptor of conn.
func control(conn syscall.Conn, fn func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = fn(int(fd)) })
	return errors.Join(err, failed)
}
