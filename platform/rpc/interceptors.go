package rpc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
)

// errStopping ends the streams of a server that ends.
var errStopping = apierrors.NewServiceUnavailable("the server is shutting down; connect to another")

// Call is one call as ServerConfig.Surround sees it.
type Call struct {
	// Method is /package.Service/Method.
	Method string
	// Caller of the request; anonymous if nobody is known.
	Caller Caller
	// Request is the message of a unary call; nil for streams.
	Request any
	// Stream of a streaming call; nil for unary ones. Surround may replace it, before next, to
	// see its messages.
	Stream grpc.ServerStream
	// Refused is why the access rule does not admit the call; next returns it.
	Refused error
}

// perform serves a call by next, surrounded if that is configured.
func (s *Server) perform(ctx context.Context, call *Call, next func(context.Context) error) error {
	admitted := func(ctx context.Context) error {
		if call.Refused != nil {
			return call.Refused
		}
		return next(ctx)
	}
	if s.cfg.Surround == nil {
		return admitted(ctx)
	}
	return s.cfg.Surround(ctx, call, admitted)
}

// unary identifies, admits and bounds one call, and turns what its handler
// returns into a gRPC status.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	GrowStack()
	started := time.Now()
	ctx, caller, refused := s.enter(ctx, info.FullMethod)
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultDeadline)
		defer cancel()
	}
	call := Call{Method: info.FullMethod, Caller: caller, Request: req, Refused: refused}
	err = ToStatus(s.perform(ctx, &call, func(ctx context.Context) (err error) {
		res, err = s.callUnary(ctx, req, info.FullMethod, handler)
		return err
	}))
	if err != nil {
		res = nil
	}
	s.logCall(info.FullMethod, caller, started, err)
	return res, err
}

func (s *Server) callUnary(ctx context.Context, req any, method string, handler grpc.UnaryHandler) (res any, err error) {
	defer func() {
		if value := recover(); value != nil {
			res, err = nil, s.panicked(method, value)
		}
	}()
	return handler(ctx, req)
}

// stream does the same for a stream, and ends it when its caller loses the right
// to it or the server ends.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	started := time.Now()
	ctx, caller, refused := s.enter(stream.Context(), info.FullMethod)
	call := Call{Method: info.FullMethod, Caller: caller, Stream: stream, Refused: refused}
	err := ToStatus(s.perform(ctx, &call, func(ctx context.Context) error {
		return s.runStream(ctx, srv, call.Stream, info.FullMethod, handler)
	}))
	s.logCall(info.FullMethod, caller, started, err)
	return err
}

func (s *Server) runStream(ctx context.Context, srv any, stream grpc.ServerStream, method string, handler grpc.StreamHandler) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(s.stopping, func() { end(errStopping) })()
	defer s.reauthorize(ctx, stream.Context(), method, end)()
	patient := &serverStream{ServerStream: stream, ctx: ctx}
	if patience := s.cfg.Timeouts.Send; patience > 0 {
		patient.patience = time.AfterFunc(patience, func() { s.hangUp(stream.Context(), method) })
		patient.patience.Stop()
		patient.timeout = patience
	}
	err := s.callStream(srv, patient, method, handler)
	if cause := context.Cause(ctx); cause != nil && stream.Context().Err() == nil &&
		(err == nil || errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled) {
		return cause
	}
	return err
}

func (s *Server) callStream(srv any, stream grpc.ServerStream, method string, handler grpc.StreamHandler) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = s.panicked(method, value)
		}
	}()
	return handler(srv, stream)
}

func (s *Server) panicked(method string, value any) error {
	s.cfg.Log.Error("panic in handler", logging.Method(method), zap.Any("panic", value), zap.ByteString("stack", debug.Stack()))
	return apierrors.NewInternalError(fmt.Errorf("%s panicked; see the server's log", method))
}

// enter identifies the caller, applies the access rule and the extra
// authorization, and returns the context the handler sees.
func (s *Server) enter(ctx context.Context, method string) (context.Context, Caller, error) {
	caller, transport, err := identify(ctx, &s.cfg)
	if err != nil {
		return ctx, caller, err
	}
	table := s.access.Load()
	if table == nil {
		return ctx, caller, forbidden(caller, method, "the server has no access rules; it was not started by Serve")
	}
	rule := (*table)[method]
	if err := admit(rule, caller, transport, method); err != nil {
		return ctx, caller, err
	}
	if caller, err = s.impersonate(ctx, caller, method); err != nil {
		return ctx, caller, err
	}
	if s.cfg.Authorize != nil {
		if err := s.cfg.Authorize(ctx, caller, method, rule); err != nil {
			return ctx, caller, err
		}
	}
	return WithCaller(ctx, caller), caller, nil
}

// reauthorize asks now and then whether the stream may go on, where the answer can
// change, and returns a function that ends the asking.
func (s *Server) reauthorize(ctx, incoming context.Context, method string, end context.CancelCauseFunc) func() {
	if _, certain := peerCaller(incoming); s.cfg.Authorize == nil && (certain || s.cfg.Authenticate == nil) && !impersonates(incoming) {
		return func() {} // a certificate ends with its connection
	}
	group := lifecycle.NewGroup(ctx)
	group.Go(func(ctx context.Context) error {
		ticker := time.NewTicker(s.cfg.ReauthorizeEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			if _, _, err := s.enter(incoming, method); err != nil && ctx.Err() == nil {
				end(err)
				return nil
			}
		}
	})
	return func() {
		group.Cancel()
		_ = group.Wait()
	}
}

// logCall writes failures of the server as warnings and all else for debugging.
func (s *Server) logCall(method string, caller Caller, started time.Time, err error) {
	code := status.Code(err)
	level := zap.DebugLevel
	if code == codes.Internal || code == codes.Unknown || code == codes.DataLoss {
		level = zap.WarnLevel
	}
	entry := s.cfg.Log.Check(level, "rpc")
	if entry == nil {
		return
	}
	entry.Write(logging.Method(method), zap.Stringer("code", code), zap.Duration("took", time.Since(started)),
		logging.User(caller.Name), logging.RequestID(caller.RequestID), zap.Bool("forwarded", caller.Forwarded), zap.Error(err))
}

// hangUp ends the connection of a client that takes nothing of a stream. Ending the stream alone
// would leave what it was sent in memory for as long as the client likes: its end waits behind
// the rest.
func (s *Server) hangUp(ctx context.Context, method string) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	if conn, ok := p.AuthInfo.(interface{ hangUp() }); ok {
		s.cfg.Log.Info("connection closed: its client takes nothing of a stream", logging.Method(method),
			logging.Address(p.Addr.String()), zap.Duration("for", s.cfg.Timeouts.Send))
		conn.hangUp()
	}
}

// serverStream carries the context with the caller, and waits for a client to take a message only
// for so long.
type serverStream struct {
	grpc.ServerStream

	ctx      context.Context //nolint:containedctx // that is what it is for
	timeout  time.Duration
	patience *time.Timer // hangs up; nil without a bound
}

// Context of the request.
func (s *serverStream) Context() context.Context { return s.ctx }

// SendMsg sends a message; like gRPC's it is called by one goroutine at a time.
func (s *serverStream) SendMsg(m any) error {
	if s.patience != nil {
		s.patience.Reset(s.timeout)
		defer s.patience.Stop()
	}
	return s.ServerStream.SendMsg(m)
}
