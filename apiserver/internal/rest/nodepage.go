package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// kubeletPort is the one that the path of a node's proxy may name.
const kubeletPort = "10250"

// maxPageBytes bounds a page in memory; that of a full node's pods is a few megabytes.
const maxPageBytes = 32 << 20

// nodePage is a text of the kubelet that a node's proxy serves.
type nodePage struct {
	page kubeletv1pb.PageName
	// subresource of nodes whose right it takes. That to nodes/proxy opens every page, too.
	subresource string
}

// nodePageAt finds the page of a path below a node's proxy. There are no others: the proxy
// of a node leads to no path and no port but these.
func nodePageAt(path string) (nodePage, bool) {
	switch strings.Trim(path, "/") {
	case "healthz":
		return nodePage{kubeletv1pb.PageName_PAGE_NAME_HEALTHZ, "healthz"}, true
	case "pods":
		return nodePage{kubeletv1pb.PageName_PAGE_NAME_PODS, "pods"}, true
	case "stats/summary":
		return nodePage{kubeletv1pb.PageName_PAGE_NAME_STATS_SUMMARY, "stats"}, true
	case "metrics":
		return nodePage{kubeletv1pb.PageName_PAGE_NAME_METRICS, "metrics"}, true
	case "metrics/resource":
		return nodePage{kubeletv1pb.PageName_PAGE_NAME_METRICS_RESOURCE, "metrics"}, true
	case "configz":
		return nodePage{kubeletv1pb.PageName_PAGE_NAME_CONFIGZ, "configz"}, true
	default:
		return nodePage{}, false
	}
}

// admit authorizes a request for a resource and returns what it may be performed with, and
// by which right: of a node's proxy that of the page or that to the proxy.
func (s *Server) admit(ctx context.Context, attr authz.Attributes, t target) (context.Context, authz.Attributes, error) {
	if t.kind.GVK.Kind == "Node" && attr.Subresource == "proxy" && attr.Verb == "get" {
		if page, ok := nodePageAt(t.rest); ok {
			own := attr
			own.Subresource = page.subresource
			admitted, err := s.cfg.Authorizer.Admit(ctx, own)
			if err == nil || !apierrors.IsForbidden(err) {
				return admitted, own, err
			}
		}
	}
	admitted, err := s.cfg.Authorizer.Admit(ctx, attr)
	return admitted, attr, err
}

// serveNodePage answers a request through a node's proxy.
func (s *Server) serveNodePage(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target, name endpointName) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || httpstream.IsUpgradeRequest(r) {
		return apierrors.NewMethodNotSupported(t.ref.Resource.GroupResource(), strings.ToLower(r.Method))
	}
	page, ok := nodePageAt(t.rest)
	if !ok || name.port != "" && name.port != kubeletPort {
		return notProxied()
	}
	ref := registry.Ref{Resource: t.ref.Resource, Name: name.name}
	if _, err := s.cfg.Registry.Get(r.Context(), ref); err != nil {
		return err
	}
	conn, err := s.cfg.Nodes.Node(r.Context(), name.name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r))
	defer cancel()
	stream, err := kubeletv1pb.NewKubeletServiceClient(conn).Page(ctx, &kubeletv1pb.PageRequest{
		Page: page.page, Caller: &kubeletv1pb.Caller{User: caller.User, RequestId: caller.RequestID},
	})
	if err != nil {
		return kubeletError(err)
	}
	contentType, text, err := readPage(stream)
	if err != nil {
		return err
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	compressed := newCompressor(w, r)
	defer compressed.close()
	writeBody(compressed, contentType, http.StatusOK, text)
	return nil
}

// readPage reads a page to its end.
func readPage(stream kubeletv1pb.KubeletService_PageClient) (contentType string, text []byte, err error) {
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return contentType, text, nil
		case err != nil:
			return "", nil, kubeletError(err)
		case len(text)+len(message.GetData()) > maxPageBytes:
			return "", nil, apierrors.NewInternalError(errors.New("the node's answer is too large"))
		}
		if text == nil {
			contentType = message.GetContentType()
		}
		text = append(text, message.GetData()...)
	}
}

// notProxied answers for what a node's proxy does not lead to.
func notProxied() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the proxy of a node leads to /healthz, /pods, /stats/summary, /metrics, /metrics/resource and /configz of its kubelet (port " +
			kubeletPort + ") and nothing else", Details: &metav1.StatusDetails{},
	}}
}
