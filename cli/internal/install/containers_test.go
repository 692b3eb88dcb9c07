package install

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
)

func TestContainersStop(t *testing.T) {
	const address = "127.0.0.77" // ports of programs are fixed
	dir := t.TempDir()
	services := &Containers{Layout: Layout{ConfigDir: dir, RunDir: dir}, Machine: "m1", Address: address}
	if err := services.Stop(t.Context(), "scheduler"); err != nil {
		t.Errorf("a program that was never ordered to run: %v", err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(address, strconv.Itoa(configv1.PortScheduler)))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "scheduler.yaml")
	order := func() {
		if err := os.WriteFile(config, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	order()
	ctx, cancel := context.WithTimeout(t.Context(), 3*quiet)
	defer cancel()
	if err := services.Stop(ctx, "scheduler"); err == nil || !strings.Contains(err.Error(), "docker logs m1-scheduler") {
		t.Errorf("a program that does not end: %v", err)
	}
	if _, err := os.Stat(config); !os.IsNotExist(err) {
		t.Errorf("the order to run is still there: %v", err)
	}
	order()
	done := make(chan error, 1)
	go func() { done <- services.Stop(t.Context(), "scheduler") }()
	select {
	case err := <-done:
		t.Fatalf("stopped while it serves: %v", err)
	case <-time.After(3 * quiet):
	}
	_ = listener.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("does not notice that the program has ended")
	}
}

// An apiserver has several ports, and the last of them may be closed late.
func TestContainersStopWaitsForEveryPort(t *testing.T) {
	const address = "127.0.0.79"
	dir := t.TempDir()
	services := &Containers{Layout: Layout{ConfigDir: dir, RunDir: dir}, Machine: "m1", Address: address}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(address, strconv.Itoa(configv1.PortEtcdPeer)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if err := os.WriteFile(filepath.Join(dir, "apiserver.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*quiet)
	defer cancel()
	if err := services.Stop(ctx, apiserver); err == nil {
		t.Error("stopped while its etcd member listens")
	}
}
