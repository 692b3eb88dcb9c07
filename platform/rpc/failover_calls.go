package rpc

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Invoke makes a unary call.
func (f *Failover) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx = ensureRequestID(ctx)
	return f.attempt(ctx, f.cfg.Repeatable(method), func(ctx context.Context, l *link) error {
		l.active.Add(1)
		defer l.active.Add(-1)
		return l.conn.Invoke(ctx, method, args, reply, opts...)
	})
}

// NewStream opens a stream.
func (f *Failover) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx = ensureRequestID(ctx)
	var opened grpc.ClientStream
	err := f.attempt(ctx, false, func(_ context.Context, l *link) error {
		l.active.Add(1)
		all := append([]grpc.CallOption{grpc.OnFinish(func(error) { l.active.Add(-1) })}, opts...)
		stream, err := l.conn.NewStream(ctx, desc, method, all...)
		if err != nil {
			return err
		}
		opened = &clientStream{ClientStream: stream, mapError: func(err error) error {
			return FromStatus(l.lost(ctx, err))
		}}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// attempt calls do with the current link until it succeeds, fails for a reason
// that another attempt would not change, or time is up.
func (f *Failover) attempt(ctx context.Context, repeatable bool, do func(ctx context.Context, l *link) error) error {
	patience, cancel := context.WithTimeout(ctx, f.cfg.RetryFor)
	defer cancel()
	pause := retryPause
	for {
		l, err := f.acquire(patience)
		if err != nil {
			return FromStatus(err)
		}
		tracked, sent := withSent(ctx)
		if err = l.lost(ctx, do(tracked, l)); err == nil {
			return nil
		}
		if ctx.Err() != nil || status.Code(err) != codes.Unavailable || sent.Load() && !repeatable {
			return FromStatus(err)
		}
		f.suspect(l, err)
		if sleep(patience, max(jitter(pause), retryDelay(err))) != nil {
			return FromStatus(err)
		}
		pause = min(2*pause, retryCap)
	}
}

// suspect drops a link whose transport is gone. One that is merely told by a
// healthy server to try later stays.
func (f *Failover) suspect(l *link, err error) {
	if !l.ready() && !l.closed() {
		f.drop(l, err)
	}
}

// retryDelay is what the server asked for.
func retryDelay(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration()
		}
	}
	return 0
}
