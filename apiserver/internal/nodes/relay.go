package nodes

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/lifecycle"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// Relay serves KubeletService on the masters' port for nodes whose tunnel this
// master holds. It passes typed messages on and never relays to a third master.
type Relay struct {
	kubeletv1pb.UnsafeKubeletServiceServer

	hub *Hub
}

var _ kubeletv1pb.KubeletServiceServer = (*Relay)(nil)

// NewRelay returns the relay of a hub.
func NewRelay(hub *Hub) *Relay { return &Relay{hub: hub} }

func (r *Relay) kubelet(ctx context.Context) (kubeletv1pb.KubeletServiceClient, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	names := md.Get(relayNode)
	if len(names) != 1 {
		return nil, apierrors.NewBadRequest("a relayed call names one node")
	}
	conn, ok := r.hub.Local(names[0])
	if !ok {
		return nil, apierrors.NewServiceUnavailable("node " + names[0] + " is not connected to this master")
	}
	return kubeletv1pb.NewKubeletServiceClient(conn), nil
}

// Logs relays a log.
func (r *Relay) Logs(req *kubeletv1pb.LogsRequest, out kubeletv1pb.KubeletService_LogsServer) error {
	kubelet, err := r.kubelet(out.Context())
	if err != nil {
		return err
	}
	in, err := kubelet.Logs(out.Context(), req)
	if err != nil {
		return err
	}
	return copyDown(in.Recv, out.Send)
}

// Exec relays a command's streams.
func (r *Relay) Exec(in kubeletv1pb.KubeletService_ExecServer) error {
	return relayBoth(r, in, func(ctx context.Context, k kubeletv1pb.KubeletServiceClient) (grpc.BidiStreamingClient[kubeletv1pb.ExecRequest, kubeletv1pb.ExecResponse], error) {
		return k.Exec(ctx)
	})
}

// Attach relays a container's streams.
func (r *Relay) Attach(in kubeletv1pb.KubeletService_AttachServer) error {
	return relayBoth(r, in, func(ctx context.Context, k kubeletv1pb.KubeletServiceClient) (grpc.BidiStreamingClient[kubeletv1pb.AttachRequest, kubeletv1pb.AttachResponse], error) {
		return k.Attach(ctx)
	})
}

// PortForward relays a connection to a pod's port.
func (r *Relay) PortForward(in kubeletv1pb.KubeletService_PortForwardServer) error {
	return relayBoth(r, in, func(ctx context.Context, k kubeletv1pb.KubeletServiceClient) (grpc.BidiStreamingClient[kubeletv1pb.PortForwardRequest, kubeletv1pb.PortForwardResponse], error) {
		return k.PortForward(ctx)
	})
}

// Stats relays a node's figures.
func (r *Relay) Stats(ctx context.Context, req *kubeletv1pb.StatsRequest) (*kubeletv1pb.StatsResponse, error) {
	kubelet, err := r.kubelet(ctx)
	if err != nil {
		return nil, err
	}
	return kubelet.Stats(ctx, req)
}

// Restart relays an order to restart containers.
func (r *Relay) Restart(ctx context.Context, req *kubeletv1pb.RestartRequest) (*kubeletv1pb.RestartResponse, error) {
	kubelet, err := r.kubelet(ctx)
	if err != nil {
		return nil, err
	}
	return kubelet.Restart(ctx, req)
}

// Page relays a text about a node.
func (r *Relay) Page(req *kubeletv1pb.PageRequest, out kubeletv1pb.KubeletService_PageServer) error {
	kubelet, err := r.kubelet(out.Context())
	if err != nil {
		return err
	}
	in, err := kubelet.Page(out.Context(), req)
	if err != nil {
		return err
	}
	return copyDown(in.Recv, out.Send)
}

// relayBoth passes messages both ways until the node ends the stream or either breaks.
func relayBoth[Req, Res any](r *Relay, in grpc.BidiStreamingServer[Req, Res],
	open func(context.Context, kubeletv1pb.KubeletServiceClient) (grpc.BidiStreamingClient[Req, Res], error),
) error {
	kubelet, err := r.kubelet(in.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	node, err := open(ctx, kubelet)
	if err != nil {
		return err
	}
	up := lifecycle.NewGroup(ctx)
	up.Go(func(context.Context) error {
		for {
			message, err := in.Recv()
			if err != nil {
				return node.CloseSend() // the caller's end; the node answers what is left
			}
			if err := node.Send(message); err != nil {
				return nil //nolint:nilerr // the receiving side learns why
			}
		}
	})
	// The upward goroutine ends with the caller's stream, that is when this returns.
	return copyDown(node.Recv, in.Send)
}

func copyDown[M any](recv func() (*M, error), send func(*M) error) error {
	for {
		message, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := send(message); err != nil {
			return err
		}
	}
}
