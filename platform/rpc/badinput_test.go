package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// target of attacks: a server and a client that must be served meanwhile.
type target struct {
	running

	t      *testing.T
	config *tls.Config
	other  mastersv1pb.MastersServiceClient
}

func newTarget(t *testing.T, svc *service, change ...func(*rpc.ServerConfig)) *target {
	t.Helper()
	ca := pkitest.NewCA(t)
	many := func(cfg *rpc.ServerConfig) { cfg.MaxConnectionsPerUser = 1000 }
	x := &target{running: start(t, ca, svc, append(change, many)...), t: t}
	x.config = pkitest.Identity(t, ca, pki.ComponentAdmin, "").ClientTLS(pki.APIServerName)
	x.other = mastersv1pb.NewMastersServiceClient(dial(t, ca, x.address, pki.ComponentScheduler, "m1"))
	return x
}

// served checks that another client is answered.
func (x *target) served(meanwhile string) {
	x.t.Helper()
	if _, err := x.other.Status(within(x.t), &mastersv1pb.StatusRequest{}); err != nil {
		x.t.Errorf("%s: another client: %v", meanwhile, err)
	}
}

// connect opens a connection, with TLS if protocols are offered.
func (x *target) connect(protocols ...string) net.Conn {
	x.t.Helper()
	conn, err := new(net.Dialer).DialContext(x.t.Context(), "tcp", x.address)
	if err == nil && len(protocols) > 0 {
		config := x.config.Clone()
		config.NextProtos = protocols
		secure := tls.Client(conn, config)
		err = secure.HandshakeContext(x.t.Context())
		conn = secure
	}
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		x.t.Fatal(err)
	}
	return conn
}

// raw is a client of HTTP/2 that sends whatever a test makes it send.
type raw struct {
	*http2.Framer

	stream uint32 // last one opened
}

func (x *target) raw(settings ...http2.Setting) *raw {
	x.t.Helper()
	conn := x.connect("h2")
	_, err := io.WriteString(conn, http2.ClientPreface)
	c := &raw{Framer: http2.NewFramer(conn, conn)}
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err = errors.Join(err, c.WriteSettings(settings...)); err != nil {
		x.t.Fatal(err)
	}
	return c
}

// encode makes a header block of "name: value" lines.
func encode(lines ...string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, line := range lines {
		i := strings.Index(line[1:], ": ") + 1 // a name may begin with a colon
		_ = encoder.WriteField(hpack.HeaderField{Name: line[:i], Value: line[i+2:]})
	}
	return block.Bytes()
}

// call opens a stream, with a message unless it is nil. A failure to write is seen by verdict.
func (c *raw) call(message []byte, lines ...string) uint32 {
	if c.stream++; c.stream > 1 {
		c.stream++
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: encode(lines...), EndHeaders: true, EndStream: message == nil})
	if message != nil {
		_ = c.WriteData(c.stream, true, message)
	}
	return c.stream
}

// verdict reads until the server has said how a stream ends (0: the connection).
func (c *raw) verdict(stream uint32) string {
	for {
		frame, err := c.ReadFrame()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			return "nothing"
		case err != nil:
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			return "GOAWAY " + frame.ErrCode.String()
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return "RST " + frame.ErrCode.String()
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID != stream || !frame.StreamEnded() {
				continue
			}
			for _, field := range frame.Fields {
				if field.Name == "grpc-status" {
					return strings.TrimSpace(frame.PseudoValue("status") + " " + field.Value)
				}
			}
			return frame.PseudoValue("status")
		}
	}
}

const (
	methodPost  = ":method: POST"
	https       = ":scheme: https"
	authority   = ":authority: apiserver.kijabi"
	statusPath  = ":path: /kijabi.masters.v1.MastersService/Status"
	contentType = "content-type: application/grpc"
)

// empty is a message without content, behind its length.
var empty = []byte{0, 0, 0, 0, 0} //nolint:gochecknoglobals // a constant

