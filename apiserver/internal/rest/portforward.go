package rest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/lifecycle"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// servePortForward carries connections to ports of a pod: over SPDY, over SPDY inside a
// WebSocket, or over the old WebSocket channels.
func (s *Server) servePortForward(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	if !httpstream.IsUpgradeRequest(r) {
		return apierrors.NewBadRequest("Upgrade request required")
	}
	place, err := s.findPod(r.Context(), caller, t)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	group := lifecycle.NewGroup(ctx)
	defer func() { _ = group.Wait() }()
	defer group.Cancel()
	forwarder := &forwarder{ctx: group.Context(), group: group, place: place}
	var out http.ResponseWriter = &watchedWriter{ResponseWriter: w, cancel: cancel}
	opts := &portforward.V4Options{}
	switch {
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		tunnel, inner, err := openTunnel(out, r)
		if err != nil {
			return nil //nolint:nilerr // the library has answered
		}
		defer func() { _ = tunnel.conn.Close() }()
		defer closeWith(group.Context(), tunnel.conn)()
		out, r = tunnel, inner
	case wsstream.IsWebSocketRequest(r):
		if opts, err = portforward.NewV4Options(r); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	portforward.ServePortForward(out, r, forwarder, place.pod.Name, string(place.pod.UID), opts, streamIdleTimeout, streamCreationTimeout, portforward.SupportedProtocols)
	return nil
}

// forwarder opens a connection on the node for each pair of streams.
type forwarder struct {
	// ctx ends with the client's connection; the library passes none.
	ctx   context.Context //nolint:containedctx // see above
	group *lifecycle.Group
	place podOnNode
}

// PortForward implements portforward.PortForwarder. It returns when the pod's side has ended.
func (f *forwarder) PortForward(_ context.Context, _, _ string, port int32, client io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	stream, err := f.place.kubelet.PortForward(ctx)
	if err != nil {
		return kubeletError(err)
	}
	start := &kubeletv1pb.PortForwardStart{Target: f.place.target(""), Caller: f.place.caller, Port: uint32(port)} //nolint:gosec // checked by the library
	if err := stream.Send(&kubeletv1pb.PortForwardRequest{Message: &kubeletv1pb.PortForwardRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return kubeletError(err)
	}
	f.group.Go(func(context.Context) error {
		_, _ = io.CopyBuffer(forwardWriter{stream}, client, make([]byte, chunkBytes)) // the receiving side reports
		_ = stream.CloseSend()
		return nil
	})
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return kubeletError(err)
		}
		if _, err := client.Write(m.GetData()); err != nil {
			return fmt.Errorf("write to the client: %w", err)
		}
	}
}

type forwardWriter struct {
	stream kubeletv1pb.KubeletService_PortForwardClient
}

func (w forwardWriter) Write(data []byte) (int, error) {
	if err := w.stream.Send(&kubeletv1pb.PortForwardRequest{Message: &kubeletv1pb.PortForwardRequest_Data{Data: data}}); err != nil {
		return 0, err
	}
	return len(data), nil
}

// tunnelWriter stands for the response of the SPDY upgrade that happens inside a
// WebSocket: the upgrade's headers go nowhere, its connection is the WebSocket.
type tunnelWriter struct {
	header http.Header
	conn   *tunnelConn
}

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) WriteHeader(int)             {}
func (t *tunnelWriter) Write(p []byte) (int, error) { return len(p), nil }

// Hijack hands out the WebSocket as a byte stream.
func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// openTunnel accepts the WebSocket and returns the writer and the request of the SPDY
// upgrade inside it.
func openTunnel(w http.ResponseWriter, r *http.Request) (*tunnelWriter, *http.Request, error) {
	upgrader := websocket.Upgrader{
		Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1},
		// serveKnown has refused what comes from other sites.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, nil, err
	}
	inner := r.Clone(r.Context())
	inner.Header = http.Header{}
	inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardV1Name)
	return &tunnelWriter{header: http.Header{}, conn: &tunnelConn{Conn: conn}}, inner, nil
}

// tunnelConn makes a byte stream of a WebSocket's binary messages. One reader and one
// writer at a time, as SPDY has it.
type tunnelConn struct {
	*websocket.Conn
	message io.Reader
}

var _ net.Conn = (*tunnelConn)(nil)

func (c *tunnelConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.NextReader()
			var closed *websocket.CloseError
			if errors.As(err, &closed) && closed.Code == websocket.CloseNormalClosure {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("tunnel: a message that is not binary")
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *tunnelConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye and closes.
func (c *tunnelConn) Close() error {
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = c.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)) // the other side may be gone
	return c.Conn.Close()
}

// SetDeadline bounds reading and writing.
func (c *tunnelConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
