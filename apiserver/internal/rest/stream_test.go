package rest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const podP = "/api/v1/namespaces/default/pods/p"

func (h *harness) websocket(path string, protocols ...string) *websocket.Conn {
	h.t.Helper()
	return h.websocketAs(h.http1(), path, protocols...)
}

func (h *harness) websocketAs(config *tls.Config, path string, protocols ...string) *websocket.Conn {
	h.t.Helper()
	dialer := websocket.Dialer{TLSClientConfig: config, Subprotocols: protocols}
	conn, resp, err := dialer.DialContext(h.t.Context(), "wss"+strings.TrimPrefix(h.http.URL, "https")+path, nil)
	if err != nil {
		h.t.Fatalf("dial %s: %v", path, err)
	}
	_ = resp.Body.Close()
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// collect reads a WebSocket to its end, by channel.
func collect(t *testing.T, conn *websocket.Conn) map[byte]string {
	t.Helper()
	out := map[byte]string{}
	for {
		_, data, err := conn.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			return out
		}
		if err != nil {
			t.Fatalf("read: %v after %q", err, out)
		}
		out[data[0]] += string(data[1:])
	}
}

func TestExecOverWebSocket(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	conn := h.websocket(podP+"/exec?command=sh&command=-c&command=cat%3Becho+e+%3E%262%3Bexit+3&stdin=true&stdout=true&stderr=true", "v5.channel.k8s.io", "v4.channel.k8s.io")
	if conn.Subprotocol() != "v5.channel.k8s.io" {
		t.Errorf("protocol %q", conn.Subprotocol())
	}
	h.must(conn.WriteMessage(websocket.BinaryMessage, []byte("\x04{\"Width\":80,\"Height\":24}")))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h.must(waitFor(ctx, kubelet.read(func() bool { return len(kubelet.sizes) == 1 && kubelet.sizes[0] == "80x24" })))
	h.must(conn.WriteMessage(websocket.BinaryMessage, []byte("\x00hello")))
	h.must(conn.WriteMessage(websocket.BinaryMessage, []byte{255, 0})) // standard input ends
	out := collect(t, conn)
	if out[1] != "hello" || out[2] != "e\n" {
		t.Errorf("%q", out)
	}
	var status metav1.Status
	h.must(json.Unmarshal([]byte(out[3]), &status))
	if status.Status != "Failure" || status.Reason != "NonZeroExitCode" || status.Details.Causes[0].Type != "ExitCode" || status.Details.Causes[0].Message != "3" {
		t.Errorf("%+v", status)
	}

	good := h.websocket(podP+"/exec?command=true&stdout=true", "v4.channel.k8s.io")
	if out := collect(t, good); !strings.Contains(out[3], `"status":"Success"`) {
		t.Errorf("%q", out)
	}
	old := h.websocket(podP+"/exec?command=false&stdout=1", "base64.channel.k8s.io")
	_, first, err := old.ReadMessage()
	h.must(err)
	if string(first) != "1" {
		t.Errorf("first message %q", first)
	}
}

func TestExecEndsWhenTheClientLeaves(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	conn := h.websocket(podP+"/exec?command=sh&command=-c&command=echo+started%3Bexec+sleep+100&stdout=true", "v4.channel.k8s.io")
	for seen := ""; !strings.Contains(seen, "started"); {
		_, data, err := conn.ReadMessage()
		h.must(err)
		seen += string(data)
	}
	_ = conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h.must(waitFor(ctx, kubelet.read(func() bool { return kubelet.canceled == 1 })))
}

