// Package nodes holds the connections that kubelets dial: their heartbeats, and the
// tunnels over which this master calls them. A node whose tunnel another master
// holds is reached through that master, one hop.
package nodes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/platform/tunnel"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// relayNode is the metadata key that names the node of a relayed KubeletService call.
const relayNode = "kijabi-relay-node"

// heartbeatInterval is how often a kubelet is asked to say that it is alive.
const heartbeatInterval = time.Second

// livenessInterval is how often silent nodes are reported again.
const livenessInterval = time.Second

// silentAfter is the silence after which a change is reported at once: two missed heartbeats and a half.
const silentAfter = 2500 * time.Millisecond

// Directory is the masters' shared knowledge of nodes. Implemented by *masters.Directory.
type Directory interface {
	Hear(node string, tunnel bool)
	Drop(node string)
	Find(node string) (masters.Sighting, bool)
	All() map[string]masters.Sighting
}

// Config of a Hub; every field is required.
type Config struct {
	// Master is this machine's name.
	Master    string
	Directory Directory
	// MemberConn connects to another master's peer port.
	MemberConn func(master string) (grpc.ClientConnInterface, error)
	// Known lists the nodes of the cluster.
	Known func() []string
	// LeadingSince says since when this master leads; false while it does not.
	LeadingSince func() (time.Time, bool)
	// Lease returns the Lease of a node in kube-node-lease from memory; nil if there is none.
	Lease func(node string) *coordinationv1.Lease
	Clock clock.WithTicker
	Log   *zap.Logger
}

// Hub serves kijabi.node.v1.NodeService and finds the way to each node. It is safe
// for concurrent use.
type Hub struct {
	nodev1pb.UnsafeNodeServiceServer

	cfg Config

	mu      sync.Mutex
	tunnels map[string]*link

	renewals renewals
}

var _ nodev1pb.NodeServiceServer = (*Hub)(nil)

// link is a node's tunnel to this master.
type link struct {
	conn   *tunnel.Conn
	client *grpc.ClientConn
}

// New returns a hub without nodes.
func New(cfg Config) *Hub { return &Hub{cfg: cfg, tunnels: map[string]*link{}} }

// nodeOf returns the name of the node that calls.
func nodeOf(ctx context.Context) (string, error) {
	caller, _ := rpc.CallerFrom(ctx)
	name, ok := strings.CutPrefix(caller.Name, "system:node:")
	if !ok || name == "" {
		return "", apierrors.NewUnauthorized("the certificate names no node")
	}
	return name, nil
}

// Heartbeat notes that a node is alive, for as long as it says so.
func (h *Hub) Heartbeat(stream nodev1pb.NodeService_HeartbeatServer) error {
	node, err := nodeOf(stream.Context())
	if err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h.cfg.Directory.Hear(node, h.holds(node))
		if err := stream.Send(&nodev1pb.HeartbeatResponse{Sequence: req.GetSequence(), Interval: durationpb.New(heartbeatInterval)}); err != nil {
			return err
		}
	}
}

func (h *Hub) holds(node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tunnels[node] != nil
}

// Tunnel keeps a node's reverse connection until it ends. A newer one of the same
// node replaces it.
func (h *Hub) Tunnel(stream nodev1pb.NodeService_TunnelServer) error {
	node, err := nodeOf(stream.Context())
	if err != nil {
		return err
	}
	conn := tunnel.ServerConn(stream)
	client, err := tunnel.Dial(conn)
	if err != nil {
		return err
	}
	mine := &link{conn: conn, client: client}
	h.mu.Lock()
	old := h.tunnels[node]
	h.tunnels[node] = mine
	h.mu.Unlock()
	if old != nil {
		_ = old.conn.Close()
	}
	h.cfg.Directory.Hear(node, true)
	h.cfg.Log.Info("node connected", logging.Node(node))
	select {
	case <-conn.Done():
	case <-stream.Context().Done():
	}
	_ = client.Close()
	_ = conn.Close()
	h.mu.Lock()
	if h.tunnels[node] == mine {
		delete(h.tunnels, node)
		h.cfg.Directory.Drop(node)
	}
	h.mu.Unlock()
	h.cfg.Log.Info("node disconnected", logging.Node(node))
	return nil
}

// Local returns the connection to a node whose tunnel this master holds.
func (h *Hub) Local(node string) (grpc.ClientConnInterface, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, ok := h.tunnels[node]
	if !ok {
		return nil, false
	}
	return l.client, true
}

// A node that was heard within justHeard but has no tunnel is about to open one, as after its
// master has died: who looks for it waits for that long at most, looking again every lookAgain.
const (
	justHeard = 3 * time.Second
	lookAgain = 50 * time.Millisecond
)

