package remote

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// server is OpenSSH's sshd: one process for each connection, in a mount namespace with
// users of its own.
type server struct {
	address string
	dir     string
	hostKey ssh.PublicKey

	mu    sync.Mutex
	conns []net.Conn
}

// sshd finds the program: $KIJABI_SSHD, the system's, or the one that deploy/deps.sh
// unpacks.
func sshd(t *testing.T) (program, libraries string) {
	t.Helper()
	cache, err := filepath.Abs("../../../.cache/debian")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{os.Getenv("KIJABI_SSHD"), "/usr/sbin/sshd", filepath.Join(cache, "usr/sbin/sshd")} {
		if _, err := os.Stat(path); path != "" && err == nil {
			dirs, _ := filepath.Glob(filepath.Join(cache, "usr/lib/*-linux-*"))
			return path, strings.Join(dirs, ":")
		}
	}
	t.Fatal("there is no sshd: run `sh deploy/deps.sh test`, or name one by KIJABI_SSHD")
	return "", ""
}

// startServer starts a server that lets root and the user "someone" in with key. The
// text is added to its configuration; sudoers replaces /etc/sudoers.
func startServer(t *testing.T, key ssh.PublicKey, sudoers string) *server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests let users log in and need root: run them with sudo")
	}
	program, libraries := sshd(t)
	s := &server{dir: t.TempDir()}
	// sshd reads the keys as the user who logs in.
	for _, dir := range []string{s.dir, filepath.Dir(s.dir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.hostKey = publicOf(t, writeKey(t, filepath.Join(s.dir, "host"), newEd25519(t), ""))
	writeKey(t, filepath.Join(s.dir, "host-ecdsa"), newECDSA(t), "")
	for name, file := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"passwd":  {"root:x:0:0::/root:/bin/sh\nsshd:x:65533:65534::/run/sshd:/bin/false\nsomeone:x:4321:65534::/tmp:/bin/sh\n", 0o644},
		"shadow":  {"root:*:19000::::::\nsshd:*:19000::::::\nsomeone:*:19000::::::\n", 0o600},
		"sudoers": {sudoers, 0o440},
		"keys":    {string(ssh.MarshalAuthorizedKey(key)), 0o644},
		"config": {fmt.Sprintf("HostKey %[1]s/host\nHostKey %[1]s/host-ecdsa\nAuthorizedKeysFile %[1]s/keys\nStrictModes no\nUsePAM no\n"+
			"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n", s.dir), 0o644},
		"start": {fmt.Sprintf(`set -e
mount --bind %[1]s/passwd /etc/passwd
mount --bind %[1]s/shadow /etc/shadow
[ ! -e /etc/sudoers ] || mount --bind %[1]s/sudoers /etc/sudoers
mount -t tmpfs tmpfs /run
mkdir /run/sshd
exec %[2]s -i -e -f %[1]s/config
`, s.dir, program), 0o644},
	} {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, []byte(file.content), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	s.listen(t, libraries)
	return s
}

// listen hands each connection to a new sshd, as inetd does.
func (s *server) listen(t *testing.T, libraries string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			file, err := conn.(*net.TCPConn).File()
			if err != nil {
				t.Error(err)
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			//nolint:noctx // ends with the connection
			command := exec.Command("/bin/sh", filepath.Join(s.dir, "start"))
			command.Stdin, command.Stdout, command.Stderr = file, file, &testLog{t: t}
			command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH=" + libraries}
			command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			running.Go(func() {
				_ = command.Run() // how a connection ended is the client's matter
				_ = file.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		s.breakConnections()
		running.Wait()
	})
}

// breakConnections shuts the wires of all connections down.
func (s *server) breakConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		if raw, err := conn.(*net.TCPConn).SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
		}
		_ = conn.Close()
	}
	s.conns = nil
}

// testLog writes what sshd says to the test's log.
type testLog struct{ t *testing.T }

func (l *testLog) Write(content []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(content)))
	return len(content), nil
}

func newEd25519(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newECDSA(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicOf(t *testing.T, key crypto.Signer) ssh.PublicKey {
	t.Helper()
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// writeKey writes a private key, with a passphrase if that is not empty.
func writeKey(t *testing.T, path string, key crypto.Signer, passphrase string) crypto.Signer {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return key
}
