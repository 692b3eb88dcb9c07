package nodeinit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// TestMain lets this program be the one that is guarded, and the guard itself, for it
// collects all children of its process.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "guard-me" {
		switch os.Args[2] {
		case "wait":
			if err := os.WriteFile(os.Args[3], nil, 0o600); err != nil {
				os.Exit(8)
			}
			time.Sleep(time.Hour) // until a signal
		case "fail":
			os.Exit(7)
		}
	}
	os.Exit(m.Run())
}

// guarded returns a guard of a program that fails at once, or waits for a signal; then
// the file is there once it runs.
func guarded(t *testing.T, how string) (g *guard, runs string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runs = filepath.Join(t.TempDir(), "runs")
	return &guard{log: zap.NewNop(), argv: []string{program, "guard-me", how, runs}}, runs
}

func loop(g *guard, stop <-chan os.Signal) <-chan error {
	done := make(chan error, 1)
	go func() { done <- g.loop(stop) }()
	return done
}

func result(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("does not end")
		return nil
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the program does not run")
		}
	}
}

func TestProgramThatEnds(t *testing.T) {
	g, _ := guarded(t, "fail")
	if err := result(t, loop(g, nil)); err == nil || !strings.Contains(err.Error(), "exit code 7") {
		t.Errorf("got %v", err)
	}
	g, _ = guarded(t, "fail")
	g.argv[0] += "-missing"
	if err := result(t, loop(g, nil)); err == nil || !strings.Contains(err.Error(), "start ") {
		t.Errorf("a program that is missing: %v", err)
	}
}

func TestSignalIsPassedOn(t *testing.T) {
	g, runs := guarded(t, "wait")
	stop := make(chan os.Signal, 1)
	done := loop(g, stop)
	awaitFile(t, runs)
	stop <- unix.SIGTERM
	if err := result(t, done); err != nil {
		t.Errorf("asked to end, it fails: %v", err)
	}
}

func TestLossEndsTheProgram(t *testing.T) {
	g, runs := guarded(t, "wait")
	lost := make(chan struct{})
	g.lost = lost
	done := loop(g, nil)
	awaitFile(t, runs)
	close(lost)
	if err := result(t, done); !errors.Is(err, errLost) {
		t.Errorf("got %v", err)
	}
}

func TestOrderFile(t *testing.T) {
	g, runs := guarded(t, "wait")
	g.orderFile = filepath.Join(t.TempDir(), "order")
	done := loop(g, nil)
	select {
	case err := <-done:
		t.Fatalf("ended without an order: %v", err)
	case <-time.After(2 * poll):
	}
	if _, err := os.Stat(runs); err == nil {
		t.Fatal("runs without an order")
	}
	if err := os.WriteFile(g.orderFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, runs)
	if err := os.Remove(g.orderFile); err != nil {
		t.Fatal(err)
	}
	if err := result(t, done); err == nil || !strings.Contains(err.Error(), "SIGTERM") {
		t.Errorf("the order was taken away: %v", err)
	}
}

func TestNoProcessOne(t *testing.T) {
	for _, mode := range []string{Containerd, containerdRun, Kubelet, "other"} {
		if err := Run(mode, zap.NewNop()); err == nil {
			t.Errorf("mode %s does something to this machine", mode)
		}
	}
}
