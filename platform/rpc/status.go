package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// errorDomain scopes the reasons in ErrorInfo.
	errorDomain = "kijabi.dev"
	// maxViolations bounds the field causes repeated for foreign clients; the
	// Status keeps all.
	maxViolations = 32
)

// codeOf says which gRPC code a Kubernetes reason becomes. The code is for foreign
// clients, retries and metrics; Kijabi's own clients go by the reason.
//
// Expired and Gone are OUT_OF_RANGE: like an offset past the end, the version asked
// for lies outside of what is kept, and the caller must start over, not repeat.
func codeOf(s *metav1.Status) codes.Code {
	switch s.Reason {
	case metav1.StatusReasonNotFound:
		return codes.NotFound
	case metav1.StatusReasonAlreadyExists:
		return codes.AlreadyExists
	case metav1.StatusReasonConflict:
		return codes.Aborted
	case metav1.StatusReasonInvalid, metav1.StatusReasonBadRequest, metav1.StatusReasonNotAcceptable,
		metav1.StatusReasonUnsupportedMediaType, metav1.StatusReasonRequestEntityTooLarge:
		return codes.InvalidArgument
	case metav1.StatusReasonForbidden:
		return codes.PermissionDenied
	case metav1.StatusReasonUnauthorized:
		return codes.Unauthenticated
	case metav1.StatusReasonExpired, metav1.StatusReasonGone:
		return codes.OutOfRange
	case metav1.StatusReasonTooManyRequests:
		return codes.ResourceExhausted
	case metav1.StatusReasonServiceUnavailable, metav1.StatusReasonServerTimeout:
		return codes.Unavailable
	case metav1.StatusReasonTimeout:
		return codes.DeadlineExceeded
	case metav1.StatusReasonMethodNotAllowed:
		return codes.Unimplemented
	case metav1.StatusReasonInternalError:
		return codes.Internal
	case metav1.StatusReasonStoreReadError:
		return codes.DataLoss
	default:
		return codeOfHTTP(int(s.Code))
	}
}

// codeOfHTTP serves statuses whose reason is unknown.
func codeOfHTTP(code int) codes.Code {
	switch {
	case code == http.StatusNotFound:
		return codes.NotFound
	case code == http.StatusConflict:
		return codes.Aborted
	case code == http.StatusForbidden:
		return codes.PermissionDenied
	case code == http.StatusUnauthorized:
		return codes.Unauthenticated
	case code == http.StatusTooManyRequests, code == http.StatusInsufficientStorage:
		return codes.ResourceExhausted
	case code == http.StatusServiceUnavailable:
		return codes.Unavailable
	case code == http.StatusGatewayTimeout:
		return codes.DeadlineExceeded
	case code == http.StatusPreconditionFailed:
		return codes.FailedPrecondition
	case code >= 400 && code < 500:
		return codes.InvalidArgument
	case code >= 500:
		return codes.Internal
	default:
		return codes.Unknown
	}
}

// ToStatus returns err as an error that gRPC sends. A StatusError, wrapped or not,
// keeps everything: its reason as ErrorInfo, field causes as BadRequest, a retry
// delay as RetryInfo, and itself as a detail. A gRPC status passes unchanged, the
// context's errors become their codes, and anything else is INTERNAL.
func ToStatus(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if api := apierrors.APIStatus(nil); errors.As(err, &api) {
		s := api.Status()
		return statusOf(&s).Err()
	}
	if remote := (interface{ GRPCStatus() *status.Status })(nil); errors.As(err, &remote) {
		return remote.GRPCStatus().Err()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		s := apierrors.NewTimeoutError(err.Error(), 0).Status()
		return statusOf(&s).Err()
	default:
		s := apierrors.NewInternalError(err).Status()
		return statusOf(&s).Err()
	}
}

func statusOf(s *metav1.Status) *status.Status {
	plain := status.New(codeOf(s), s.Message)
	rich, err := plain.WithDetails(details(s)...)
	if err != nil {
		return plain // the code was OK, which no failure maps to, or a detail could not be packed
	}
	return rich
}

func details(s *metav1.Status) []protoadapt.MessageV1 {
	info := &errdetails.ErrorInfo{Reason: string(s.Reason), Domain: errorDomain, Metadata: map[string]string{}}
	list := []protoadapt.MessageV1{info}
	if d := s.Details; d != nil {
		for key, value := range map[string]string{"group": d.Group, "kind": d.Kind, "name": d.Name, "uid": string(d.UID)} {
			if value != "" {
				info.Metadata[key] = value
			}
		}
		if len(d.Causes) > 0 {
			list = append(list, violations(d.Causes))
		}
		if d.RetryAfterSeconds > 0 {
			list = append(list, &errdetails.RetryInfo{
				RetryDelay: durationpb.New(time.Duration(d.RetryAfterSeconds) * time.Second),
			})
		}
	}
	if whole, err := json.Marshal(s); err == nil {
		list = append(list, wrapperspb.String(string(whole)))
	}
	return list
}

