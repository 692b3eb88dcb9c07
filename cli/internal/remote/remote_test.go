package remote

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// person is who logs in.
type person struct {
	dir string
	key ssh.PublicKey
}

func newPerson(t *testing.T) person {
	t.Helper()
	p := person{dir: t.TempDir()}
	p.key = publicOf(t, writeKey(t, filepath.Join(p.dir, "key"), newEd25519(t), ""))
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", p.dir)
	return p
}

func (p person) target(s *server) Target {
	return Target{Name: "vm1", Address: s.address, User: "root", KeyFile: filepath.Join(p.dir, "key")}
}

func (p person) knownHosts() string { return filepath.Join(p.dir, ".ssh", "known_hosts") }

// trust knows the keys that were written down before.
func (p person) trust(t *testing.T, acceptNew bool) *Trust {
	t.Helper()
	trust, err := OpenTrust(TrustConfig{Files: []string{p.knownHosts()}, AcceptNew: acceptNew})
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func (p person) writeKnown(t *testing.T, lines ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.knownHosts()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.knownHosts(), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, target Target, trust *Trust) *Machine {
	t.Helper()
	m, err := Dial(t.Context(), target, trust)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// refused checks that a login fails with an error that names the parts, and returns its text.
func refused(t *testing.T, target Target, trust *Trust, parts ...string) string {
	t.Helper()
	m, err := Dial(t.Context(), target, trust)
	if err == nil {
		_ = m.Close()
		t.Fatal("it is let in")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
	return err.Error()
}

func TestRun(t *testing.T) {
	p := newPerson(t)
	m := dial(t, p.target(startServer(t, p.key, "")), p.trust(t, true))
	var out bytes.Buffer
	err := m.Run(t.Context(), Script{
		Text: `echo "$(id -u) $1 $2"; cat`, Args: []string{"it's", `$HOME "x"`}, Input: strings.NewReader("input"), Output: &out,
	})
	if want := "0 it's $HOME \"x\"\ninput"; err != nil || out.String() != want {
		t.Errorf("%v, %q, want %q", err, out.String(), want)
	}
	err = m.Run(t.Context(), Script{Text: "echo first >&2; echo second >&2; exit 7"})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || exit.Error() != "first" {
		t.Errorf("a script that fails: %v", err)
	}
	if err := m.Run(t.Context(), Script{Text: "echo progress >&2; echo 'Error: what counts' >&2; exit 1"}); err == nil || err.Error() != "what counts" {
		t.Errorf("a script that says what its error is: %v", err)
	}
}

func TestExec(t *testing.T) {
	p := newPerson(t)
	m := dial(t, p.target(startServer(t, p.key, "")), p.trust(t, true))
	var out bytes.Buffer
	var lines []string
	script := `echo "$*"; tr '\0' ' ' </proc/$PPID/cmdline; echo "· step $WHERE" >&2; echo "Error: no luck" >&2; exit 3`
	err := m.Exec(t.Context(), Program{
		Argv: []string{"sh", "-c", script, "program", "join"}, Env: []string{"WHERE=here"}, SecretFlag: "--token", Secret: "s3cret", Output: &out,
		Line: func(line string) bool { lines = append(lines, line); return strings.HasPrefix(line, "· ") },
	})
	if err == nil || err.Error() != "no luck" {
		t.Errorf("error %v", err)
	}
	args, above, _ := strings.Cut(out.String(), "\n")
	if args != "join --token s3cret" {
		t.Errorf("arguments %q", args)
	}
	if above == "" || strings.Contains(above, "s3cret") {
		t.Errorf("the secret is in the command line that sshd and sudo log: %q", above)
	}
	if len(lines) != 2 || lines[0] != "· step here" {
		t.Errorf("lines %q", lines)
	}
}

// undoing is a program that undoes its work when it is told to end, like an installing
// command. It says on standard error that it has begun.
const undoing = `trap 'echo undoing >&2; echo undoing >&2; echo done >"$1"; exit 1' TERM
echo begun >&2
while :; do sleep 0.05; done`

func TestExecUndoesWhenInterrupted(t *testing.T) {
	p := newPerson(t)
	m := dial(t, p.target(startServer(t, p.key, "")), p.trust(t, true))
	proof := filepath.Join(t.TempDir(), "proof")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	err := m.Exec(ctx, Program{
		Argv: []string{"sh", "-c", undoing, "program", proof},
		Line: func(line string) bool {
			if line == "begun" {
				interrupt()
			}
			return true
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(proof); err != nil {
		t.Errorf("it returned before the program had undone its work: %v", err)
	}
}

func TestExecUndoesWhenTheConnectionBreaks(t *testing.T) {
	p := newPerson(t)
	s := startServer(t, p.key, "")
	m := dial(t, p.target(s), p.trust(t, true))
	proof := filepath.Join(t.TempDir(), "proof")
	err := m.Exec(t.Context(), Program{
		Argv: []string{"sh", "-c", undoing, "program", proof},
		Line: func(line string) bool {
			if line == "begun" {
				s.breakConnections()
			}
			return true
		},
	})
	if err == nil || !strings.Contains(err.Error(), "connection broke") {
		t.Errorf("error %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, err := os.Stat(proof); err != nil; _, err = os.Stat(proof) {
		if time.Now().After(deadline) {
			t.Fatal("the program was not told to end, or died of its output")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestHostKeyThatIsNotKnown(t *testing.T) {
	p := newPerson(t)
	s := startServer(t, p.key, "")
	line := knownhosts.Line([]string{knownhosts.Normalize(s.address)}, s.hostKey)
	p.writeKnown(t, "# no line end")
	text := refused(t, p.target(s), p.trust(t, false), "not known", "SHA256:", p.knownHosts(), "--accept-new")
	_, given, _ := strings.Cut(text, "--accept-new: ")
	t.Run("TheLineOfTheErrorHelps", func(t *testing.T) {
		p.writeKnown(t, given)
		dial(t, p.target(s), p.trust(t, false))
	})
	t.Run("AcceptNew", func(t *testing.T) {
		p.writeKnown(t, "# no line end")
		dial(t, p.target(s), p.trust(t, true))
		dial(t, p.target(s), p.trust(t, false))
		content, err := os.ReadFile(p.knownHosts())
		if err != nil || !strings.HasPrefix(string(content), "# no line end\n["+strings.Replace(s.address, ":", "]:", 1)+" ") {
			t.Errorf("%v, %s", err, content)
		}
	})
	t.Run("OneOfTwoTypes", func(t *testing.T) {
		p.writeKnown(t, line)
		dial(t, p.target(s), p.trust(t, false))
	})
}

func TestHostKeyThatHasChanged(t *testing.T) {
	p := newPerson(t)
	s := startServer(t, p.key, "")
	other := publicOf(t, newEd25519(t))
	p.writeKnown(t, knownhosts.Line([]string{knownhosts.Normalize(s.address)}, other))
	for _, acceptNew := range []bool{false, true} {
		refused(t, p.target(s), p.trust(t, acceptNew), "has changed", ssh.FingerprintSHA256(s.hostKey), ssh.FingerprintSHA256(other),
			"line 1", "ssh-keygen -f "+p.knownHosts()+" -R")
	}
}

// serveAgent starts an SSH agent that holds keys.
func serveAgent(t *testing.T, keys ...any) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, key := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "a")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
}

func TestKeys(t *testing.T) {
	p := newPerson(t)
	own := newEd25519(t)
	s := startServer(t, publicOf(t, own), "")
	target := p.target(s)
	trust := p.trust(t, true)
	refused(t, target, trust, "does not let root in with key "+target.KeyFile, "authorized_keys")

	locked := target
	locked.KeyFile = filepath.Join(p.dir, "locked")
	writeKey(t, locked.KeyFile, own, "open sesame")
	refused(t, locked, trust, "has a passphrase", "ssh-add "+locked.KeyFile)

	garbage := target
	garbage.KeyFile = p.knownHosts()
	refused(t, garbage, trust, "no private key")
	garbage.KeyFile = "/nowhere"
	refused(t, garbage, trust, "/nowhere")

	none := target
	none.KeyFile = ""
	refused(t, none, trust, "no SSH key", "keyFile", "ssh-add")

	writeKey(t, filepath.Join(p.dir, ".ssh", "id_ed25519"), own, "")
	dial(t, none, trust)
	if err := os.Remove(filepath.Join(p.dir, ".ssh", "id_ed25519")); err != nil {
		t.Fatal(err)
	}

	serveAgent(t, newECDSA(t), own)
	dial(t, none, trust)
	dial(t, locked, trust)

	t.Setenv("SSH_AUTH_SOCK", "/nowhere/agent")
	refused(t, none, trust, "SSH agent", "/nowhere/agent")
}

func TestUnreachable(t *testing.T) {
	p := newPerson(t)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	target := Target{Name: "vm1", Address: address, User: "root", KeyFile: filepath.Join(p.dir, "key")}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, target, p.trust(t, false), address, "connection refused", "address and port")
	target.Address = "no-such-machine.invalid:22"
	refused(t, target, p.trust(t, false), "no-such-machine.invalid:22", "name is not known")
}

func TestSudo(t *testing.T) {
	p := newPerson(t)
	for name, test := range map[string]struct {
		sudoers string
		parts   []string // of the refusal
	}{
		"NoPassword": {"someone ALL=(ALL) NOPASSWD: ALL\n", nil},
		"Password":   {"someone ALL=(ALL) ALL\n", []string{"sudo asks someone for a password", "NOPASSWD", "deploy as root"}},
		"Nobody":     {"", []string{"sudo", "someone", "deploy as root"}},
	} {
		t.Run(name, func(t *testing.T) {
			target := p.target(startServer(t, p.key, "root ALL=(ALL) ALL\n"+test.sudoers))
			target.User = "someone"
			if test.parts != nil {
				refused(t, target, p.trust(t, true), test.parts...)
				return
			}
			var out bytes.Buffer
			m := dial(t, target, p.trust(t, true))
			if err := m.Run(t.Context(), Script{Text: "id -u; echo \"$1\"", Args: []string{"a 'b'"}, Output: &out}); err != nil || out.String() != "0\na 'b'\n" {
				t.Errorf("%v, %q", err, out.String())
			}
			out.Reset()
			err := m.Exec(t.Context(), Program{Argv: []string{"sh", "-c", `id -u; echo "$@"`, "program"}, SecretFlag: "-t", Secret: "x y", Output: &out})
			if err != nil || out.String() != "0\n-t x y\n" {
				t.Errorf("%v, %q", err, out.String())
			}
		})
	}
}
