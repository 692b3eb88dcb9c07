package nodes_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/nodes"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/platform/tunnel"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// cluster is what the masters of a test share.
type cluster struct {
	ca, peerCA *pki.CA
	clock      clock.WithTicker

	mu        sync.Mutex
	sightings map[string]masters.Sighting
	peers     map[string]string // peer addresses by master
	known     []string
	leases    map[string]*coordinationv1.Lease
	leading   bool
	since     time.Time
}

func newCluster(t *testing.T, clk clock.WithTicker) *cluster {
	t.Helper()
	return &cluster{
		ca: pkitest.NewCA(t), peerCA: pkitest.NewCA(t), clock: clk, leading: true, since: clk.Now(),
		sightings: map[string]masters.Sighting{}, peers: map[string]string{}, leases: map[string]*coordinationv1.Lease{},
	}
}

// renew writes the Lease of a node that keeps no connection.
func (c *cluster) renew(node string, duration time.Duration, annotations map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leases[node] = &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node, Annotations: annotations},
		Spec: coordinationv1.LeaseSpec{
			RenewTime:            ptr.To(metav1.NewMicroTime(c.clock.Now().Add(-time.Hour))), // its clock is wrong
			LeaseDurationSeconds: ptr.To(int32(duration / time.Second)),
		},
	}
}

func (c *cluster) lead(leading bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leading = leading
}

// directory is one master's view of what all of them know, which is the same at once.
type directory struct {
	*cluster

	master string
}

var _ nodes.Directory = directory{}

func (d directory) Hear(node string, held bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sightings[node] = masters.Sighting{Node: node, Master: d.master, Heard: d.clock.Now(), Tunnel: held}
}

func (d directory) Drop(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sightings[node]; s.Master == d.master {
		s.Tunnel = false
		d.sightings[node] = s
	}
}

func (d directory) Find(node string) (masters.Sighting, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.sightings[node]
	return s, ok
}

func (d directory) All() map[string]masters.Sighting {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.sightings)
}

// master serves a hub for nodes and its relay for other masters.
type master struct {
	hub       *nodes.Hub
	directory directory
	door      string
}

func (c *cluster) master(t *testing.T, name string) *master {
	t.Helper()
	m := &master{directory: directory{cluster: c, master: name}}
	peerIdentity := pkitest.Identity(t, c.peerCA, pki.ComponentAPIServer, name)
	m.hub = nodes.New(nodes.Config{
		Master: name, Directory: m.directory, Clock: c.clock, Log: zap.NewNop(),
		MemberConn: func(other string) (grpc.ClientConnInterface, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			address, ok := c.peers[other]
			if !ok {
				return nil, fmt.Errorf("master %s is not on the roster", other)
			}
			conn, err := rpc.Dial(address, peerIdentity)
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
			}
			return conn, err
		},
		Known: func() []string {
			c.mu.Lock()
			defer c.mu.Unlock()
			return append([]string{}, c.known...)
		},
		Lease: func(node string) *coordinationv1.Lease {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.leases[node]
		},
		LeadingSince: func() (time.Time, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.since, c.leading
		},
	})
	m.door = serve(t, rpc.ServerConfig{Identity: pkitest.Identity(t, c.ca, pki.ComponentAPIServer, name), MaxConnectionsPerUser: 10},
		func(s *rpc.Server) { nodev1pb.RegisterNodeServiceServer(s, m.hub) })
	c.peers[name] = serve(t, rpc.ServerConfig{Identity: peerIdentity, ClientAuth: tls.RequireAndVerifyClientCert, Node: true, MaxConnectionsPerUser: 10},
		func(s *rpc.Server) { kubeletv1pb.RegisterKubeletServiceServer(s, nodes.NewRelay(m.hub)) })
	return m
}

// serve runs a server until the test ends and returns its address.
func serve(t *testing.T, cfg rpc.ServerConfig, register func(*rpc.Server)) string {
	t.Helper()
	cfg.Log, cfg.GracePeriod = zap.NewNop(), time.Millisecond
	server, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return server.Serve(ctx, listener) })
	return listener.Addr().String()
}

