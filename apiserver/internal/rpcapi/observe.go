package rpcapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/metrics"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// metadataAuditID tells the client under which id its call is in the audit log.
const metadataAuditID = "audit-id"

// maxOperations bounds how many bytes of a Transact's operations are listed.
const maxOperations = 16 << 10

// Surround has control see every call of the door; it is a rpc.ServerConfig.Surround.
func Surround(control *traffic.Control) func(ctx context.Context, call *rpc.Call, next func(context.Context) error) error {
	return func(ctx context.Context, call *rpc.Call, next func(context.Context) error) error {
		r := begin(ctx, control, call)
		var err error
		if call.Stream != nil {
			r.Long = true
			call.Stream = &observedStream{ServerStream: call.Stream, control: control, request: r}
		} else {
			describe(r, call.Request)
			if call.Refused == nil {
				err = control.Start(ctx, r)
			}
		}
		_ = grpc.SetHeader(ctx, metadata.Pairs(metadataAuditID, r.ID)) // fails only once an answer has begun
		if err == nil {
			err = next(context.WithValue(ctx, requestKey{}, r))
		}
		r.Code, r.Reason = outcome(err)
		switch {
		case r.Code == http.StatusForbidden:
			r.Decision = traffic.Forbid
		case r.Code != http.StatusUnauthorized:
			r.Decision = traffic.Allow
		}
		control.End(r)
		return err
	}
}

// requestKey is where a call's context has its *traffic.Request.
type requestKey struct{}

// begin notes what is known before the message.
func begin(ctx context.Context, control *traffic.Control, call *rpc.Call) *traffic.Request {
	r := control.Begin(metrics.DoorGRPC)
	service, method, _ := strings.Cut(strings.TrimPrefix(call.Method, "/"), "/")
	r.ID, r.Path, r.Verb = call.Caller.RequestID, call.Method, strings.ToLower(method)
	if r.ID == "" {
		r.ID = rpc.NewRequestID()
	}
	r.User, r.Groups, r.UserAgent, r.Epoch = call.Caller.Name, call.Caller.Groups, call.Caller.UserAgent, call.Caller.Epoch
	if by := call.Caller.Impersonator; by != nil {
		r.ActingUser, r.ActingGroups = r.User, r.Groups
		r.User, r.Groups = by.Name, by.Groups
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		r.SourceIP, _, _ = net.SplitHostPort(p.Addr.String()) // empty for a unix socket
	}
	r.Unaudited = service == grpc_health_v1.Health_ServiceDesc.ServiceName
	return r
}

// describe notes what a message of ObjectService asks for.
func describe(r *traffic.Request, message any) {
	switch m := message.(type) {
	case interface {
		GetReference() *objectv1pb.Reference
	}:
		r.Target = targetOf(m.GetReference(), message)
		if dry, ok := message.(interface{ GetDryRun() bool }); ok {
			r.DryRun = dry.GetDryRun()
		}
	case interface {
		GetResource() *objectv1pb.Resource
		GetNamespace() string
	}:
		if _, list := message.(*objectv1pb.ListRequest); list {
			r.Long = false // a stream only for its size
		}
		r.Target = traffic.Target{
			Group: m.GetResource().GetGroup(), Version: m.GetResource().GetVersion(),
			Resource: m.GetResource().GetResource(), Namespace: m.GetNamespace(),
		}
	case *objectv1pb.TransactRequest:
		r.Operations = operations(m.GetOperations())
	}
}

func targetOf(ref *objectv1pb.Reference, message any) traffic.Target {
	t := traffic.Target{
		Group: ref.GetResource().GetGroup(), Version: ref.GetResource().GetVersion(), Resource: ref.GetResource().GetResource(),
		Namespace: ref.GetNamespace(), Name: ref.GetName(),
	}
	if m, ok := message.(interface{ GetSubresource() string }); ok {
		t.Subresource = m.GetSubresource()
	}
	return t
}

// operations lists what a Transact does: "create pods default/a, delete pods default/b".
func operations(list []*objectv1pb.Operation) string {
	var b strings.Builder
	for i, operation := range list {
		if b.Len() > maxOperations {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		var verb string
		var t traffic.Target
		switch o := operation.GetOperation().(type) {
		case *objectv1pb.Operation_Create:
			verb, t = "create", targetOf(o.Create.GetReference(), o.Create)
		case *objectv1pb.Operation_Update:
			verb, t = "update", targetOf(o.Update.GetReference(), o.Update)
		case *objectv1pb.Operation_Patch:
			verb, t = "patch", targetOf(o.Patch.GetReference(), o.Patch)
		case *objectv1pb.Operation_Delete:
			verb, t = "delete", targetOf(o.Delete.GetReference(), o.Delete)
		}
		b.WriteString(verb)
		b.WriteByte(' ')
		b.WriteString(t.Resource)
		for _, part := range [...]struct{ before, text string }{{".", t.Group}, {"/", t.Subresource}, {" ", t.Namespace}} {
			if part.text != "" {
				b.WriteString(part.before)
				b.WriteString(part.text)
			}
		}
		if t.Namespace != "" {
			b.WriteByte('/')
		} else {
			b.WriteByte(' ')
		}
		b.WriteString(t.Name)
	}
	return b.String()
}

// outcome is what an error would be over HTTP.
func outcome(err error) (code int, reason string) {
	if err == nil {
		return http.StatusOK, ""
	}
	if api := apierrors.APIStatus(nil); errors.As(err, &api) {
		return int(api.Status().Code), string(api.Status().Reason)
	}
	switch status.FromContextError(err).Code() {
	case codes.Canceled:
		return http.StatusOK, "" // the client has had enough, as watches end
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout, "Timeout"
	}
	if s, ok := status.FromError(err); ok && s.Code() == codes.Canceled {
		return http.StatusOK, ""
	}
	api := rpc.FromStatus(err)
	if known := apierrors.APIStatus(nil); errors.As(api, &known) {
		return int(known.Status().Code), string(known.Status().Reason)
	}
	return http.StatusInternalServerError, "InternalError"
}

// observedStream notes the request that a stream begins with, and counts a watch's events.
type observedStream struct {
	grpc.ServerStream

	control *traffic.Control
	request *traffic.Request
	begun   bool
}

func (s *observedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil && !s.begun {
		s.begun = true
		describe(s.request, m)
		return s.control.Start(s.Context(), s.request)
	}
	return err
}

func (s *observedStream) SendMsg(m any) error {
	watch, ok := m.(*objectv1pb.WatchResponse)
	if !ok {
		return s.ServerStream.SendMsg(m)
	}
	s.control.Answering(s.request)
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.request.Sent(len(watch.GetEvents()))
	}
	return err
}
