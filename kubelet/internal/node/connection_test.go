package node

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/platform/tunnel"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// master answers heartbeats and calls back through tunnels.
type master struct {
	nodev1pb.UnimplementedNodeServiceServer

	heard   chan uint64
	tunnels chan *tunnel.Conn
}

func (m *master) Heartbeat(stream nodev1pb.NodeService_HeartbeatServer) error {
	for {
		beat, err := stream.Recv()
		if err != nil {
			return err
		}
		m.heard <- beat.GetSequence()
		if err := stream.Send(&nodev1pb.HeartbeatResponse{Sequence: beat.GetSequence()}); err != nil {
			return err
		}
	}
}

func (m *master) Tunnel(stream nodev1pb.NodeService_TunnelServer) error {
	conn := tunnel.ServerConn(stream)
	m.tunnels <- conn
	<-conn.Done()
	return nil
}

// service answers Stats, and panics when asked for a log.
type service struct {
	kubeletv1pb.UnimplementedKubeletServiceServer
}

func (service) Stats(context.Context, *kubeletv1pb.StatsRequest) (*kubeletv1pb.StatsResponse, error) {
	return nil, apierrors.NewBadRequest("as asked")
}

func (service) Logs(*kubeletv1pb.LogsRequest, kubeletv1pb.KubeletService_LogsServer) error {
	panic("in a handler")
}

func TestConnection(t *testing.T) {
	socket, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &master{heard: make(chan uint64, 100), tunnels: make(chan *tunnel.Conn, 10)}
	server := grpc.NewServer()
	nodev1pb.RegisterNodeServiceServer(server, m)
	conn, err := grpc.NewClient(socket.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	moved := &mover{changed: make(chan struct{})}
	connection := &Connection{
		Masters: nodev1pb.NewNodeServiceClient(conn), Service: service{}, Moved: moved.channel, Clock: clock.RealClock{}, Log: zap.NewNop(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	group := lifecycle.NewGroup(ctx)
	group.Go(connection.Run)
	group.Go(func(context.Context) error { return server.Serve(socket) })
	defer func() {
		cancel()
		_ = conn.Close()
		server.Stop()
		_ = group.Wait()
	}()
	if <-m.heard != 1 || <-m.heard != 2 {
		t.Fatal("heartbeats do not count up")
	}
	call := func() {
		t.Helper()
		back, err := tunnel.Dial(<-m.tunnels)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = back.Close() }()
		client := kubeletv1pb.NewKubeletServiceClient(back)
		stream, err := client.Logs(t.Context(), &kubeletv1pb.LogsRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil {
			t.Fatal("a panic is no error")
		}
		if _, err := client.Stats(t.Context(), &kubeletv1pb.StatsRequest{}); !apierrors.IsBadRequest(rpc.FromStatus(err)) {
			t.Fatalf("error %v is not what the service returned", err)
		}
	}
	call() // closes its connection: the kubelet opens another tunnel
	call()
}

// mover tells of a move, never in this test.
type mover struct {
	mu      sync.Mutex
	changed chan struct{}
}

func (m *mover) channel() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func TestFacts(t *testing.T) {
	facts, err := ReadFacts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if facts.CPUs < 1 || facts.MemoryBytes < 1<<20 || facts.Info.KernelVersion == "" || facts.Info.BootID == "" {
		t.Fatalf("facts %+v", facts)
	}
	use, err := Use()
	if err != nil || use.GetCpuNanoseconds() == 0 || use.GetMemoryBytes() == 0 || time.Since(use.GetTime().AsTime()) > time.Minute {
		t.Fatalf("use %v %v", use, err)
	}
}