func background(t *testing.T, task lifecycle.Task) *lifecycle.Group {
	t.Helper()
	group := lifecycle.NewGroup(context.WithoutCancel(t.Context()))
	group.Go(task)
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	return group
}

// dial connects to a master's door with the certificate of a component.
func (c *cluster) dial(t *testing.T, m *master, component, machine string) nodev1pb.NodeServiceClient {
	t.Helper()
	conn, err := rpc.Dial(m.door, pkitest.Identity(t, c.ca, component, machine))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return nodev1pb.NewNodeServiceClient(conn)
}

// node is a kubelet's end of one tunnel.
type node struct {
	close func()
	ended <-chan struct{}
}

// connect opens a tunnel of a node and serves a KubeletService on it. The mark tells
// answers of several tunnels apart.
func (c *cluster) connect(t *testing.T, m *master, name, mark string) *node {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	stream, err := c.dial(t, m, pki.ComponentKubelet, name).Tunnel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	conn := tunnel.ClientConn(stream, cancel)
	server := grpc.NewServer()
	kubeletv1pb.RegisterKubeletServiceServer(server, &kubelet{mark: mark})
	background(t, func(context.Context) error {
		if err := server.Serve(tunnel.Listener(conn)); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	shut := sync.OnceFunc(func() {
		_ = conn.Close()
		server.Stop()
	})
	t.Cleanup(shut)
	return &node{close: shut, ended: conn.Done()}
}

// kubelet answers as a node would.
type kubelet struct {
	kubeletv1pb.UnimplementedKubeletServiceServer

	mark string
}

func (k *kubelet) Stats(context.Context, *kubeletv1pb.StatsRequest) (*kubeletv1pb.StatsResponse, error) {
	return &kubeletv1pb.StatsResponse{Pods: []*kubeletv1pb.PodStats{{Name: k.mark}}}, nil
}

// chunks and chunkBytes make a log that is larger than any window of flow control.
const chunks, chunkBytes = 64, 32 << 10

func (k *kubelet) Logs(req *kubeletv1pb.LogsRequest, out kubeletv1pb.KubeletService_LogsServer) error {
	if req.GetPrevious() {
		return rpc.ToStatus(apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "nothing"))
	}
	for range chunks {
		if err := out.Send(&kubeletv1pb.LogsResponse{Data: make([]byte, chunkBytes)}); err != nil {
			return err
		}
	}
	return nil
}

// Exec answers input with itself, until it ends, and then with an exit code.
func (k *kubelet) Exec(stream kubeletv1pb.KubeletService_ExecServer) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.Send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_ExitCode{ExitCode: 7}})
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_Stdout{Stdout: req.GetStdin()}}); err != nil {
			return err
		}
	}
}

// Page names what was asked for and sends as much as Logs.
func (k *kubelet) Page(req *kubeletv1pb.PageRequest, out kubeletv1pb.KubeletService_PageServer) error {
	for i := range chunks {
		piece := &kubeletv1pb.PageResponse{Data: make([]byte, chunkBytes)}
		if i == 0 {
			piece.ContentType = req.GetPage().String()
		}
		if err := out.Send(piece); err != nil {
			return err
		}
	}
	return nil
}

// forwards counts the connections under way.
var forwards atomic.Int32

// PortForward answers data with itself.
func (k *kubelet) PortForward(stream kubeletv1pb.KubeletService_PortForwardServer) error {
	forwards.Add(1)
	defer forwards.Add(-1)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if !first.GetStart().GetPodAddress() {
		return rpc.ToStatus(apierrors.NewBadRequest("not to the pod's address"))
	}
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&kubeletv1pb.PortForwardResponse{Data: req.GetData()}); err != nil {
			return err
		}
	}
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: did not happen: %v", what, err)
		case <-retry.C:
		}
	}
}
