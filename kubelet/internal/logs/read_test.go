package logs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

const sample = `2026-01-01T00:00:00.1Z stdout F one
2026-01-01T00:00:01.1Z stderr F two
2026-01-01T00:00:02.1Z stdout P three-
2026-01-01T00:00:02.2Z stdout F half
2026-01-01T00:00:03.1Z stdout F four
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func number(n int64) *int64 { return &n }

func TestRead(t *testing.T) {
	path := write(t, sample)
	for _, row := range []struct {
		name    string
		options Options
		want    string
	}{
		{"all", Options{}, "one\ntwo\nthree-half\nfour\n"},
		{"tail", Options{Tail: number(2)}, "three-half\nfour\n"},
		{"tail of more than there is", Options{Tail: number(9)}, "one\ntwo\nthree-half\nfour\n"},
		{"tail of none", Options{Tail: number(0)}, ""},
		{"stderr", Options{Stream: "stderr"}, "two\n"},
		{"since", Options{Since: time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)}, "three-half\nfour\n"},
		{"limit", Options{LimitBytes: 6}, "one\ntw"},
		{"timestamps", Options{Timestamps: true, Tail: number(2)}, "2026-01-01T00:00:02.1Z three-half\n2026-01-01T00:00:03.1Z four\n"},
	} {
		var out strings.Builder
		if err := Read(t.Context(), path, row.options, &out); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		if out.String() != row.want {
			t.Errorf("%s: %q, want %q", row.name, out.String(), row.want)
		}
	}
}

// safe is a strings.Builder for two goroutines.
type safe struct {
	mu   sync.Mutex
	text strings.Builder
	grew chan struct{}
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.grew <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *safe) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		s.mu.Lock()
		got := s.text.String()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.grew:
		case <-deadline:
			t.Fatalf("followed %q, want %q", got, want)
		}
	}
}

func TestFollowThroughRotation(t *testing.T) {
	path := write(t, "2026-01-01T00:00:00Z stdout F one\n")
	var running atomic.Bool
	running.Store(true)
	out := &safe{grew: make(chan struct{}, 1)}
	var group errgroup.Group
	group.Go(func() error {
		return Read(t.Context(), path, Options{Follow: true, Running: running.Load}, out)
	})
	out.await(t, "one\n")
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range []string{"2026-01-01T00:00:01Z stdo", "ut F two\n"} { // a line in two writes
		if _, err := file.WriteString(piece); err != nil {
			t.Fatal(err)
		}
	}
	out.await(t, "one\ntwo\n")
	_ = file.Close()
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("2026-01-01T00:00:02Z stdout F three\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.await(t, "one\ntwo\nthree\n")
	running.Store(false)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestFollowEndsWithItsCaller(t *testing.T) {
	path := write(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Read(ctx, path, Options{Follow: true, Running: func() bool { return true }}, &safe{grew: make(chan struct{}, 1)}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
