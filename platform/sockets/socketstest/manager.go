// Package socketstest is a service manager for tests of programs that use package
// sockets: it keeps the sockets of one program and hands them to its next run.
package socketstest

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Manager holds the sockets of one program until the test ends. Its methods may be
// called from several goroutines.
type Manager struct {
	t       testing.TB
	address string
	conn    *net.UnixConn
	synced  chan struct{}

	mu   sync.Mutex
	held []held
}

// held is a stored socket.
type held struct {
	name string
	file *os.File
}

const marker = "X_SYNC=1" // from Manager to itself

// New returns a manager that listens until the test ends.
func New(t testing.TB) *Manager {
	t.Helper()
	m := &Manager{t: t, address: filepath.Join(t.TempDir(), "notify"), synced: make(chan struct{})}
	var err error
	m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.listen()
	}()
	t.Cleanup(func() {
		_ = m.conn.Close()
		<-ended
		for _, h := range m.held {
			_ = h.file.Close()
		}
	})
	return m
}

// Start starts the program with the sockets that earlier runs have left.
func (m *Manager) Start(cmd *exec.Cmd) {
	m.t.Helper()
	m.sync()
	m.mu.Lock()
	defer m.mu.Unlock()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	names := make([]string, 0, len(m.held))
	for _, h := range m.held {
		names = append(names, h.name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, h.file)
	}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.address)
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
}

// Names of the sockets held, in the order they came.
func (m *Manager) Names() []string {
	m.t.Helper()
	m.sync()
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, h := range m.held {
		names = append(names, h.name)
	}
	return names
}

// sync returns when all that was sent before has been acted on.
func (m *Manager) sync() {
	m.t.Helper()
	conn, err := net.Dial("unixgram", m.address) //nolint:noctx // a test's own socket
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(marker)); err != nil {
		m.t.Fatal(err)
	}
	<-m.synced
}

func (m *Manager) listen() {
	message, control := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(message, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			m.t.Errorf("service manager: %v", err)
			return
		}
		if string(message[:n]) == marker {
			m.synced <- struct{}{}
			continue
		}
		m.apply(string(message[:n]), m.files(control[:oobn]))
	}
}

// files are the descriptors that came with a message.
func (m *Manager) files(control []byte) []*os.File {
	parts, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		m.t.Errorf("service manager: %v", err)
	}
	var files []*os.File
	for _, part := range parts {
		fds, err := unix.ParseUnixRights(&part)
		if err != nil {
			m.t.Errorf("service manager: %v", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "stored"))
		}
	}
	return files
}

// apply acts on one message, as systemd does for those that concern descriptors.
func (m *Manager) apply(message string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set := map[string]string{}
	for line := range strings.Lines(message) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		set[name] = value
	}
	if set["FDSTOREREMOVE"] == "1" {
		kept := m.held[:0]
		for _, h := range m.held {
			if h.name == set["FDNAME"] {
				_ = h.file.Close()
			} else {
				kept = append(kept, h)
			}
		}
		m.held = kept
	}
	for _, file := range files {
		if set["FDSTORE"] == "1" {
			m.held = append(m.held, held{set["FDNAME"], file})
		} else {
			_ = file.Close()
		}
	}
}

// Rename gives the sockets called from another name.
func (m *Manager) Rename(from, to string) {
	m.t.Helper()
	m.sync()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.held {
		if m.held[i].name == from {
			m.held[i].name = to
		}
	}
}
