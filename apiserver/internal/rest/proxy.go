package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/streaming/pkg/httpstream"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/tunnel"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

const (
	// maxProxyHeaderBytes bounds the header of what a pod answers.
	maxProxyHeaderBytes = 256 << 10
	// proxyHandshakeTimeout bounds the TLS handshake with a pod. How long a pod thinks about
	// its answer is its client's patience.
	proxyHandshakeTimeout = 10 * time.Second
)

// proxyVerb is the verb of a request through a proxy. An upgraded connection carries
// anything, so it needs the right to create, as the other streams do.
func proxyVerb(r *http.Request) string {
	if httpstream.IsUpgradeRequest(r) {
		if r.Method == http.MethodGet || r.Method == http.MethodPost {
			return "create"
		}
		return ""
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return "get"
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	case http.MethodOptions:
		return "options" // no verb of Kubernetes: whoever may do everything
	default:
		return ""
	}
}

// endpointName is [scheme:]NAME[:PORT], by which a proxy's path names its target.
type endpointName struct{ scheme, name, port string }

func parseEndpointName(resource, id string) (endpointName, error) {
	e := endpointName{scheme: "http"}
	switch parts := strings.Split(id, ":"); len(parts) {
	case 1:
		e.name = parts[0]
	case 2:
		e.name, e.port = parts[0], parts[1]
	case 3:
		e.scheme, e.name, e.port = parts[0], parts[1], parts[2]
		if e.scheme == "" {
			e.scheme = "http"
		}
	}
	if e.name == "" || e.scheme != "http" && e.scheme != "https" {
		return e, apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q: want [http:|https:]NAME[:PORT]", resource, id))
	}
	return e, nil
}

// portNumber reads a port; 0 and more than 65535 are none.
func portNumber(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint32(n), err == nil && n > 0
}

// proxyPath splits the path of a request as it was sent, escapes included, after "/proxy".
func proxyPath(r *http.Request, t target) (prefix, rest string, err error) {
	fixed := []string{"api", t.ref.Resource.Version}
	if t.kind.Namespaced {
		fixed = append(fixed, "namespaces", t.ref.Namespace)
	}
	fixed = append(fixed, t.ref.Resource.Resource, t.ref.Name, t.ref.Subresource)
	rest = strings.TrimLeft(r.URL.EscapedPath(), "/")
	for i, want := range fixed {
		segment, tail, more := strings.Cut(rest, "/")
		// An escaped slash would have been a segment of its own to whoever authorized it.
		if plain, err := url.PathUnescape(segment); err != nil || plain != want {
			return "", "", notFound()
		}
		prefix, rest = prefix+"/"+segment, tail
		if more && i == len(fixed)-1 {
			rest = "/" + tail
		}
	}
	return prefix, rest, nil
}

// serveProxy answers a request for a pod, a service or a node by passing it on to there.
func (s *Server) serveProxy(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	name, err := parseEndpointName(strings.TrimSuffix(t.ref.Resource.Resource, "s"), t.ref.Name)
	if err != nil {
		return err
	}
	if t.kind.GVK.Kind == "Node" {
		return s.serveNodePage(w, r, caller, t, name)
	}
	prefix, path, err := proxyPath(r, t)
	if err != nil {
		return err
	}
	if path == "" && !httpstream.IsUpgradeRequest(r) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// Relative links of the page must lead below it.
		to := prefix + "/"
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	var end backend
	if t.kind.GVK.Kind == "Service" {
		end, err = s.serviceBackend(r.Context(), caller, t, name)
	} else {
		end, err = s.podBackend(r.Context(), caller, t, name)
	}
	if err != nil {
		return err
	}
	s.passOn(w, r, end, prefix, path)
	return nil
}

// backend is a port of a pod.
type backend struct {
	podOnNode

	scheme string
	port   uint32
}

// host is the pod's address as a URL has it.
func (b backend) host() string {
	address := b.pod.Status.PodIP
	if address == "" {
		address = b.pod.Name
	}
	return net.JoinHostPort(address, strconv.Itoa(int(b.port)))
}

// dial opens a connection to the port through the node's own connection; it ends with ctx.
func (b backend) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := b.kubelet.PortForward(ctx)
	if err != nil {
		cancel()
		return nil, kubeletError(err)
	}
	send := func(m *kubeletv1pb.PortForwardRequest) error {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) { // the receiving side learns why a stream has ended
			return err
		}
		return nil
	}
	start := &kubeletv1pb.PortForwardStart{Target: b.target(""), Caller: b.caller, Port: b.port, PodAddress: true}
	if err := send(&kubeletv1pb.PortForwardRequest{Message: &kubeletv1pb.PortForwardRequest_Start{Start: start}}); err != nil {
		cancel()
		return nil, kubeletError(err)
	}
	return tunnel.Over(b.host(), func(data []byte) error {
		return send(&kubeletv1pb.PortForwardRequest{Message: &kubeletv1pb.PortForwardRequest_Data{Data: data}})
	}, func() ([]byte, error) {
		m, err := stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			err = kubeletError(err)
		}
		return m.GetData(), err
	}, cancel), nil
}

// passOn lets a pod answer a request. Each request has a connection of its own, so that no
// user's bytes follow another's, and none is left when the request is over.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, end backend, prefix, path string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// A pod may begin its answer before it has read all of the question. HTTP/2 is so anyway.
	_ = http.NewResponseController(w).EnableFullDuplex()
	transport := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return end.dial(ctx) },
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // pods have no names that an authority vouches for; the way to them is ours
		TLSHandshakeTimeout:    proxyHandshakeTimeout,
		MaxResponseHeaderBytes: maxProxyHeaderBytes,
		DisableCompression:     true,
		DisableKeepAlives:      true,
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		ErrorLog: zap.NewStdLog(s.cfg.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		Rewrite:  func(out *httputil.ProxyRequest) { address(out, end, prefix, path) },
		ModifyResponse: func(resp *http.Response) error {
			(&rewriter{prefix: prefix, hosts: []string{end.host(), r.Host}}).response(resp)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach port %d of pod %s: %v", end.port, end.pod.Name, err)))
		},
	}
	proxy.ServeHTTP(&watchedWriter{ResponseWriter: w, cancel: cancel}, r.WithContext(ctx))
}

// address makes of a client's request the one to the pod. The pod learns nothing by which
// it could act as the client.
func address(request *httputil.ProxyRequest, end backend, prefix, path string) {
	out := request.Out
	out.URL = &url.URL{Scheme: end.scheme, Host: end.host(), RawQuery: request.In.URL.RawQuery}
	if plain, err := url.PathUnescape(path); err == nil {
		out.URL.Path, out.URL.RawPath = plain, path
	}
	out.Header.Del("Authorization")
	for name := range out.Header {
		if strings.HasPrefix(name, "X-Remote-") || strings.HasPrefix(name, "Impersonate-") {
			out.Header.Del(name)
		}
	}
	request.SetXForwarded()
	out.Header.Set("X-Forwarded-Uri", prefix+path)
}
