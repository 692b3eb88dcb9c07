package rest

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// short makes the door's patience short enough for a test.
func short(s *Server) {
	const patience = 300 * time.Millisecond
	s.headerTimeout, s.idleTimeout, s.pingEvery, s.pingTimeout = patience, patience, patience, patience
}

// unserved waits until the door serves nobody any more.
func (h *harness) unserved(what string) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var text strings.Builder
		h.must(pprof.Lookup("goroutine").WriteTo(&text, 1))
		if !strings.Contains(text.String(), "rest.(*Server).ServeHTTP") {
			return
		}
		if time.Now().After(deadline) {
			h.t.Errorf("%s: it is still being served", what)
			return
		}
	}
}

// dial opens a connection; without a configuration it stays without TLS.
func (h *harness) dial(config *tls.Config, protocol string) net.Conn {
	h.t.Helper()
	// What a reader that does not read leaves to the kernel shall be little.
	small := func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		})
	}
	dialer := &net.Dialer{Control: small}
	var conn net.Conn
	var err error
	if config == nil {
		conn, err = dialer.DialContext(h.t.Context(), "tcp", h.http.Listener.Addr().String())
	} else {
		config = config.Clone()
		config.NextProtos = []string{protocol}
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(h.t.Context(), "tcp", h.http.Listener.Addr().String())
	}
	h.must(err)
	h.t.Cleanup(func() { _ = conn.Close() })
	h.must(conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn
}

// closes checks that the server ends a connection on which nothing more is sent.
func closes(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("%s: the connection is kept", what)
	}
}

// Connections that come to nothing are ended.
func TestHalfOpenConnections(t *testing.T) {
	h := newHarness(t, short)
	closes(t, "no handshake", h.dial(nil, ""))
	half := h.dial(nil, "")
	_, err := half.Write([]byte{22, 3, 1}) // the beginning of a handshake
	h.must(err)
	closes(t, "half a handshake", half)
	closes(t, "no request", h.dial(h.tls, "http/1.1"))
	closes(t, "no settings", h.dial(h.tls, "h2"))
	h.served()

	trickle := func(conn net.Conn, next func(i int) error) {
		for i := 0; next(i) == nil; i++ {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-t.Context().Done():
				return
			}
		}
		_ = conn.Close()
	}
	old := h.dial(h.tls, "http/1.1")
	go trickle(old, func(i int) error {
		text := "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", i)
		_, err := io.WriteString(old, text[i%len(text):i%len(text)+1])
		return err
	})
	closes(t, "headers byte by byte", old)

	idle := h.rawHTTP2()
	if got := idle.verdict(0); got != "GOAWAY NO_ERROR" {
		t.Errorf("HTTP/2 without a request ends with %s", got)
	}
	raw := h.rawHTTP2()
	h.must(raw.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(methodGet, https, authority, ":path: /livez")}))
	go trickle(raw.conn, func(int) error { return raw.WriteContinuation(1, false, nil) })
	if got := raw.verdict(1); got != "closed" && !strings.HasPrefix(got, "GOAWAY") {
		t.Errorf("headers in pieces without end: %s", got)
	}

	gone := h.rawHTTP2() // it answers no ping
	if got := gone.verdict(gone.ask(true, methodGet, https, authority, ":path: "+configMaps+"?watch=true")); got != "200" {
		t.Fatalf("watch: %s", got)
	}
	if got := gone.verdict(0); got != "closed" && !strings.HasPrefix(got, "GOAWAY") {
		t.Errorf("a client that has vanished: %s", got)
	}
	h.unserved("the watch of a client that has vanished")
	h.served()
}

// Who opens something and does not read it is ended; writers and other readers do not notice.
func TestSlowReaders(t *testing.T) {
	h := newRealHarness(t, func(s *Server) { s.writeTimeout = time.Second })
	big := strings.Repeat("x", 400<<10)
	create := func(i int) {
		t.Helper()
		if a := h.call("POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"big-%d"},"data":{"k":%q}}`, i, big)); a.code != http.StatusCreated {
			t.Fatalf("write %d: %d %.300s", i, a.code, a.body)
		}
	}
	count := 0
	for ; count < 8; count++ {
		create(count)
	}
	for name, path := range map[string]string{
		"list":            configMaps,
		"watch":           configMaps + "?watch=true",
		"watch from here": configMaps + "?watch=true&resourceVersion=1",
		"watch list":      configMaps + "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
	} {
		if name == "watch from here" {
			a := h.call("GET", configMaps+"?limit=1", "", "Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
			_, version, _ := strings.Cut(string(a.body), `"resourceVersion":"`)
			version, _, _ = strings.Cut(version, `"`)
			path = configMaps + "?watch=true&resourceVersion=" + version
		}
		old := h.dial(h.tls, "http/1.1")
		_, err := io.WriteString(old, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
		h.must(err)
		raw := h.rawHTTP2()
		stream := raw.ask(true, methodGet, https, authority, ":path: "+path)
		quick := h.open(configMaps+"?watch=true&labelSelector=!none", "")
		for range count {
			quick.next()
		}
		for range 8 {
			create(count)
			count++
			quick.next().is(t, "ADDED")
		}
		if got := raw.verdict(stream); got != "200" {
			t.Errorf("%s: %s", name, got)
		}
		if got := raw.verdict(stream); !strings.HasPrefix(got, "RST") {
			t.Errorf("%s over HTTP/2 ends with %s", name, got)
		}
		_ = quick.resp.Body.Close()
		h.unserved(name)
	}
}
