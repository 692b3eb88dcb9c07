package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"google.golang.org/protobuf/types/known/timestamppb"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/lifecycle"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// logPatience is how long a followed log may have no line before the answer begins
// without one, so that the client learns that it is connected.
const logPatience = 500 * time.Millisecond

// logRequest reads the query of a log.
func (s *Server) logRequest(query url.Values) (*kubeletv1pb.LogsRequest, error) {
	var errs field.ErrorList
	number := func(name string, least int64) int64 {
		text := query.Get(name)
		if text == "" {
			return 0
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < least {
			errs = append(errs, field.Invalid(field.NewPath(name), text, "must be a whole number of at least "+strconv.FormatInt(least, 10)))
		}
		return n
	}
	out := &kubeletv1pb.LogsRequest{
		Follow: isTrue(query.Get("follow")), Previous: isTrue(query.Get("previous")),
		Timestamps: isTrue(query.Get("timestamps")), LimitBytes: number("limitBytes", 1), Stream: query.Get("stream"),
	}
	if query.Has("tailLines") {
		out.TailLines = new(number("tailLines", 0))
	}
	since, sinceTime := query.Get("sinceSeconds"), query.Get("sinceTime")
	switch {
	case since != "" && sinceTime != "":
		errs = append(errs, field.Forbidden(field.NewPath("sinceSeconds"), "at most one of sinceTime or sinceSeconds may be specified"))
	case since != "":
		out.Since = timestamppb.New(s.cfg.Clock.Now().Add(-time.Duration(number("sinceSeconds", 1)) * time.Second))
	case sinceTime != "":
		at, err := time.Parse(time.RFC3339Nano, sinceTime)
		if err != nil {
			errs = append(errs, field.Invalid(field.NewPath("sinceTime"), sinceTime, "must be a time in RFC 3339"))
			break
		}
		out.Since = timestamppb.New(at)
	}
	switch out.GetStream() {
	case "", corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr:
	default:
		errs = append(errs, field.NotSupported(field.NewPath("stream"), out.GetStream(), []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, "", errs)
	}
	return out, nil
}

// piece is one message of the kubelet.
type piece struct {
	data []byte
	err  error
}

// serveLog streams a container's log as plain text.
func (s *Server) serveLog(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	ask, err := s.logRequest(r.URL.Query())
	if err != nil {
		return err
	}
	place, err := s.findPod(r.Context(), caller, t)
	if err != nil {
		return err
	}
	container, err := chooseContainer(place.pod, r.URL.Query().Get("container"))
	if err != nil {
		return err
	}
	ask.Target, ask.Caller = place.target(container), place.caller
	group := lifecycle.NewGroup(r.Context())
	defer func() { _ = group.Wait() }()
	defer group.Cancel()
	stream, err := place.kubelet.Logs(group.Context(), ask)
	if err != nil {
		return kubeletError(err)
	}
	pieces := make(chan piece)
	group.Go(func(ctx context.Context) error {
		for {
			message, err := stream.Recv()
			select {
			case pieces <- piece{message.GetData(), err}:
			case <-ctx.Done():
				return nil
			}
			if err != nil {
				return nil // it has been handed on
			}
		}
	})
	return s.copyLog(w, r, ask.GetFollow(), pieces)
}

// copyLog writes the pieces. Errors before the first become the answer.
func (s *Server) copyLog(w http.ResponseWriter, r *http.Request, follow bool, pieces <-chan piece) error {
	begun := false
	begin := func() {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusOK)
		}
	}
	var patience <-chan time.Time
	if follow {
		timer := time.NewTimer(logPatience)
		defer timer.Stop()
		patience = timer.C
	}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-patience:
			begin()
			_ = http.NewResponseController(w).Flush()
		case p := <-pieces:
			switch {
			case errors.Is(p.err, io.EOF):
				begin()
				return nil
			case p.err != nil && !begun:
				return kubeletError(p.err)
			case p.err != nil:
				abortOn(p.err)
			}
			begin()
			if _, err := w.Write(p.data); err != nil {
				return nil // the client is gone
			}
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// exitStatus is what a client of exec and attach is told at the end.
func exitStatus(code int32, err error) metav1.Status {
	status := metav1.Status{}
	switch {
	case err != nil:
		status = statusOf(err)
	case code != 0:
		status.Status = metav1.StatusFailure
		status.Reason = "NonZeroExitCode"
		status.Message = "command terminated with non-zero exit code: exit status " + strconv.Itoa(int(code))
		status.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: strconv.Itoa(int(code))}}}
	default:
		status.Status = metav1.StatusSuccess
	}
	return status
}
