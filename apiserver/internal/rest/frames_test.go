package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"kijabi.dev/apiserver/internal/registry"
)

// rawHTTP2 is a client of HTTP/2 that sends whatever a test makes it send.
type rawHTTP2 struct {
	*http2.Framer

	t      *testing.T
	conn   net.Conn
	stream uint32 // last one opened
}

// rawHTTP2 opens a connection and sends the settings given.
func (h *harness) rawHTTP2(settings ...http2.Setting) *rawHTTP2 {
	h.t.Helper()
	conn := h.dial(h.tls, "h2")
	_, err := io.WriteString(conn, http2.ClientPreface)
	h.must(err)
	c := &rawHTTP2{Framer: http2.NewFramer(conn, conn), t: h.t, conn: conn}
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.must(c.WriteSettings(settings...))
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

// ask opens a stream with these headers; a failure to write is seen by verdict.
func (c *rawHTTP2) ask(end bool, lines ...string) uint32 {
	c.stream = max(c.stream+2, 1)
	if c.stream%2 == 0 {
		c.stream--
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: encode(lines...), EndStream: end, EndHeaders: true})
	return c.stream
}

// verdict reads until the server has said what becomes of a stream (0: of the connection).
func (c *rawHTTP2) verdict(stream uint32) string {
	for {
		frame, err := c.ReadFrame()
		var wrong http2.StreamError
		switch {
		case errors.As(err, &wrong):
			continue
		case err != nil:
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				return "nothing"
			}
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
			if frame.StreamID == stream {
				return frame.PseudoValue("status")
			}
		}
	}
}

// read keeps on reading, so that a flood is not held up by what answers it.
func (c *rawHTTP2) read(stream uint32) <-chan string {
	said := make(chan string, 1)
	go func() { said <- c.verdict(stream) }()
	return said
}

const (
	methodGet = ":method: GET"
	https     = ":scheme: https"
	authority = ":authority: localhost"
)

func TestOddHeadersOverHTTP2(t *testing.T) {
	h := newHarness(t)
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"as it should be":       {[]string{methodGet, https, authority, ":path: /api/v1/pods"}, "200"},
		"no path":               {[]string{methodGet, https, authority}, "RST PROTOCOL_ERROR"},
		"empty path":            {[]string{methodGet, https, authority, ":path: "}, "RST PROTOCOL_ERROR"},
		"no leading slash":      {[]string{methodGet, https, authority, ":path: api/v1/pods"}, "RST PROTOCOL_ERROR"},
		"absolute address":      {[]string{methodGet, https, authority, ":path: https://elsewhere/api/v1/pods"}, "200"},
		"star":                  {[]string{methodGet, https, authority, ":path: *"}, "404"},
		"zero":                  {[]string{methodGet, https, authority, ":path: /api/v1/namespaces/default/pods/a%00b"}, "404"},
		"zero byte":             {[]string{methodGet, https, authority, ":path: /api/v1/pods\x00"}, "RST PROTOCOL_ERROR"},
		"no escape":             {[]string{methodGet, https, authority, ":path: /api/v1/%zz"}, "RST PROTOCOL_ERROR"},
		"dots":                  {[]string{methodGet, https, authority, ":path: /api/v1/../../livez"}, "404"},
		"slashes":               {[]string{methodGet, https, authority, ":path: //api//v1/pods"}, "404"},
		"very long":             {[]string{methodGet, https, authority, ":path: /api/v1/pods?labelSelector=" + strings.Repeat("a,", 45<<10)}, "GOAWAY COMPRESSION_ERROR"}, // by net/http
		"no authority":          {[]string{methodGet, https, ":path: /api/v1/pods"}, "200"},
		"odd authority":         {[]string{methodGet, https, ":authority: a b", ":path: /api/v1/pods"}, "200"},
		"no scheme":             {[]string{methodGet, authority, ":path: /api/v1/pods"}, "RST PROTOCOL_ERROR"},
		"no method":             {[]string{https, authority, ":path: /api/v1/pods"}, "RST PROTOCOL_ERROR"},
		"two paths":             {[]string{methodGet, https, authority, ":path: /api/v1/pods", ":path: /livez"}, "RST PROTOCOL_ERROR"},
		"pseudo behind others":  {[]string{methodGet, https, authority, "x: y", ":path: /api/v1/pods"}, "RST PROTOCOL_ERROR"},
		"unknown pseudo":        {[]string{methodGet, https, authority, ":path: /api/v1/pods", ":odd: x"}, "RST PROTOCOL_ERROR"},
		"upper case":            {[]string{methodGet, https, authority, ":path: /api/v1/pods", "Accept: application/json"}, "RST PROTOCOL_ERROR"},
		"connection of HTTP/1":  {[]string{methodGet, https, authority, ":path: /api/v1/pods", "connection: close"}, "400"},
		"line break in a value": {[]string{methodGet, https, authority, ":path: /api/v1/pods", "x: a\r\nb: c"}, "RST PROTOCOL_ERROR"},
		"tunnel":                {[]string{":method: CONNECT", authority}, "405"},
	} {
		raw := h.rawHTTP2()
		if got := raw.verdict(raw.ask(true, c.lines...)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		h.served()
	}
}

// stuck is a registry whose lists take until they are released.
type stuck struct {
	registry.Registry

	release chan struct{}
}