// What cannot be read is refused by the code that gRPC has for it, and by HTTP's where it is no gRPC.
func TestOddCalls(t *testing.T) {
	x := newTarget(t, &service{})
	good := []string{methodPost, https, authority, statusPath, contentType}
	with := func(lines ...string) []string { return append(append([]string(nil), good...), lines...) }
	for name, c := range map[string]struct {
		lines   []string
		message []byte
		want    string
	}{
		"as it should be":         {good, empty, "0"},
		"timeout that is none":    {with("grpc-timeout: soon"), empty, "400 13"},
		"timeout without a unit":  {with("grpc-timeout: 10"), empty, "400 13"},
		"timeout of many digits":  {with("grpc-timeout: 999999999S"), empty, "400 13"},
		"negative timeout":        {with("grpc-timeout: -1S"), empty, "400 13"},
		"no time":                 {with("grpc-timeout: 0S"), empty, "200 4"},
		"ten thousand years":      {with("grpc-timeout: 99999999H"), empty, "0"},
		"unknown method":          {[]string{methodPost, https, authority, ":path: /kijabi.masters.v1.MastersService/Nothing", contentType}, empty, "200 12"},
		"unknown service":         {[]string{methodPost, https, authority, ":path: /nothing.v1.Service/Status", contentType}, empty, "200 12"},
		"no method":               {[]string{methodPost, https, authority, ":path: /", contentType}, empty, "200 12"},
		"no leading slash":        {[]string{methodPost, https, authority, ":path: Status", contentType}, empty, "200 12"},
		"very long method":        {[]string{methodPost, https, authority, ":path: /" + strings.Repeat("a/", 10<<10), contentType}, empty, "200 12"},
		"read instead of a call":  {[]string{":method: GET", https, authority, statusPath, contentType}, nil, "405 13"},
		"JSON":                    {[]string{methodPost, https, authority, statusPath, "content-type: application/json"}, []byte("{}"), "415 3"},
		"no authority":            {[]string{methodPost, https, statusPath, contentType}, empty, "400 13"},
		"two hosts":               {with("host: a", "host: b"), empty, "400 13"},
		"connection of HTTP/1":    {with("connection: close"), empty, "RST PROTOCOL_ERROR"},
		"upper case":              {with("Name: x"), empty, "RST PROTOCOL_ERROR"},
		"no protobuf":             {good, []byte{0, 0, 0, 0, 2, 0xff, 0xff}, "200 13"},
		"shorter than it says":    {good, []byte{0, 0, 0, 1, 0, 1, 2}, "200 13"},
		"longer than allowed":     {good, []byte{0, 0xff, 0xff, 0xff, 0xff}, "200 8"},
		"compressed by nothing":   {good, []byte{1, 0, 0, 0, 0}, "200 13"},
		"compressed by who knows": {with("grpc-encoding: best"), []byte{1, 0, 0, 0, 1, 0}, "200 12"},
		"no base64 in a -bin":     {with("x-bin: ?"), empty, "400 13"},
		"frame that is too large": {with("x: " + strings.Repeat("x", 70<<10)), empty, "closed"},
	} {
		c2 := x.raw()
		if got := c2.verdict(c2.call(c.message, c.lines...)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	x.served("odd calls")
	old := x.connect("http/1.1", "h2")
	if _, err := io.WriteString(old, "GET / HTTP/1.1\r\nHost: apiserver.kijabi\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(old); err != nil && !strings.Contains(err.Error(), "reset") || len(answer) > 200 {
		t.Errorf("HTTP/1.1: %q, %v", answer, err)
	}
}

// A request may be as large as at the REST door, and no larger.
func TestRequestsAreBounded(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{})
	objects := objectv1pb.NewObjectServiceClient(dial(t, ca, server.address, pki.ComponentAdmin, ""))
	get := func(n int) error {
		_, err := objects.Get(within(t), &objectv1pb.GetRequest{Reference: &objectv1pb.Reference{Name: strings.Repeat("x", n)}})
		return err
	}
	if err := get(rpc.MaxRequestBytes - 100); err != nil {
		t.Errorf("a request just below the limit: %v", err)
	}
	if err := get(rpc.MaxRequestBytes); status.Code(err) != codes.ResourceExhausted || !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a request above the limit: %v", err)
	}
}

