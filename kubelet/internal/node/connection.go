package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/platform/tunnel"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

const (
	heartbeatEvery = time.Second
	// answerWithin bounds the silence after which a heartbeat stream is opened anew.
	// It ends the stream only, never the connection that other streams share.
	answerWithin   = 5 * time.Second
	reopenFirst    = 100 * time.Millisecond
	reopenLast     = 2 * time.Second
	maxTunnelBytes = 4 << 20
	tunnelStreams  = 250
	// A tunnel may lie idle for as long as nobody asks for a log. gRPC counts the time
	// until the client's first bytes as connecting, and would end it after two minutes.
	tunnelIdle = 365 * 24 * time.Hour
)

// Connection keeps the heartbeat and the tunnel to some master open.
type Connection struct {
	// Masters is a connection that fails over. Required.
	Masters nodev1pb.NodeServiceClient
	// Service that masters call through the tunnel. Required.
	Service kubeletv1pb.KubeletServiceServer
	// Moved is closed when the connection moves to another master. Optional.
	Moved func() <-chan struct{}
	Clock clock.WithTicker
	Log   *zap.Logger
}

// Run keeps both open until ctx ends.
func (c *Connection) Run(ctx context.Context) error {
	return lifecycle.RunAll(ctx,
		func(ctx context.Context) error { return c.repeat(ctx, "heartbeat", c.heartbeat) },
		func(ctx context.Context) error { return c.repeat(ctx, "tunnel", c.tunnel) })
}

// repeat opens a stream again whenever it ended, soon at first.
func (c *Connection) repeat(ctx context.Context, what string, run func(context.Context) error) error {
	wait := reopenFirst
	for {
		began := c.Clock.Now()
		err := c.untilMoved(ctx, run)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.Clock.Since(began) > 10*time.Second {
			wait = reopenFirst
		}
		c.Log.Info("stream to the masters ended", zap.String("stream", what), zap.Error(err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.Clock.After(wait):
			wait = min(2*wait, reopenLast)
		}
	}
}

// untilMoved ends a stream when calls go to another master: being heard by one
// master and called by another would cost a relay.
func (c *Connection) untilMoved(ctx context.Context, run func(context.Context) error) error {
	if c.Moved == nil {
		return run(ctx)
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	group := lifecycle.NewGroup(inner)
	group.Go(func(ctx context.Context) error {
		defer cancel()
		return run(ctx)
	})
	// The connection that run itself brings up counts as a move, too; it is made
	// within the first moments, which are let pass.
	group.Go(func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-c.Clock.After(answerWithin):
		}
		select {
		case <-ctx.Done():
		case <-c.Moved():
			// The old master may be gone without a word; otherwise the stream ends by itself.
			cancel()
		}
		return nil
	})
	return group.Wait()
}

func (c *Connection) heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Masters.Heartbeat(ctx)
	if err != nil {
		return fmt.Errorf("open heartbeat: %w", err)
	}
	answers := make(chan time.Duration, 1)
	group := lifecycle.NewGroup(ctx)
	group.Go(func(ctx context.Context) error {
		defer cancel()
		for {
			answer, err := stream.Recv()
			if err != nil {
				return fmt.Errorf("heartbeat: %w", err)
			}
			interval := heartbeatEvery
			if answer.GetInterval() != nil {
				interval = max(answer.GetInterval().AsDuration(), heartbeatEvery/10)
			}
			select {
			case answers <- interval:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	group.Go(func(ctx context.Context) error {
		defer cancel()
		interval, heard := heartbeatEvery, c.Clock.Now()
		for sequence := uint64(1); ; sequence++ {
			err := stream.Send(&nodev1pb.HeartbeatRequest{Sequence: sequence})
			if errors.Is(err, io.EOF) { // the master has ended the stream: Recv says why
				<-ctx.Done()
				return ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("heartbeat: %w", err)
			}
			next := c.Clock.After(interval)
			for waiting := true; waiting; {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case interval = <-answers:
					heard = c.Clock.Now()
				case <-next:
					waiting = false
				}
			}
			if c.Clock.Since(heard) > answerWithin {
				return errors.New("heartbeat: no answer")
			}
		}
	})
	return group.Wait()
}

// tunnel serves KubeletService in the reverse direction until the stream ends.
func (c *Connection) tunnel(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Masters.Tunnel(ctx)
	if err != nil {
		return fmt.Errorf("open tunnel: %w", err)
	}
	conn := tunnel.ClientConn(stream, cancel)
	server := grpc.NewServer(
		grpc.ConnectionTimeout(tunnelIdle), grpc.MaxRecvMsgSize(maxTunnelBytes), grpc.MaxConcurrentStreams(tunnelStreams),
		grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(streaming))
	kubeletv1pb.RegisterKubeletServiceServer(server, c.Service)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err = server.Serve(tunnel.Listener(conn))
	server.Stop()
	_ = conn.Close()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	return err
}

// The tunnel has no gate of its own: who is at its other end was proved by the
// connection that carries it. What remains is to contain panics and to map errors.
func unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	err = lifecycle.Call(ctx, func(ctx context.Context) (err error) {
		response, err = handler(ctx, request)
		return err
	})
	return response, rpc.ToStatus(err)
}

func streaming(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return rpc.ToStatus(lifecycle.Call(stream.Context(), func(context.Context) error { return handler(service, stream) }))
}
