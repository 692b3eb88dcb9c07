package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1pb "google.golang.org/grpc/health/grpc_health_v1"

	"kijabi.dev/platform/tunnel"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// master is the receiving end: it hands each tunnel to the test.
type master struct {
	nodev1pb.UnimplementedNodeServiceServer
	tunnels chan *tunnel.Conn
}

func (m *master) Tunnel(stream nodev1pb.NodeService_TunnelServer) error {
	conn := tunnel.ServerConn(stream)
	m.tunnels <- conn
	<-conn.Done()
	return nil
}

// pair opens a tunnel over a real gRPC connection and returns both ends.
func pair(t *testing.T) (node, atMaster *tunnel.Conn) {
	t.Helper()
	socket, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &master{tunnels: make(chan *tunnel.Conn, 1)}
	server := grpc.NewServer()
	nodev1pb.RegisterNodeServiceServer(server, m)
	var group errgroup.Group
	group.Go(func() error { return server.Serve(socket) })
	client, err := grpc.NewClient(socket.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = client.Close()
		server.Stop()
		_ = group.Wait()
	})
	stream, err := nodev1pb.NewNodeServiceClient(client).Tunnel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return tunnel.ClientConn(stream, cancel), <-m.tunnels
}

func TestBytesArriveInOrderBothWays(t *testing.T) {
	node, atMaster := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB: many chunks, more than one window
	for _, direction := range []struct{ from, to net.Conn }{{node, atMaster}, {atMaster, node}} {
		var group errgroup.Group
		group.Go(func() error { _, err := direction.from.Write(sent); return err })
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(direction.to, got); err != nil {
			t.Fatal(err)
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sent, got) {
			t.Fatal("bytes differ")
		}
	}
}

func TestReadDeadlinePassesAndIsLifted(t *testing.T) {
	node, atMaster := pair(t)
	if err := node.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read = %v, want deadline exceeded", err)
	}
	if err := node.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := atMaster.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1)
	if _, err := node.Read(got); err != nil || got[0] != 'x' {
		t.Fatalf("read = %q, %v", got, err)
	}
}

func TestWriteWithoutReaderMeetsItsDeadline(t *testing.T) {
	node, _ := pair(t)
	if err := node.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Write(make([]byte, 64<<20)); err == nil {
		t.Fatal("64 MiB fit into a stream nobody reads")
	}
}

func TestCloseReachesTheOtherEnd(t *testing.T) {
	node, atMaster := pair(t)
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := atMaster.Read(make([]byte, 1)); err == nil {
		t.Fatal("read after the other end closed")
	}
	<-atMaster.Done()
}

func TestGRPCInTheReverseDirection(t *testing.T) {
	node, atMaster := pair(t)
	server := grpc.NewServer()
	healthv1pb.RegisterHealthServer(server, health.NewServer())
	var group errgroup.Group
	group.Go(func() error { return server.Serve(tunnel.Listener(node)) })
	client, err := tunnel.Dial(atMaster)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := healthv1pb.NewHealthClient(client).Check(t.Context(), &healthv1pb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	<-node.Done()
	server.Stop()
	if err := group.Wait(); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}
