package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

func statusErrors() map[codes.Code][]*apierrors.StatusError {
	pods := schema.GroupResource{Resource: "pods"}
	kind := schema.GroupKind{Group: "apps", Kind: "Deployment"}
	invalid := apierrors.NewInvalid(kind, "web", field.ErrorList{
		field.Required(field.NewPath("spec", "selector"), "say which pods"),
		field.Invalid(field.NewPath("spec", "replicas"), -1, "must not be negative"),
	})
	return map[codes.Code][]*apierrors.StatusError{
		codes.NotFound:          {apierrors.NewNotFound(pods, "web-1")},
		codes.AlreadyExists:     {apierrors.NewAlreadyExists(pods, "web-1"), apierrors.NewGenerateNameConflict(pods, "web-", 1)},
		codes.Aborted:           {apierrors.NewConflict(pods, "web-1", errors.New("the object has been modified"))},
		codes.InvalidArgument:   {invalid, apierrors.NewBadRequest("no"), apierrors.NewRequestEntityTooLargeError("3 MB")},
		codes.PermissionDenied:  {apierrors.NewForbidden(pods, "web-1", errors.New("no rule allows it"))},
		codes.Unauthenticated:   {apierrors.NewUnauthorized("who are you?")},
		codes.OutOfRange:        {apierrors.NewResourceExpired("too old"), apierrors.NewGone("gone")}, //nolint:staticcheck // Gone is still sent
		codes.ResourceExhausted: {apierrors.NewTooManyRequests("slow down", 1), apierrors.NewTooManyRequestsError("slow down")},
		codes.Unavailable:       {apierrors.NewServiceUnavailable("no leader"), apierrors.NewServerTimeout(pods, "get", 0)},
		codes.DeadlineExceeded:  {apierrors.NewTimeoutError("too slow", 2)},
		codes.Unimplemented:     {apierrors.NewMethodNotSupported(pods, "patch")},
		codes.Internal:          {apierrors.NewInternalError(errors.New("broken"))},
		codes.FailedPrecondition: {{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 412, Reason: "QuorumWouldBeLost", Message: "two of three masters are down",
		}}},
	}
}

func TestStatusErrorsCrossTheWireUnchanged(t *testing.T) {
	ca := pkitest.NewCA(t)
	var answer error
	server := start(t, ca, &service{status: func(context.Context) (*mastersv1pb.StatusResponse, error) { return nil, answer }})
	masters := mastersv1pb.NewMastersServiceClient(dial(t, ca, server.address, pki.ComponentKubelet, "n1"))
	for code, list := range statusErrors() {
		for _, want := range list {
			if got := status.Code(rpc.ToStatus(want)); got != code {
				t.Errorf("%s: code %s, want %s", want.ErrStatus.Reason, got, code)
			}
			answer = fmt.Errorf("some context: %w", want)
			_, err := masters.Status(within(t), &mastersv1pb.StatusRequest{})
			got := (*apierrors.StatusError)(nil)
			if !errors.As(err, &got) {
				t.Errorf("%s: got %T %v", want.ErrStatus.Reason, err, err)
				continue
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s changed on the way (-sent +received):\n%s", want.ErrStatus.Reason, diff)
			}
		}
	}
}

func TestForeignClientsFindReasonAndFields(t *testing.T) {
	invalid := statusErrors()[codes.InvalidArgument][0]
	var info *errdetails.ErrorInfo
	var bad *errdetails.BadRequest
	for _, detail := range status.Convert(rpc.ToStatus(invalid)).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			info = detail
		case *errdetails.BadRequest:
			bad = detail
		}
	}
	if info.GetReason() != "Invalid" || info.GetMetadata()["name"] != "web" {
		t.Errorf("ErrorInfo is %v", info)
	}
	if len(bad.GetFieldViolations()) != 2 || bad.GetFieldViolations()[1].GetField() != "spec.replicas" {
		t.Errorf("BadRequest is %v", bad)
	}
}

func TestErrorsWithoutAClass(t *testing.T) {
	if rpc.ToStatus(nil) != nil || rpc.FromStatus(nil) != nil {
		t.Error("nil became an error")
	}
	if !errors.Is(rpc.FromStatus(io.EOF), io.EOF) {
		t.Error("io.EOF did not stay itself")
	}
	if err := rpc.FromStatus(rpc.ToStatus(errors.New("broken"))); !apierrors.IsInternalError(err) {
		t.Errorf("a plain error became %v", err)
	}
	if err := rpc.FromStatus(rpc.ToStatus(context.DeadlineExceeded)); !apierrors.IsTimeout(err) {
		t.Errorf("an exceeded deadline became %v", err)
	}
	canceled := rpc.FromStatus(rpc.ToStatus(context.Canceled))
	if !errors.Is(canceled, context.Canceled) || status.Code(canceled) != codes.Canceled {
		t.Errorf("a cancelled call became %v", canceled)
	}
	if again := status.Code(rpc.ToStatus(canceled)); again != codes.Canceled {
		t.Errorf("passed on, it became %s", again)
	}
	unavailable := rpc.FromStatus(status.Error(codes.Unavailable, "connection refused"))
	if !apierrors.IsServiceUnavailable(unavailable) || status.Code(unavailable) != codes.Unavailable {
		t.Errorf("a transport failure became %v", unavailable)
	}
	if late := rpc.FromStatus(status.FromContextError(context.DeadlineExceeded).Err()); !errors.Is(late, context.DeadlineExceeded) || !apierrors.IsTimeout(late) {
		t.Errorf("a deadline of the client became %v", late)
	}
	if twice := rpc.FromStatus(unavailable); !errors.Is(twice, unavailable) {
		t.Errorf("mapping twice gave %v", twice)
	}
}

func TestRetryDelayReachesTheClient(t *testing.T) {
	s := status.Convert(rpc.ToStatus(apierrors.NewTooManyRequests("slow down", 3)))
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok && retry.GetRetryDelay().AsDuration() == 3*time.Second {
			return
		}
	}
	t.Errorf("no RetryInfo of 3 s in %v", s.Details())
}
