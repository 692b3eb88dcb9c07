package rpc_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
)

func TestAlive(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{})
	if err := server.WaitServing(t.Context()); err != nil {
		t.Error(err)
	}
	if err := server.Alive(t.Context()); err != nil {
		t.Errorf("a server that serves: %v", err)
	}
	server.SetServing(false)
	if err := server.Alive(t.Context()); err != nil {
		t.Errorf("a server that answers that it does not serve: %v", err)
	}
	server.stop()
	if err := server.Alive(t.Context()); err == nil {
		t.Error("a server that has ended is alive")
	}
}

// deaf accepts nobody; the kernel does, as it does for a program that hangs.
type deaf struct {
	net.Listener

	end chan struct{}
}

func (d deaf) Accept() (net.Conn, error) {
	<-d.end
	return nil, net.ErrClosed
}

func (d deaf) Close() error {
	close(d.end)
	return d.Listener.Close()
}

func TestAliveNoticesAServerThatHangs(t *testing.T) {
	server, err := rpc.NewServer(rpc.ServerConfig{
		Identity: pkitest.Identity(t, pkitest.NewCA(t), pki.ComponentDNS, "m1"), Log: zap.NewNop(), GracePeriod: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Alive(t.Context()); err == nil {
		t.Error("a server that has not begun is alive")
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := server.WaitServing(short); err == nil {
		t.Error("a server that has not begun serves")
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, deaf{listener, make(chan struct{})}) }()
	if err := server.WaitServing(t.Context()); err != nil {
		t.Fatal(err)
	}
	short, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := server.Alive(short); err == nil || !strings.Contains(err.Error(), "health") {
		t.Errorf("a server that accepts nobody: %v", err)
	}
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
