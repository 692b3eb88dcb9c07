package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// bench is a supervisor that runs in this process, over directories of the test.
type bench struct {
	t      *testing.T
	units  string
	logs   string
	socket string
	stop   context.CancelFunc
	done   chan error
}

// newBench writes the units, given as file name to content, and starts a supervisor.
func newBench(t *testing.T, units map[string]string) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{
		t: t, units: filepath.Join(dir, "units"), logs: filepath.Join(dir, "log"),
		socket: filepath.Join(dir, "init.sock"), done: make(chan error, 1),
	}
	for name, content := range units {
		b.write(name, content)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	ready := make(chan struct{})
	s := New(Config{
		UnitDir: b.units, LogDir: b.logs, Sockets: []string{b.socket}, Log: zap.NewNop(),
		OnReady: func() { close(ready) },
	})
	go func() { b.done <- s.Run(ctx) }()
	t.Cleanup(func() { b.end() })
	<-ready
	return b
}

func (b *bench) write(name, content string) {
	b.t.Helper()
	if err := os.MkdirAll(b.units, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.units, name+".yaml"), []byte("name: "+name+"\n"+content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// end stops the supervisor and fails the test if it does not stop well.
func (b *bench) end() {
	b.t.Helper()
	b.stop()
	select {
	case err := <-b.done:
		b.done <- nil
		if err != nil {
			b.t.Error(err)
		}
	case <-time.After(20 * time.Second):
		b.t.Error("supervisor does not end")
	}
}

func (b *bench) call(command Command, unit string) ([]UnitStatus, error) {
	return Call(b.t.Context(), b.socket, Request{Command: command, Unit: unit})
}

func (b *bench) must(command Command, unit string) []UnitStatus {
	b.t.Helper()
	units, err := b.call(command, unit)
	if err != nil {
		b.t.Fatalf("%s %s: %v", command, unit, err)
	}
	return units
}

func (b *bench) log(unit string) string {
	content, _ := os.ReadFile(filepath.Join(b.logs, unit+".log"))
	return string(content)
}

func (b *bench) eventually(what string, condition func() error) {
	b.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// logged waits until the unit's log holds text.
func (b *bench) logged(unit, text string) {
	b.t.Helper()
	b.eventually("log of "+unit, func() error {
		if !strings.Contains(b.log(unit), text) {
			return fmt.Errorf("%q lacks %q", b.log(unit), text)
		}
		return nil
	})
}

const sleeper = `exec: [/bin/sh, -c, "echo hello; exec sleep 1000"]` + "\n"

func TestRestartAfterCrash(t *testing.T) {
	b := newBench(t, map[string]string{"a": sleeper})
	first := b.must(Status, "a")[0]
	if first.State != Running || first.PID == 0 {
		t.Fatalf("enabled unit is %+v", first)
	}
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.eventually("restart", func() error {
		now := b.must(Status, "a")[0]
		if now.State != Running || now.PID == first.PID || now.Restarts != 1 || !strings.Contains(now.LastExit, "SIGKILL") {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
}

func TestEnvironment(t *testing.T) {
	b := newBench(t, map[string]string{
		"own":  `exec: [/usr/bin/env]` + "\nenv: [PATH=/own, A=b]\n",
		"none": `exec: [/usr/bin/env]` + "\n",
	})
	b.logged("own", "A=b\n")
	b.logged("none", defaultPath+"\n")
	if log := b.log("own"); !strings.Contains(log, "PATH=/own\n") || strings.Contains(log, defaultPath) {
		t.Errorf("environment: %s", log)
	}
}

func TestBackOffGrows(t *testing.T) {
	b := newBench(t, map[string]string{"a": "exec: [/bin/false]\n", "missing": "exec: [/does/not/exist]\n"})
	b.eventually("restarts", func() error {
		if now := b.must(Status, "a")[0]; now.Restarts < 4 || now.LastExit != "exit code 1" {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	// 100 + 200 + 400 ms at least have passed for four ends; far more restarts would mean no back-off.
	if now := b.must(Status, "a")[0]; now.Restarts > 6 {
		t.Errorf("restarts without back-off: %+v", now)
	}
	if now := b.must(Status, "missing")[0]; now.State != Restarting || !strings.Contains(now.LastExit, "/does/not/exist") {
		t.Errorf("missing program: %+v", now)
	}
	if now := b.must(Stop, "a")[0]; now.State != Stopped {
		t.Errorf("stopped while restarting: %+v", now)
	}
}

func TestStartStopRestart(t *testing.T) {
	b := newBench(t, map[string]string{"a": sleeper, "idle": "disabled: true\n" + sleeper})
	if now := b.must(Status, "idle")[0]; now.State != Stopped {
		t.Errorf("disabled unit is %+v", now)
	}
	if now := b.must(Start, "idle")[0]; now.State != Running {
		t.Errorf("started unit is %+v", now)
	}
	before := b.must(Status, "a")[0]
	if now := b.must(Restart, "a")[0]; now.State != Running || now.PID == before.PID || now.Restarts != 0 {
		t.Errorf("restarted unit is %+v", now)
	}
	if now := b.must(Stop, "a")[0]; now.State != Stopped || now.PID != 0 {
		t.Errorf("stopped unit is %+v", now)
	}
	// A unit file that appears later is found.
	b.write("late", sleeper)
	if now := b.must(Start, "late")[0]; now.State != Running {
		t.Errorf("late unit is %+v", now)
	}
	if got := len(b.must(List, "")); got != 3 {
		t.Errorf("%d units listed, want 3", got)
	}
	for _, request := range []Request{{Start, "nobody"}, {"dance", "a"}} {
		if _, err := b.call(request.Command, request.Unit); err == nil {
			t.Errorf("%+v was accepted", request)
		}
	}
}

func TestStopTimeoutAndSignal(t *testing.T) {
	b := newBench(t, map[string]string{
		"stubborn": `exec: [/bin/sh, -c, "trap 'echo ignored' TERM; echo up; while :; do sleep 0.02; done"]` + "\nstopTimeout: 300ms\n",
		"quit":     `exec: [/bin/sh, -c, "trap 'echo quit; exit 0' QUIT; trap '' TERM; echo up; while :; do sleep 0.02; done"]` + "\nstopSignal: SIGQUIT\n",
	})
	b.logged("stubborn", "up")
	b.logged("quit", "up")
	began := time.Now()
	if now := b.must(Stop, "stubborn")[0]; now.State != Stopped || !strings.Contains(now.LastExit, "SIGKILL") {
		t.Errorf("stubborn unit is %+v", now)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("killed after %s, before its time", took)
	}
	if now := b.must(Stop, "quit")[0]; now.LastExit != "exit code 0" {
		t.Errorf("unit ended with %q, want exit code 0", now.LastExit)
	}
}

func TestPoweroffStopsInReverseOrder(t *testing.T) {
	unit := func(name, after string) string {
		return fmt.Sprintf("after: [%s]\n", after) +
			fmt.Sprintf(`exec: [/bin/sh, -c, "trap 'date +%%s%%N; exit 0' TERM; echo up; while :; do sleep 0.01; done"]`+"\n")
	}
	b := newBench(t, map[string]string{"c": unit("c", "x-unknown"), "b": unit("b", "c"), "a": unit("a", "b")})
	for _, name := range []string{"a", "b", "c"} {
		b.logged(name, "up")
	}
	b.must(Poweroff, "")
	select {
	case err := <-b.done:
		b.done <- nil
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("no end after poweroff")
	}
	ended := func(name string) string {
		fields := strings.Fields(b.log(name))
		return fields[len(fields)-1]
	}
	b.eventually("order", func() error {
		if a, m, c := ended("a"), ended("b"), ended("c"); a > m || m > c || a == "up" || c == "up" {
			return errors.New("ended at a " + a + ", b " + m + ", c " + c)
		}
		return nil
	})
}

func TestLogRotation(t *testing.T) {
	b := newBench(t, map[string]string{
		"a": "logMaxBytes: 100000\n" + `exec: [/bin/sh, -c, "i=0; while [ $i -lt 15000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000"]` + "\n",
	})
	b.logged("a", "line 14999")
	for _, name := range []string{"a.log", "a.log.1"} {
		info, err := os.Stat(filepath.Join(b.logs, name))
		if err != nil || info.Size() > 100000 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestLoadUnits(t *testing.T) {
	for name, content := range map[string]string{
		"unknown field": "name: a\nexec: [/bin/true]\ncolour: red\n",
		"relative path": "name: a\nexec: [true]\n",
		"no program":    "name: a\n",
		"other name":    "name: b\nexec: [/bin/true]\n",
		"bad signal":    "name: a\nexec: [/bin/true]\nstopSignal: SIGWHAT\n",
		"bad kill mode": "name: a\nexec: [/bin/true]\nkillMode: some\n",
		"circle":        "name: a\nexec: [/bin/true]\nafter: [a]\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			if units, err := LoadUnits(dir); err == nil {
				t.Errorf("accepted: %+v", units)
			}
		})
	}
	if units, err := LoadUnits(filepath.Join(t.TempDir(), "none")); err != nil || len(units) != 0 {
		t.Errorf("missing directory: %v, %v", units, err)
	}
}

func TestLongSocketPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	path := filepath.Join(dir, "init.sock")
	s := New(Config{UnitDir: filepath.Join(dir, "units"), LogDir: dir, Sockets: []string{path}, Log: zap.NewNop()})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := make(chan struct{})
	s.cfg.OnReady = func() { close(ready) }
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-ready
	if _, err := Call(ctx, path, Request{Command: List}); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