// Node returns a connection to a node's KubeletService, through another master if
// that holds the tunnel. It is the hub's: do not close it. ServiceUnavailable when no master
// holds one, nor will in a moment.
func (h *Hub) Node(ctx context.Context, node string) (grpc.ClientConnInterface, error) {
	for until := time.Now().Add(justHeard); ; {
		conn, err := h.find(node)
		if err == nil || time.Now().After(until) || !h.heard(node) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lookAgain):
		}
	}
}

// heard says whether a master has just heard a node.
func (h *Hub) heard(node string) bool {
	seen, ok := h.cfg.Directory.Find(node)
	return ok && h.cfg.Clock.Since(seen.Heard) < justHeard
}

func (h *Hub) find(node string) (grpc.ClientConnInterface, error) {
	if conn, ok := h.Local(node); ok {
		return conn, nil
	}
	seen, ok := h.cfg.Directory.Find(node)
	if !ok || !seen.Tunnel || seen.Master == h.cfg.Master {
		return nil, unreachable(node, seen, h.cfg.Clock)
	}
	peer, err := h.cfg.MemberConn(seen.Master)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s is connected to master %s, which is not reached: %v", node, seen.Master, err))
	}
	return &relayConn{ClientConnInterface: peer, node: node}, nil
}

func unreachable(node string, seen masters.Sighting, clk clock.PassiveClock) error {
	if seen.Heard.IsZero() {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s is not connected to any master: check that its kubelet runs and reaches a master", node))
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s is not connected to any master, it was last heard %s ago: check that its kubelet runs and reaches a master",
		node, clk.Since(seen.Heard).Round(100*time.Millisecond)))
}

// relayConn marks calls for a node behind another master.
type relayConn struct {
	grpc.ClientConnInterface

	node string
}

func (c *relayConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(metadata.AppendToOutgoingContext(ctx, relayNode, c.node), method, args, reply, opts...)
}

func (c *relayConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(metadata.AppendToOutgoingContext(ctx, relayNode, c.node), desc, method, opts...)
}

// WatchLiveness reports which nodes the masters hear.
func (h *Hub) WatchLiveness(_ *nodev1pb.WatchLivenessRequest, stream nodev1pb.NodeService_WatchLivenessServer) error {
	silent := map[string]bool{} // as last reported
	var lastFull time.Time
	for {
		since, leading := h.cfg.LeadingSince()
		if !leading {
			return apierrors.NewServiceUnavailable("this master does not lead")
		}
		now := h.cfg.Clock.Now()
		full := now.Sub(lastFull) >= livenessInterval
		res := &nodev1pb.WatchLivenessResponse{}
		for _, liveness := range h.liveness(now, since) {
			isSilent := liveness.GetSilence().AsDuration() > silentAfter
			was, known := silent[liveness.GetNode()]
			if full || !known || was != isSilent {
				res.Nodes = append(res.Nodes, liveness)
			}
			silent[liveness.GetNode()] = isSilent
		}
		if full {
			lastFull = now
		}
		if len(res.GetNodes()) > 0 {
			if err := stream.Send(res); err != nil {
				return err
			}
		}
		select {
		case <-h.cfg.Clock.After(lifecycle.UntilBeat(h.cfg.Clock.Now(), livenessInterval/2)):
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Stats asks a node's kubelet for its figures.
func (h *Hub) Stats(ctx context.Context, req *nodev1pb.StatsRequest) (*nodev1pb.StatsResponse, error) {
	if req.GetNode() == "" {
		return nil, apierrors.NewBadRequest("node is required")
	}
	conn, err := h.Node(ctx, req.GetNode())
	if err != nil {
		return nil, err
	}
	stats, err := kubeletv1pb.NewKubeletServiceClient(conn).Stats(ctx, &kubeletv1pb.StatsRequest{})
	if err != nil {
		return nil, err
	}
	return &nodev1pb.StatsResponse{Stats: stats}, nil
}

// liveness lists every known node. What happened before this master led does not
// count: its knowledge began empty. A node that no master hears goes by its Lease.
func (h *Hub) liveness(now, since time.Time) []*nodev1pb.NodeLiveness {
	seen := h.cfg.Directory.All()
	names := h.cfg.Known()
	slices.Sort(names)
	h.renewals.keep(names, now, since)
	out := make([]*nodev1pb.NodeLiveness, 0, len(names))
	for _, name := range names {
		at := since
		if sighting, ok := seen[name]; !ok {
			at = h.renewals.heard(name, h.cfg.Lease(name), now)
		} else if sighting.Heard.After(at) {
			at = sighting.Heard
		}
		out = append(out, &nodev1pb.NodeLiveness{Node: name, Silence: durationpb.New(max(0, now.Sub(at))), Connected: seen[name].Tunnel})
	}
	return out
}
