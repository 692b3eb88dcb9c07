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
	tracker tracker
	// expires is the end of the certificate the link was opened with.
	expires time.Time
}

func openLink(cfg FailoverConfig, address string) (*link, error) {
	done, end := context.WithCancel(context.Background())
	l := &link{address: address, done: done, end: end, tracker: tracker{opened: time.Now()}}
	options := append(transportOptions(cfg.Identity, cfg.ServerName), grpc.WithStatsHandler(&l.tracker))
	l.expires = cfg.Identity.Leaf().NotAfter
	conn, err := grpc.NewClient(target(address), append(options, cfg.Options...)...)
	if err != nil {
		end()
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	l.conn = conn
	return l, nil
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

// tracker notes in a call's context that its message was handed to the network, and when
// the server was heard last.
type tracker struct {
	opened time.Time
	heard  atomic.Int64 // after opened, in nanoseconds; 0 for never
}

var _ stats.Handler = (*tracker)(nil)

type sentKey struct{}

// withSent returns a context in which the returned flag is raised when a message is sent.
func withSent(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := &atomic.Bool{}
	return context.WithValue(ctx, sentKey{}, sent), sent
}

// heardWithin tells whether a message of the server came within the last d.
func (t *tracker) heardWithin(d time.Duration) bool {
	heard := t.heard.Load()
	return heard != 0 && time.Since(t.opened)-time.Duration(heard) < d
}

func (t *tracker) HandleRPC(ctx context.Context, event stats.RPCStats) {
	switch event.(type) {
	case *stats.OutPayload:
		if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
			sent.Store(true)
		}
	case *stats.InPayload:
		t.heard.Store(int64(time.Since(t.opened)))
	}
}

func (*tracker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (*tracker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (*tracker) HandleConn(context.Context, stats.ConnStats) {}
