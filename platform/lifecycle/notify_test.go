package lifecycle

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// manager listens as a service manager does.
func manager(t *testing.T) (next func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	t.Setenv(notifySocket, path)
	t.Setenv(watchdogUsec, "")
	t.Setenv(watchdogPID, "")
	return func() string {
		t.Helper()
		if err := listener.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 64)
		n, err := listener.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
}

// start runs a notifier until the returned function is called.
func start(t *testing.T, n Notifier) (stop func()) {
	t.Helper()
	group := NewGroup(context.WithoutCancel(t.Context()))
	group.Go(n.Run)
	return func() {
		t.Helper()
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestNotifierTellsReadyAndStopping(t *testing.T) {
	next := manager(t)
	serves := make(chan struct{})
	stop := start(t, Notifier{Log: zap.NewNop(), Ready: func(ctx context.Context) error {
		select {
		case <-serves:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	close(serves)
	if got := next(); got != "READY=1" {
		t.Errorf("told %q, want READY=1", got)
	}
	stop()
	if got := next(); got != "STOPPING=1" {
		t.Errorf("told %q, want STOPPING=1", got)
	}
}

func TestNotifierSaysNothingBeforeItServes(t *testing.T) {
	next := manager(t)
	stop := start(t, Notifier{Log: zap.NewNop(), Ready: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}})
	stop()
	// Had it told anything, that would come first.
	if err := notify(t.Context(), os.Getenv(notifySocket), "end"); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "end" {
		t.Errorf("told %q", got)
	}
}

func TestNotifierFeedsTheWatchdogWhileItsPartsAnswer(t *testing.T) {
	next := manager(t)
	t.Setenv(watchdogUsec, "60000")
	t.Setenv(watchdogPID, strconv.Itoa(os.Getpid()))
	var hung atomic.Bool
	var answers atomic.Int32
	asked := make(chan struct{})
	stop := start(t, Notifier{
		Log: zap.NewNop(), Ready: func(context.Context) error { return nil },
		Alive: []Task{func(context.Context) error {
			if hung.Load() {
				asked <- struct{}{}
				return errors.New("no answer")
			}
			answers.Add(1)
			return nil
		}},
	})
	for i, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := next(); got != want {
			t.Fatalf("message %d is %q, want %q", i, got, want)
		}
	}
	hung.Store(true)
	for range 3 {
		<-asked
	}
	hung.Store(false)
	stop()
	told := int32(2)
	for next() == "WATCHDOG=1" { // until STOPPING=1
		told++
	}
	if told != answers.Load() {
		t.Errorf("told %d times that it lives, its parts answered %d times", told, answers.Load())
	}
}

func TestNotifierLeavesAnotherProcessesWatchdogAlone(t *testing.T) {
	for name, env := range map[string][2]string{
		"another process": {"60000", strconv.Itoa(os.Getpid() + 1)}, "none": {"", ""}, "garbage": {"soon", ""}, "zero": {"0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(watchdogUsec, env[0])
			t.Setenv(watchdogPID, env[1])
			if interval := watchdogInterval(); interval != 0 {
				t.Errorf("interval %s", interval)
			}
		})
	}
}

func TestNotifierWithoutServiceManager(t *testing.T) {
	t.Setenv(notifySocket, "")
	if err := (Notifier{Ready: func(context.Context) error { t.Error("asked"); return nil }}).Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNotifierSurvivesAManagerThatIsGone(t *testing.T) {
	t.Setenv(notifySocket, filepath.Join(t.TempDir(), "nobody"))
	core, logs := observer.New(zap.WarnLevel)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Notifier{Log: zap.New(core), Ready: func(context.Context) error { return nil }}).Run(ctx); err != nil {
		t.Error(err)
	}
	if logs.FilterMessage("service manager not told").Len() == 0 {
		t.Error("nothing was logged")
	}
}