// Connections that cost the server and get nowhere are closed, and no memory goes with them.
func TestFloods(t *testing.T) {
	x := newTarget(t, &service{transfer: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}})
	rest := encode("x: " + strings.Repeat("x", 1000))
	transfer := []string{methodPost, https, authority, ":path: /kijabi.masters.v1.MastersService/Transfer", contentType}
	for name, c := range map[string]struct {
		send func(*raw) error
		want string // first word
	}{
		"pings": {func(c *raw) error { return c.WritePing(false, [8]byte{}) }, "GOAWAY ENHANCE_YOUR_CALM"},
		"headers without end": {func(c *raw) error {
			if c.stream == 0 {
				c.stream = 1
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(transfer...)})
			}
			return c.WriteContinuation(1, false, rest)
		}, "closed"},
	} {
		before, memory := runtime.NumGoroutine(), allocated()
		c2 := x.raw()
		said := make(chan string, 1)
		go func() { said <- c2.verdict(0) }()
		sent, open := 0, true
		// The server may read on for a moment after its last word, and throws away what comes.
		for deadline := time.Now().Add(20 * time.Second); open && time.Now().Before(deadline); sent++ {
			open = c.send(c2) == nil
		}
		if got := <-said; got != c.want && got != "closed" || open {
			t.Errorf("%s: %s after %d frames", name, got, sent)
		}
		x.served(name)
		if n := runtime.NumGoroutine() - before; n > 50 {
			t.Errorf("%s: %d goroutines more", name, n)
		}
		if more := allocated() - memory; more > 64<<20 {
			t.Errorf("%s: %d bytes more", name, more)
		}
	}
	// A client that changes its settings for ever and reads no answer is read no further.
	silent := x.raw()
	for range 1 << 12 {
		if silent.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14}) != nil {
			break
		}
	}
	x.served("settings")
	// Streams that are reset at once are no more at work than a connection may have.
	before := runtime.NumGoroutine()
	reset := x.raw()
	go reset.verdict(0)
	for range 5000 {
		stream := reset.call(empty, transfer...)
		if reset.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			break
		}
		if n := runtime.NumGoroutine() - before; n > 500 {
			t.Fatalf("%d goroutines more", n)
		}
	}
	x.served("rapid reset")
	eventually(t, "what was reset ends", func() bool { return runtime.NumGoroutine()-before < 50 })
	// More than are offered are refused one by one.
	many := x.raw()
	for range 101 {
		many.call(empty, transfer...)
	}
	if got := many.verdict(many.stream); got != "RST REFUSED_STREAM" {
		t.Errorf("stream 101: %s", got)
	}
}

// allocated is what is in use after a collection.
func allocated() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // of a test
}

// Connections that come to nothing are ended.
func TestHalfOpenConnections(t *testing.T) {
	left := make(chan struct{})
	x := newTarget(t, &service{watchLeader: func(out grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error {
		<-out.Context().Done()
		close(left)
		return out.Context().Err()
	}}, func(cfg *rpc.ServerConfig) {
		cfg.Timeouts = rpc.Timeouts{Handshake: 500 * time.Millisecond, Keepalive: time.Second, KeepaliveAnswer: 500 * time.Millisecond}
	})
	closes := func(what string, conn net.Conn) {
		t.Helper()
		var timeout net.Error
		if _, err := io.Copy(io.Discard, conn); errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: the connection is kept", what)
		}
	}
	closes("no handshake", x.connect())
	half := x.connect()
	if _, err := half.Write([]byte{22, 3, 1}); err != nil { // the beginning of a handshake
		t.Fatal(err)
	}
	closes("half a handshake", half)
	closes("no preface", x.connect("h2"))
	half = x.connect("h2")
	if _, err := io.WriteString(half, http2.ClientPreface[:10]); err != nil {
		t.Fatal(err)
	}
	closes("half a preface", half)
	gone := x.raw() // it answers no ping
	gone.call(empty, methodPost, https, authority, ":path: /kijabi.masters.v1.MastersService/WatchLeader", contentType)
	if got := gone.verdict(0); got != "closed" {
		t.Errorf("a client that has vanished: %s", got)
	}
	select {
	case <-left:
	case <-within(t).Done():
		t.Error("the stream of a client that has vanished goes on")
	}
	x.served("half-open connections")
}

// A client that takes nothing of a stream loses its connection; others keep theirs.
func TestClientThatDoesNotRead(t *testing.T) {
	ended := make(chan error, 1)
	svc := &service{watchLeader: func(out grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error {
		err := error(nil)
		for i := 0; err == nil; i++ {
			err = out.Send(&mastersv1pb.WatchLeaderResponse{Leader: fmt.Sprint(i) + strings.Repeat("x", 100<<10)})
		}
		ended <- err
		return err
	}}
	x := newTarget(t, svc, func(cfg *rpc.ServerConfig) { cfg.Timeouts.Send = 300 * time.Millisecond })
	watch := []string{methodPost, https, authority, ":path: /kijabi.masters.v1.MastersService/WatchLeader", contentType}
	for name, settings := range map[string][]http2.Setting{
		"reads no frame": nil,
		"has no room":    {{ID: http2.SettingInitialWindowSize, Val: 0}},
	} {
		c := x.raw(settings...)
		c.call(empty, watch...)
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: the stream ended without an error", name)
			}
		case <-within(t).Done():
			t.Fatalf("%s: the stream goes on", name)
		}
		if got := c.verdict(1); got != "closed" {
			t.Errorf("%s: %s", name, got)
		}
		x.served(name)
	}
	// One that reads, however slowly, is left alone.
	stream, err := x.other.WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	for i := 0; i < 30 && err == nil; i++ {
		<-time.After(20 * time.Millisecond)
		_, err = stream.Recv()
	}
	if err != nil {
		t.Errorf("a slow client: %v", err)
	}
}