func violations(causes []metav1.StatusCause) *errdetails.BadRequest {
	bad := &errdetails.BadRequest{}
	for _, cause := range causes[:min(len(causes), maxViolations)] {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: cause.Field, Description: cause.Message, Reason: string(cause.Type),
		})
	}
	return bad
}

// FromStatus undoes ToStatus: of an error that a gRPC call returned it makes the
// *apierrors.StatusError the server meant. An error that carries none, as from the
// transport, becomes an error that is both: errors.As finds a StatusError of the
// nearest reason and status.Code the code. A cancelled call is context.Canceled and
// no StatusError.
func FromStatus(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if api := (*apierrors.StatusError)(nil); errors.As(err, &api) {
		return err // has been through here already
	}
	s, ok := status.FromError(err)
	if !ok {
		switch {
		case errors.Is(err, context.Canceled):
			s = status.New(codes.Canceled, err.Error())
		case errors.Is(err, context.DeadlineExceeded):
			s = status.New(codes.DeadlineExceeded, err.Error())
		default:
			return err
		}
	}
	if sent := sentStatus(s.Details()); sent != nil {
		return &apierrors.StatusError{ErrStatus: *sent}
	}
	return &remoteError{status: s, api: apiErrorOf(s)}
}

// sentStatus finds the Status that a Kijabi server attached.
func sentStatus(details []any) *metav1.Status {
	ours := false
	for _, detail := range details {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			ours = detail.GetDomain() == errorDomain
		case *wrapperspb.StringValue:
			sent := &metav1.Status{}
			if ours && json.Unmarshal([]byte(detail.GetValue()), sent) == nil {
				return sent
			}
		}
	}
	return nil
}

// remoteError is a gRPC failure that no StatusError came with.
type remoteError struct {
	status *status.Status
	api    *apierrors.StatusError
}

func (e *remoteError) Error() string { return e.status.Message() }

// GRPCStatus lets status.FromError and status.Code see the original.
func (e *remoteError) GRPCStatus() *status.Status { return e.status }

func (e *remoteError) Unwrap() []error {
	switch e.status.Code() {
	case codes.Canceled:
		return []error{context.Canceled}
	case codes.DeadlineExceeded:
		return []error{context.DeadlineExceeded, e.api}
	default:
		return []error{e.api}
	}
}

// tooLarge begins what gRPC itself says of a message above the limit, by the code that otherwise
// means that there are too many requests. It refuses such a message before any of this package's
// code could.
const tooLarge = "grpc: received message larger than max"

func apiErrorOf(s *status.Status) *apierrors.StatusError {
	code, reason := reasonOf(s.Code())
	if s.Code() == codes.ResourceExhausted && strings.HasPrefix(s.Message(), tooLarge) {
		code, reason = http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge
	}
	failure := metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: s.Message()}
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			failure.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(retry.GetRetryDelay().AsDuration() / time.Second)}
		}
	}
	return &apierrors.StatusError{ErrStatus: failure}
}

func reasonOf(code codes.Code) (int, metav1.StatusReason) {
	switch code {
	case codes.NotFound:
		return http.StatusNotFound, metav1.StatusReasonNotFound
	case codes.AlreadyExists:
		return http.StatusConflict, metav1.StatusReasonAlreadyExists
	case codes.Aborted:
		return http.StatusConflict, metav1.StatusReasonConflict
	case codes.InvalidArgument, codes.FailedPrecondition:
		return http.StatusBadRequest, metav1.StatusReasonBadRequest
	case codes.PermissionDenied:
		return http.StatusForbidden, metav1.StatusReasonForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized, metav1.StatusReasonUnauthorized
	case codes.OutOfRange:
		return http.StatusGone, metav1.StatusReasonExpired
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests
	case codes.Unavailable:
		return http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable
	case codes.DeadlineExceeded, codes.Canceled:
		return http.StatusGatewayTimeout, metav1.StatusReasonTimeout
	case codes.Unimplemented:
		return http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed
	default:
		return http.StatusInternalServerError, metav1.StatusReasonInternalError
	}
}
