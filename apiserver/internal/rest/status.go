package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of log fields.
func logUser(name string) zap.Field         { return zap.String("user", name) }
func logImpersonated(name string) zap.Field { return zap.String("impersonated", name) }
func logRequest(id string) zap.Field        { return zap.String("request", id) }

func notAcceptable() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " + strings.Join([]string{mediaJSON, mediaYAML, mediaProtobuf}, ", "),
	}}
}

func unsupportedMediaType(got string, supported ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("the body of the request was in an unknown format (%s) - accepted media types include: %s", shown(got), strings.Join(supported, ", ")),
	}}
}

// encodedBody refuses a body in a content coding: a small one could become any size.
func encodedBody(encoding string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("bodies of requests are read as they are, not with Content-Encoding %.32q", encoding),
	}}
}

// slowBody is what a client is told whose body did not come in time.
func slowBody() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusRequestTimeout, Reason: metav1.StatusReasonTimeout,
		Message: "the body of the request did not come in time",
	}}
}

// methodNotAllowed answers for a path that names no resource.
func methodNotAllowed(method string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: fmt.Sprintf("the server does not allow the method %.32s here", method),
	}}
}

// allowRead refuses methods other than those that read, and tells which these are.
func (s *Server) allowRead(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	s.fail(w, r, methodNotAllowed(r.Method))
	return false
}

// statusOf turns any error into what a client is told.
func statusOf(err error) metav1.Status {
	var known apierrors.APIStatus
	switch {
	case errors.As(err, &known):
		status := known.Status()
		if status.Code == 0 {
			status.Code = http.StatusInternalServerError
		}
		status.Kind, status.APIVersion = "Status", "v1"
		status.Status = metav1.StatusFailure
		return status
	case errors.Is(err, context.DeadlineExceeded):
		return statusOf(apierrors.NewTimeoutError("the request did not finish in time", 1))
	case errors.Is(err, context.Canceled):
		return statusOf(apierrors.NewServiceUnavailable("the request was cancelled"))
	default:
		return statusOf(apierrors.NewInternalError(err))
	}
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	observation(r).failed(status)
	if seconds := retryAfter(status); seconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	if status.Code >= http.StatusInternalServerError && status.Reason == metav1.StatusReasonInternalError {
		s.cfg.Log.Error("request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), logRequest(w.Header().Get("Audit-Id")), zap.Error(err))
	}
	w.Header().Set("Cache-Control", "no-cache, private")
	s.writeObject(w, plainFormat(r), int(status.Code), &status)
}

// failSoon answers with an error that may be over in a moment, as where no master leads or
// this one is cut off: clients that are told when to come again do so by themselves.
func (s *Server) failSoon(w http.ResponseWriter, r *http.Request, err error) {
	if apierrors.IsServiceUnavailable(err) {
		w.Header().Set("Retry-After", "1")
	}
	s.fail(w, r, err)
}

func retryAfter(status metav1.Status) int {
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		return int(status.Details.RetryAfterSeconds)
	}
	return 0
}

// Bounds of Warning headers, in bytes: of one text and of all, as in Kubernetes. Clients and
// proxies refuse answers whose headers are large.
const (
	maxWarning  = 256
	maxWarnings = 4 << 10
)

// warn adds Warning headers; call it before the status is written.
func warn(w http.ResponseWriter, warnings []string) {
	sent := 0
	for _, line := range w.Header().Values("Warning") {
		sent += len(line)
	}
	for _, text := range warnings {
		line := "299 - " + strconv.QuoteToASCII(strings.ToValidUTF8(text[:min(len(text), maxWarning)], ""))
		if sent += len(line); sent > maxWarnings {
			return
		}
		w.Header().Add("Warning", line)
	}
}