func (s stuck) List(context.Context, registry.Ref, registry.ListOptions) (registry.List, error) {
	<-s.release
	return registry.List{ResourceVersion: "1"}, nil
}

// A connection on which streams are opened and reset faster than they are served is closed, with
// no more at work than it may have.
func TestRapidReset(t *testing.T) {
	h := newHarness(t)
	s := stuck{h.server.cfg.Registry, make(chan struct{})}
	h.server.cfg.Registry = s
	defer close(s.release)
	before := runtime.NumGoroutine()
	raw := h.rawHTTP2()
	said := raw.read(0)
	for range 100 * maxStreamsPerConn {
		stream := raw.ask(true, methodGet, https, authority, ":path: /api/v1/pods")
		if raw.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			break // it is closed
		}
	}
	if got := <-said; got != "GOAWAY ENHANCE_YOUR_CALM" {
		t.Errorf("the connection ends with %s", got)
	}
	if n := runtime.NumGoroutine() - before; n > 3*maxStreamsPerConn {
		t.Errorf("%d goroutines more", n)
	}
	if a := h.callAs(h.nobody, "GET", "/livez", ""); a.code != http.StatusOK {
		t.Errorf("another client: %d %s", a.code, a.body)
	}
}

// More streams at once than were offered are refused one by one.
func TestTooManyStreams(t *testing.T) {
	h := newHarness(t)
	s := stuck{h.server.cfg.Registry, make(chan struct{})}
	h.server.cfg.Registry = s
	raw := h.rawHTTP2()
	var last uint32
	for range maxStreamsPerConn + 1 {
		last = raw.ask(true, methodGet, https, authority, ":path: /api/v1/pods")
	}
	if got := raw.verdict(last); got != "RST REFUSED_STREAM" && got != "RST PROTOCOL_ERROR" {
		t.Errorf("one more than allowed: %s", got)
	}
	close(s.release)
	if got := raw.verdict(1); got != "200" {
		t.Errorf("the first: %s", got)
	}
}

// Frames that cost the server and say nothing end their connection, or cost it nothing.
func TestFloodsOfFrames(t *testing.T) {
	h := newHarness(t)
	rest := encode("x: " + strings.Repeat("x", 1000))
	for name, c := range map[string]struct {
		// reads says whether the client reads what it is answered.
		reads bool
		frame func(*http2.Framer) error
		want  []string
	}{
		"headers without end": {true, func(f *http2.Framer) error { return f.WriteContinuation(1, false, rest) }, []string{"GOAWAY PROTOCOL_ERROR", "GOAWAY ENHANCE_YOUR_CALM", "closed"}},
		"pings":               {false, func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) }, []string{"closed"}},
		"settings": {false, func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
		}, nil}, // they are answered together: it costs nothing to go on
		"window updates": {true, func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<30) }, []string{"GOAWAY FLOW_CONTROL_ERROR", "closed"}},
	} {
		before, memory := runtime.NumGoroutine(), allocated()
		raw := h.rawHTTP2()
		if name == "headers without end" {
			h.must(raw.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(methodGet, https, authority, ":path: /api/v1/pods")}))
		}
		var said <-chan string
		if c.reads {
			said = raw.read(0)
		}
		var frames bytes.Buffer
		framer := http2.NewFramer(&frames, nil)
		framer.AllowIllegalWrites = true
		for range 1000 {
			h.must(c.frame(framer))
		}
		sent, closed := 0, false
		// After its GOAWAY the server reads on for a second, and throws away what comes.
		for deadline := time.Now().Add(20 * time.Second); !closed && (sent < 1000 || c.want != nil && time.Now().Before(deadline)); sent++ {
			_, err := raw.conn.Write(frames.Bytes())
			closed = err != nil
		}
		h.served()
		if c.want != nil {
			if !c.reads {
				said = raw.read(0)
			}
			if got := <-said; !closed || !slices.Contains(c.want, got) {
				t.Errorf("%s: %s after %d thousand frames", name, got, sent)
			}
		}
		if n := runtime.NumGoroutine() - before; n > 50 {
			t.Errorf("%s: %d goroutines more", name, n)
		}
		if more := allocated() - memory; more > 64<<20 {
			t.Errorf("%s: %d bytes more", name, more)
		}
		_ = raw.conn.Close()
	}
}

// allocated is what is in use after a collection.
func allocated() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // of a test
}

// A list of headers that is too long is refused, in one frame or many.
func TestHeaderListsOverHTTP2(t *testing.T) {
	h := newHarness(t)
	raw := h.rawHTTP2()
	block := encode(methodGet, https, authority, ":path: /api/v1/pods")
	for i := range 40 {
		block = append(block, encode(fmt.Sprintf("x-%d: %s", i, strings.Repeat("x", 2000)))...)
	}
	first := block[:10<<10]
	h.must(raw.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: true}))
	for rest := block[len(first):]; len(rest) > 0; {
		n := min(len(rest), 10<<10)
		if raw.WriteContinuation(1, n == len(rest), rest[:n]) != nil {
			break
		}
		rest = rest[n:]
	}
	if got := raw.verdict(1); got != "431" && !strings.HasPrefix(got, "GOAWAY") {
		t.Errorf("80 KiB of headers: %s", got)
	}
	h.served()
}
