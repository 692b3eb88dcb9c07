package harness

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// T is a *testing.T that remembers why it and its subtests failed. What goes wrong first
// is often followed by much that is printed for a closer look; so the reasons are printed
// once more, the first one last, when all is over.
type T struct {
	*testing.T

	reasons *reasons
}

type reasons struct {
	mu  sync.Mutex
	all []string
}

// Begin makes the T of a whole test. It is to be called before anything registers a
// cleanup, so that what is said at the end comes after that.
func Begin(t *testing.T) *T {
	t.Helper()
	r := &reasons{}
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := len(r.all) - 1; i >= 0; i-- {
			t.Logf("failed: %s", r.all[i])
		}
	})
	return &T{t, r}
}

// Run runs a subtest and reports whether it succeeded.
func (t *T) Run(name string, run func(*T)) bool {
	t.Helper()
	return t.T.Run(name, func(sub *testing.T) { run(&T{sub, t.reasons}) })
}

// Error is Log and Fail.
func (t *T) Error(args ...any) {
	t.Helper()
	t.note(fmt.Sprintln(args...))
	t.T.Error(args...)
}

// Errorf is Logf and Fail.
func (t *T) Errorf(format string, args ...any) {
	t.Helper()
	t.note(fmt.Sprintf(format, args...))
	t.T.Errorf(format, args...)
}

// Fatal is Log and FailNow.
func (t *T) Fatal(args ...any) {
	t.Helper()
	t.note(fmt.Sprintln(args...))
	t.T.Fatal(args...)
}

// Fatalf is Logf and FailNow.
func (t *T) Fatalf(format string, args ...any) {
	t.Helper()
	t.note(fmt.Sprintf(format, args...))
	t.T.Fatalf(format, args...)
}

// note keeps the first and the last line of a text: of a command, how it ended and its
// last words.
func (t *T) note(text string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	reason := t.Name() + ": " + lines[0]
	if last := len(lines) - 1; last > 0 {
		reason += " … " + strings.TrimSpace(lines[last])
	}
	t.reasons.mu.Lock()
	defer t.reasons.mu.Unlock()
	t.reasons.all = append(t.reasons.all, reason)
}
