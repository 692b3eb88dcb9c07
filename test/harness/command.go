package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Invocation is a command to run. Without Dir it runs in the repository, without Limit
// for as long as its user may at most. Env is added to the user's environment.
type Invocation struct {
	Dir   string
	Input string
	Env   []string
	Limit time.Duration
	Argv  []string
}

// Outcome is how a command ended.
type Outcome struct {
	Command        string
	Stdout, Stderr string
	Code           int
	Took           time.Duration
}

// String shows the ends of what was printed.
func (o Outcome) String() string {
	return fmt.Sprintf("%s: exit code %d after %s\nstdout: %s\nstderr: %s",
		o.Command, o.Code, o.Took.Round(time.Millisecond), Tail(o.Stdout, 40), Tail(o.Stderr, 40))
}

// Tail keeps the last lines of a text.
func Tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{fmt.Sprintf("(%d lines before)", len(all)-lines)}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}

// Run runs a command to its end, in the user's environment.
func (u *User) Run(t testing.TB, i Invocation) Outcome {
	t.Helper()
	limit := cmp.Or(i.Limit, u.Limit, time.Minute)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := u.Command(ctx, i)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	started := time.Now()
	err := command.Run()
	result := Outcome{
		Command: strings.Join(append([]string{filepath.Base(i.Argv[0])}, i.Argv[1:]...), " "),
		Stdout:  stdout.String(), Stderr: stderr.String(), Took: time.Since(started),
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("not done after %s: %s", limit, result)
	case errors.As(err, &exit):
		result.Code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", result.Command, err)
	}
	return result
}

// Must is Run for a command that must succeed.
func (u *User) Must(t testing.TB, i Invocation) Outcome {
	t.Helper()
	result := u.Run(t, i)
	if result.Code != 0 {
		t.Fatal(result)
	}
	return result
}

// Command is an invocation for a test that runs it by itself. Its Limit is not used.
func (u *User) Command(ctx context.Context, i Invocation) *exec.Cmd {
	command := exec.CommandContext(ctx, i.Argv[0], i.Argv[1:]...)
	command.Dir, command.Env, command.WaitDelay = cmp.Or(i.Dir, u.Root), append(u.environment(), i.Env...), time.Second
	command.Stdin = strings.NewReader(i.Input)
	return command
}

// environment is the caller's without what leads to another home, cluster, user or demo.
func (u *User) environment() []string {
	var kept []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains([]string{
			"HOME", "KUBECONFIG", "KIJABI_STATE", "KIJABI_ACCESS", "KIJABI_NET", "COMPOSE_PROFILES", "SUDO_UID", "SUDO_GID", "SSH_AUTH_SOCK",
		}, name) {
			kept = append(kept, entry)
		}
	}
	return append(kept, "HOME="+u.Home)
}

// Process is a program that runs beside the test.
type Process struct {
	command *exec.Cmd
	output  output
	ended   chan struct{}
}

// output gathers what a process prints while others read it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// Start starts a program, which is stopped when the test ends. Its Limit is not used.
func (u *User) Start(t testing.TB, i Invocation) *Process {
	t.Helper()
	p := &Process{command: u.Command(context.Background(), i), ended: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = &p.output, &p.output
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait() // how it ended shows in what it printed
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(i.Argv[0]), Tail(p.Output(), 40))
		}
	})
	return p
}

// Output is what the program has printed so far.
func (p *Process) Output() string {
	p.output.mu.Lock()
	defer p.output.mu.Unlock()
	return p.output.text.String()
}

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Stop asks the program to end, and makes it if it does not within 10 seconds. It may be
// called again.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		t.Logf("%s does not end by itself", p.command.Path)
		p.Kill()
	}
}

// Kill ends the program without asking it.
func (p *Process) Kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.ended
}
