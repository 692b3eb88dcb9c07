package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Script is a POSIX shell script to run.
type Script struct {
	// Text of the script. Required.
	Text string
	// Args are its $1, $2, ….
	Args []string
	// Input is its standard input; nil is empty.
	Input io.Reader
	// Output takes its standard output. May be nil.
	Output io.Writer
}

// Program is a command that undoes its work when it is told to end.
type Program struct {
	// Argv is the command and its arguments. Required.
	Argv []string
	// Env holds NAME=value entries.
	Env []string
	// SecretFlag and Secret are added to the arguments when Secret is not empty. They
	// reach the machine over standard input, so that no log of sudo or sshd has them.
	SecretFlag, Secret string
	// Line is called with each line of its standard error and reports whether that was
	// progress, which is no part of an error. May be nil.
	Line func(line string) bool
	// Output takes its standard output. May be nil.
	Output io.Writer
}

// ExitError is a command that ran and failed.
type ExitError struct {
	// Code is its exit code; 0 when a signal has ended it.
	Code int
	// Stderr is what it printed there.
	Stderr string
}

// Error is the line that tells most: the one marked as an error, else the first.
func (e *ExitError) Error() string {
	for line := range strings.Lines(e.Stderr) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "Error: "); ok {
			return text
		}
	}
	if text := firstLine(e.Stderr); text != "" {
		return text
	}
	return fmt.Sprintf("it ended with exit code %d and said nothing", e.Code)
}

// Run runs a script as root. When ctx ends, its session is closed: it sees the end of
// its input and nobody reads its output.
func (m *Machine) Run(ctx context.Context, s Script) error {
	var stderr bytes.Buffer
	output := s.Output
	if output == nil {
		output = io.Discard
	}
	err := m.run(ctx, m.asRoot("sh", append([]string{"-c", s.Text, "kijabi-deploy"}, s.Args...)...), s.Input, output, &stderr)
	return explain(err, &stderr)
}

// guard runs "$@" and tells it to end when standard input does, which is when the
// connection breaks or the caller wants it. It must not die of an output that nobody
// reads any more: then its work would stay half done. The first argument says whether
// the first line of input is a secret, the second is the flag for it.
const guard = `trap '' PIPE HUP
exec 3<&0 </dev/null
flag=$1
shift
if [ -n "$flag" ]; then
	IFS= read -r secret <&3 || exit 1
	set -- "$@" "$flag" "$secret"
fi
"$@" 3<&- &
program=$!
(IFS= read -r end <&3; kill -TERM "$program") >/dev/null 2>&1 &
watch=$!
wait "$program"
code=$?
kill "$watch" 2>/dev/null
exit "$code"`

// Exec runs a program as root. When ctx ends it is sent SIGTERM and waited for, so that
// it can undo its work.
func (m *Machine) Exec(ctx context.Context, p Program) error {
	flag := ""
	if p.Secret != "" {
		flag = p.SecretFlag
	}
	argv := append([]string{"-c", guard, "kijabi-deploy", flag, "env"}, p.Env...)
	var stderr bytes.Buffer
	lines := &lineWriter{each: p.Line, rest: &stderr}
	session, err := m.session()
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }()
	session.Stdout, session.Stderr = p.Output, lines
	input, err := session.StdinPipe()
	if err != nil {
		return err
	}
	if err := session.Start(m.asRoot("sh", append(argv, p.Argv...)...)); err != nil {
		return lost(err)
	}
	if p.Secret != "" {
		if _, err := io.WriteString(input, p.Secret+"\n"); err != nil {
			return lost(err)
		}
	}
	stop := context.AfterFunc(ctx, func() {
		_ = input.Close()
		time.AfterFunc(undoTimeout, func() { _ = session.Close() })
	})
	defer stop()
	err = session.Wait()
	lines.flush()
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", ctx.Err())
	}
	return explain(err, &stderr)
}

// asRoot quotes a command line for the user's shell, with sudo where it is needed.
func (m *Machine) asRoot(name string, args ...string) string {
	words := append([]string{name}, args...)
	if m.sudo {
		words = append([]string{"sudo", "-n", "--"}, words...)
	}
	for i, word := range words {
		words[i] = quote(word)
	}
	return strings.Join(words, " ")
}

// quote makes one word of any text, for any usual shell.
func quote(text string) string {
	if text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func (m *Machine) session() (*ssh.Session, error) {
	session, err := m.client.NewSession()
	if err != nil {
		return nil, lost(err)
	}
	return session, nil
}

func (m *Machine) run(ctx context.Context, line string, input io.Reader, stdout, stderr io.Writer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	session, err := m.session()
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }()
	session.Stdin, session.Stdout, session.Stderr = input, stdout, stderr
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	if err := session.Run(line); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
		}
		return err
	}
	return nil
}

// explain tells a command that failed from a connection that broke.
func explain(err error, stderr *bytes.Buffer) error {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return &ExitError{Code: exit.ExitStatus(), Stderr: strings.TrimSpace(stderr.String())}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	default:
		return lost(err)
	}
}

func lost(err error) error {
	return fmt.Errorf("the SSH connection broke: %w: run this again once the machine answers", err)
}

// lineWriter passes complete lines on and keeps those that are no progress.
type lineWriter struct {
	each    func(string) bool
	rest    *bytes.Buffer
	partial []byte
}

func (w *lineWriter) Write(content []byte) (int, error) {
	w.partial = append(w.partial, content...)
	for {
		end := bytes.IndexByte(w.partial, '\n')
		if end < 0 {
			return len(content), nil
		}
		w.line(string(w.partial[:end]))
		w.partial = w.partial[end+1:]
	}
}

func (w *lineWriter) line(text string) {
	if w.each == nil || !w.each(text) {
		w.rest.WriteString(text + "\n")
	}
}

func (w *lineWriter) flush() {
	if len(w.partial) > 0 {
		w.line(string(w.partial))
		w.partial = nil
	}
}