func TestExecRefusals(t *testing.T) {
	h := newHarness(t)
	h.node()
	h.createPod("unplaced", "", "c")
	h.createPod("lost", "n2", "c")
	h.createPod("two", "n1", "a", "b")
	base := "/api/v1/namespaces/default/pods/"
	for path, want := range map[string]int{
		"p/exec?command=ls": 400, "p/exec?stdout=true": 400, "p/exec?command=ls&stdout=true&container=x": 400,
		"unplaced/exec?command=ls&stdout=true": 400, "lost/exec?command=ls&stdout=true": 503,
		"two/exec?command=ls&stdout=true": 400, "none/exec?command=ls&stdout=true": 404,
	} {
		if a := h.callAs(h.oldHTTP(), "GET", base+path, "", "Connection: Upgrade", "Upgrade: websocket"); a.code != want {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	if a := h.call("POST", base+"p/exec?command=ls&stdout=true", ""); a.code != 400 {
		t.Errorf("without upgrade: %d", a.code)
	}
}

func (h *harness) spdy(path, protocol string) httpstream.Connection {
	h.t.Helper()
	transport, err := spdy.NewRoundTripper(h.http1())
	h.must(err)
	r, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.http.URL+path, nil)
	h.must(err)
	r.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := (&http.Client{Transport: transport}).Do(r)
	h.must(err)
	defer func() { _ = resp.Body.Close() }()
	conn, err := transport.NewConnection(resp)
	h.must(err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func open(t *testing.T, conn httpstream.Connection, headers ...string) httpstream.Stream {
	t.Helper()
	header := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	s, err := conn.CreateStream(header)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestExecOverSPDY(t *testing.T) {
	h := newHarness(t)
	h.node()
	conn := h.spdy(podP+"/exec?command=sh&command=-c&command=cat%3Bexit+4&stdin=true&stdout=true", "v4.channel.k8s.io")
	status := open(t, conn, "streamType", "error")
	in := open(t, conn, "streamType", "stdin")
	out := open(t, conn, "streamType", "stdout")
	_, err := io.WriteString(in, "hello")
	h.must(err)
	h.must(in.Close())
	data, err := io.ReadAll(out)
	h.must(err)
	if string(data) != "hello" {
		t.Errorf("%q", data)
	}
	data, err = io.ReadAll(status)
	h.must(err)
	if !strings.Contains(string(data), `"message":"4"`) {
		t.Errorf("%s", data)
	}
}

func TestAttachOverWebSocket(t *testing.T) {
	h := newHarness(t)
	h.node()
	conn := h.websocket(podP+"/attach?stdin=true&stdout=true", "v5.channel.k8s.io")
	h.must(conn.WriteMessage(websocket.BinaryMessage, []byte("\x00ping")))
	h.must(conn.WriteMessage(websocket.BinaryMessage, []byte{255, 0}))
	out := collect(t, conn)
	if out[1] != "attached\nping" || !strings.Contains(out[3], "Success") {
		t.Errorf("%q", out)
	}
}

func TestPortForward(t *testing.T) {
	h := newHarness(t)
	h.node()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprintf(w, "served %s", r.URL.Path) }))
	t.Cleanup(web.Close)
	address, err := url.Parse(web.URL)
	h.must(err)
	use := func(conn httpstream.Connection, id string) {
		t.Helper()
		failure := open(t, conn, "streamType", "error", "port", address.Port(), "requestID", id)
		h.must(failure.Close())
		data := open(t, conn, "streamType", "data", "port", address.Port(), "requestID", id)
		_, err := io.WriteString(data, "GET /page HTTP/1.0\r\n\r\n")
		h.must(err)
		body, err := io.ReadAll(data)
		h.must(err)
		if !bytes.Contains(body, []byte("served /page")) {
			t.Errorf("%q", body)
		}
		if complaint, err := io.ReadAll(failure); err != nil || len(complaint) != 0 {
			t.Errorf("%q %v", complaint, err)
		}
	}
	plain := h.spdy(podP+"/portforward", portforward.ProtocolV1Name)
	use(plain, "0")
	use(plain, "1") // a second connection over the same session

	tunnel := h.websocket(podP+"/portforward", portforward.WebsocketsSPDYTunnelingPortForwardV1)
	inner, err := spdy.NewClientConnection(&tunnelConn{Conn: tunnel})
	h.must(err)
	use(inner, "0")
	h.must(inner.Close())

	refused, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	h.must(err)
	_, port, err := net.SplitHostPort(refused.Addr().String())
	h.must(err)
	h.must(refused.Close())
	failure := open(t, plain, "streamType", "error", "port", port, "requestID", "2")
	open(t, plain, "streamType", "data", "port", port, "requestID", "2")
	if complaint, _ := bufio.NewReader(failure).ReadString('\n'); !strings.Contains(complaint, "error forwarding port") {
		t.Errorf("%q", complaint)
	}
}

func TestLogs(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	a := h.call("GET", podP+"/log?tailLines=0&sinceSeconds=60&limitBytes=9&timestamps=true", "")
	if string(a.body) != "line 0\nline 1\nline 2\n" || a.header.Get("Content-Type") != "text/plain" {
		t.Errorf("%q %v", a.body, a.header)
	}
	asked := kubelet.logs[0]
	if asked.TailLines == nil || asked.GetTailLines() != 0 || asked.GetLimitBytes() != 9 || !asked.GetTimestamps() || asked.GetTarget().GetContainer() != "c" {
		t.Errorf("%v", asked)
	}
	if got, want := asked.GetSince().AsTime(), h.clock.Now().Add(-time.Minute); !got.Equal(want) {
		t.Errorf("since %v, want %v", got, want)
	}
	if a := h.call("GET", podP+"/log?previous=true", ""); a.code != 404 || !strings.Contains(a.status(t).Message, "previous terminated container") {
		t.Errorf("%d %s", a.code, a.body)
	}
	for _, query := range []string{"tailLines=-1", "sinceSeconds=0", "sinceTime=noon", "sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z", "limitBytes=x", "stream=Other"} {
		if a := h.call("GET", podP+"/log?"+query, ""); a.code != 422 {
			t.Errorf("%s: %d %s", query, a.code, a.body)
		}
	}
}

func TestFollowedLogEndsWhenTheClientLeaves(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	log := h.open(podP+"/log?follow=true", "")
	for i := range 3 {
		line, err := log.buf.ReadString('\n')
		h.must(err)
		if line != fmt.Sprintf("line %d\n", i) {
			t.Errorf("%q", line)
		}
	}
	h.must(log.resp.Body.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h.must(waitFor(ctx, kubelet.read(func() bool { return kubelet.canceled == 1 })))
}
