package harness

import (
	"bytes"
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
// for a minute at most.
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

// Run runs a command to its end, in the environment of the test's user.
func (c *Cluster) Run(t *testing.T, i Invocation) Outcome {
	t.Helper()
	if i.Limit == 0 {
		i.Limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), i.Limit)
	defer cancel()
	command := c.command(ctx, i)
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
		t.Fatalf("not done after %s: %s", i.Limit, result)
	case errors.As(err, &exit):
		result.Code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", result.Command, err)
	}
	return result
}

func (c *Cluster) command(ctx context.Context, i Invocation) *exec.Cmd {
	command := exec.CommandContext(ctx, i.Argv[0], i.Argv[1:]...)
	command.Dir, command.Env, command.WaitDelay = i.Dir, append(c.environment(), i.Env...), time.Second
	if command.Dir == "" {
		command.Dir = c.Root
	}
	command.Stdin = strings.NewReader(i.Input)
	return command
}

// environment is the caller's without what leads to another home, cluster or user.
func (c *Cluster) environment() []string {
	var kept []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains([]string{"HOME", "KUBECONFIG", "KIJABI_STATE", "KIJABI_ACCESS", "SUDO_UID", "SUDO_GID"}, name) {
			kept = append(kept, entry)
		}
	}
	return append(kept, "HOME="+c.Home)
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
func (c *Cluster) Start(t *testing.T, i Invocation) *Process {
	t.Helper()
	p := &Process{command: c.command(context.Background(), i), ended: make(chan struct{})}
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
func (p *Process) Stop(t *testing.T) {
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

// Eventually waits for a condition: check returns nil once it holds.
func Eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-retry.C:
		}
	}
}

// Contains fails when a text lacks one of the parts.
func Contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q:\n%s", what, part, Tail(text, 40))
		}
	}
}
