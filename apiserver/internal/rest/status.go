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
		Message: fmt.Sprintf("the body of the request was in an unknown format (%s) - accepted media types include: %s", got, strings.Join(supported, ", ")),
	}}
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

func retryAfter(status metav1.Status) int {
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		return int(status.Details.RetryAfterSeconds)
	}
	return 0
}

// warn adds Warning headers; call it before the status is written.
func warn(w http.ResponseWriter, warnings []string) {
	for _, text := range warnings {
		w.Header().Add("Warning", "299 - "+strconv.QuoteToASCII(text))
	}
}
