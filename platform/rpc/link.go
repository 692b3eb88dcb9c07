package rpc

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// link is one connection to one apiserver.
type link struct {
	address string
	conn    *grpc.ClientConn
	done    context.Context //nolint:containedctx // ends when the link is closed
	end     context.CancelFunc
	active  atomic.Int64
	// expires is the end of the certificate the link was opened with.
	expires time.Time
}

func openLink(cfg FailoverConfig, address string) (*link, error) {
	options := append(transportOptions(cfg.Identity, cfg.ServerName), grpc.WithStatsHandler(sendTracker{}))
	expires := cfg.Identity.Leaf().NotAfter
	conn, err := grpc.NewClient(target(address), append(options, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	done, end := context.WithCancel(context.Background())
	return &link{address: address, conn: conn, done: done, end: end, expires: expires}, nil
}

// close ends the connection and, promptly, everything on it. May be called again.
func (l *link) close() {
	l.end()
	_ = l.conn.Close()
}

func (l *link) closed() bool { return l.done.Err() != nil }

func (l *link) ready() bool { return l.conn.GetState() == connectivity.Ready }

// probe asks whether the server serves. Its first call connects.
func (l *link) probe(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	res, err := grpc_health_v1.NewHealthClient(l.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return status.Error(codes.Unavailable, "it is up and not ready to serve")
	}
	return nil
}

// lost turns the error of a call whose link was closed below it into UNAVAILABLE;
// gRPC reports it as if the caller had given up.
func (l *link) lost(ctx context.Context, err error) error {
	if err != nil && l.closed() && ctx.Err() == nil && status.Code(err) == codes.Canceled {
		return status.Errorf(codes.Unavailable, "the connection to apiserver %s was lost", l.address)
	}
	return err
}

// sendTracker notes in a call's context that its message was handed to the network.
type sendTracker struct{}

var _ stats.Handler = sendTracker{}

type sentKey struct{}

// withSent returns a context in which the returned flag is raised when a message is sent.
func withSent(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := &atomic.Bool{}
	return context.WithValue(ctx, sentKey{}, sent), sent
}

func (sendTracker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sendTracker) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if _, ok := event.(*stats.OutPayload); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

func (sendTracker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sendTracker) HandleConn(context.Context, stats.ConnStats) {}
