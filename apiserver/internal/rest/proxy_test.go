package rest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/traffic"
)

// page serves a handler as a pod would and returns its port. Pod p of the harness's node has it.
func page(t *testing.T, handler http.HandlerFunc) (port string) {
	t.Helper()
	web := httptest.NewServer(handler)
	t.Cleanup(web.Close)
	return portOf(t, web.URL)
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// raw answers each connection by a function, which must not be HTTP.
func raw(t *testing.T, serve func(net.Conn)) (port string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return portOf(t, "http://"+listener.Addr().String())
}

// idle waits until the kubelet carries no connection any more.
func (h *harness) idle(k *fakeKubelet) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	if err := waitFor(ctx, k.read(func() bool { return k.forwards == 0 })); err != nil {
		h.t.Errorf("connections are left over: %v", err)
	}
}

const podsPath = "/api/v1/namespaces/default/pods/"

// seen is a request as the pod gets it.
type seen struct {
	Method, URI, Host, Body string
	Header                  http.Header
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Method", r.Method)
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, string(body), r.Header})
}

func (a answer) seen(t *testing.T) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal(a.body, &s); err != nil || a.code != http.StatusAccepted {
		t.Fatalf("%d %s", a.code, a.body)
	}
	return s
}

func TestProxyToPod(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	p := podsPath + "p:" + page(t, echo) + "/proxy"
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		s := h.call(method, p+"/some/path/?a=b;c&d=%2F", "content").seen(t)
		if s.Method != method || s.URI != "/some/path/?a=b;c&d=%2F" || s.Body != "content" {
			t.Errorf("%s: %+v", method, s)
		}
	}
	if a := h.call("HEAD", p+"/x", ""); a.code != http.StatusAccepted || a.header.Get("X-Method") != "HEAD" || len(a.body) != 0 {
		t.Errorf("HEAD: %d %v %q", a.code, a.header, a.body)
	}
	for path, want := range map[string]string{
		"/": "/", "/a": "/a", "/a/": "/a/", "/a%2Fb%20c//d": "/a%2Fb%20c//d", "//": "//", "/../x": "/../x", "/%E2%82%AC?": "/%E2%82%AC",
	} {
		if s := h.call("GET", p+path, "").seen(t); s.URI != want {
			t.Errorf("%s: %s, want %s", path, s.URI, want)
		}
	}
	if s := h.call("POST", p, "x").seen(t); s.URI != "/" {
		t.Errorf("POST without a path: %+v", s)
	}
	start := kubelet.starts[0]
	if !start.GetPodAddress() || start.GetTarget().GetPod() != "p" || start.GetTarget().GetUid() == "" || start.GetCaller().GetUser() != "kubernetes-admin" {
		t.Errorf("the kubelet was asked %v", start)
	}
	h.idle(kubelet)
}

func TestProxyRedirectsToItsRoot(t *testing.T) {
	h := newHarness(t)
	h.node()
	once := &http.Client{Transport: h.admin.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for path, want := range map[string]string{"": "", "?a=b": "?a=b"} {
		a := h.callAs(once, "GET", "//api/v1/namespaces/default/pods/p/proxy"+path, "")
		if a.code != http.StatusMovedPermanently || a.header.Get("Location") != podsPath+"p/proxy/"+want {
			t.Errorf("%d %v", a.code, a.header)
		}
	}
}

func TestNamesOfProxies(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	secure := httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(secure.Close)
	plain, tls := page(t, echo), portOf(t, secure.URL)
	h.post("/api/v1/namespaces/default/pods", `{"metadata":{"name":"ports"},"spec":{"nodeName":"n1","containers":[
		{"name":"a","image":"i"},{"name":"b","image":"i","ports":[{"containerPort":`+plain+`}]}]}}`)
	for _, name := range []string{"ports", "ports:", "http:ports:", "p:" + plain, ":p:" + plain, "http:p:" + plain, "https:p:" + tls, "http%3Ap%3A" + plain} {
		h.call("GET", podsPath+name+"/proxy/x", "").seen(t)
	}
	for name, want := range map[string]int{
		"ftp:p:80": 400, "http::80": 400, "a:b:c:d": 400, "p:web": 400, "p:0": 400, "p:65536": 400, "p:-1": 400, "none": 404, "none:80": 404,
		"p%2Fproxy%2Fx": 404, "http:p:" + tls: 400, "https:p:" + plain: 503,
	} {
		a := h.call("GET", podsPath+name+"/proxy/x", "")
		if a.code != want {
			t.Errorf("%s: %d, want %d: %s", name, a.code, want, a.body)
		}
	}
	h.call("GET", podsPath+"p/proxy/x", "") // nothing listed: port 80
	kubelet.read(func() bool {
		if last := kubelet.starts[len(kubelet.starts)-1]; last.GetPort() != 80 {
			t.Errorf("port %d", last.GetPort())
		}
		return true
	})()
	h.createPod("unplaced", "", "c")
	h.createPod("lost", "n2", "c")
	if a := h.call("GET", podsPath+"unplaced/proxy/", ""); a.code != 400 || !strings.Contains(a.status(t).Message, "does not have a host") {
		t.Errorf("%d %s", a.code, a.body)
	}
	if a := h.call("GET", podsPath+"lost/proxy/", ""); a.code != 503 {
		t.Errorf("%d %s", a.code, a.body)
	}
	h.idle(kubelet)
}

func TestHeadersThroughAProxy(t *testing.T) {
	h := newHarness(t)
	h.node()
	port := page(t, func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Add("Set-Cookie", "session=1; Path=/; Domain=example.com; HttpOnly")
		header.Add("Set-Cookie", "plain=2")
		header.Set("Service-Worker-Allowed", "/")
		header.Set("Strict-Transport-Security", "max-age=1")
		header.Set("Audit-Id", "mine")
		header.Set("X-Own", "kept")
		if to := r.URL.Query().Get("to"); to != "" {
			header.Set("Location", strings.ReplaceAll(to, "HOST", r.Host))
			w.WriteHeader(http.StatusFound)
			return
		}
		echo(w, r)
	})
	p := podsPath + "p:" + port + "/proxy"
	a := h.call("GET", p+"/x", "", "Authorization: Basic YTpi", "X-Remote-User: root", "X-Remote-Extra-A: b", "X-Forwarded-For: 1.2.3.4",
		"X-Forwarded-Proto: gopher", "Cookie: c=d", "Impersonate-User: kubernetes-admin", "Impersonate-Group: system:masters", "X-Other: o")
	s := a.seen(t)
	for _, name := range []string{"Authorization", "X-Remote-User", "X-Remote-Extra-A", "Impersonate-User", "Impersonate-Group"} {
		if s.Header.Get(name) != "" {
			t.Errorf("the pod is told %s: %s", name, s.Header.Get(name))
		}
	}
	own := strings.TrimPrefix(h.http.URL, "https://")
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": own, "X-Forwarded-Uri": p + "/x", "Cookie": "c=d", "X-Other": "o",
	} {
		if s.Header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, s.Header.Get(name), want)
		}
	}
	if s.Host != own {
		t.Errorf("host %q", s.Host)
	}
	cookies := a.header.Values("Set-Cookie")
	if len(cookies) != 2 || cookies[0] != "session=1; Path="+p+"/; HttpOnly" || cookies[1] != "plain=2; Path="+p+"/" {
		t.Errorf("cookies %q", cookies)
	}
	if a.header.Get("Service-Worker-Allowed")+a.header.Get("Strict-Transport-Security") != "" || a.header.Get("X-Own") != "kept" || a.header.Get("Audit-Id") == "mine" {
		t.Errorf("%v", a.header)
	}
	once := &http.Client{Transport: h.admin.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for to, want := range map[string]string{
		"/login?next=/": p + "/login?next=/", "next": "next", "http://HOST/a": p + "/a", "https://example.com/a": "https://example.com/a", "//evil.example/a": "//evil.example/a",
		p + "/already": p + "/already", p + "er/not": p + p + "er/not", "/a%2Fb#c": p + "/a%2Fb#c",
	} {
		if a := h.callAs(once, "GET", p+"/x?to="+url.QueryEscape(to), ""); a.code != http.StatusFound || a.header.Get("Location") != want {
			t.Errorf("%s: %d %q, want %q", to, a.code, a.header.Get("Location"), want)
		}
	}
}

func TestLinksOfPages(t *testing.T) {
	h := newHarness(t)
	h.node()
	const page1 = `<!DOCTYPE html><html><head><link rel=stylesheet href="/s.css"><SCRIPT src='/a.js?x=1&amp;y=2'></SCRIPT><base href="/"></head>` +
		`<body><a href="rel">r</a><a href="https://example.com/">e</a><img src="/i.png"/><p title="/not">/text <form action=/do></form>` +
		`<script>if (a < b) { x = "<a href='/no'>" }</script><!-- <a href="/no"> --></body>`
	port := page(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("ETag", `"1"`)
		if r.URL.Path == "/gz" {
			w.Header().Set("Content-Encoding", "gzip")
			gz := gzip.NewWriter(w)
			_, _ = io.WriteString(gz, page1)
			_ = gz.Close()
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(page1)))
		_, _ = io.WriteString(w, page1)
	})
	p := podsPath + "p:" + port + "/proxy"
	want := strings.NewReplacer(`<link rel=stylesheet href="/s.css">`, `<link rel="stylesheet" href="`+p+`/s.css">`,
		`<SCRIPT src='/a.js?x=1&amp;y=2'>`, `<script src="`+p+`/a.js?x=1&amp;y=2">`, `<base href="/">`, `<base href="`+p+`/">`,
		`<img src="/i.png"/>`, `<img src="`+p+`/i.png"/>`, `<form action=/do>`, `<form action="`+p+`/do">`).Replace(page1)
	for _, path := range []string{"/plain", "/gz"} {
		a := h.call("GET", p+path, "", "Accept-Encoding: gzip")
		if string(a.body) != want || a.header.Get("ETag") != "" || a.header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %v\n%s\nwant\n%s", path, a.header, a.body, want)
		}
	}
}

// What has no link to change arrives as it was sent, however it is cut and however long it is.
func TestPagesWithoutLinksAreNotChanged(t *testing.T) {
	long := strings.Repeat("x", maxTokenBytes)
	for _, text := range []string{
		"", "plain", "<", "<a", "<a href=", `<a href="rel`, "<p>a</p", "<!--", "<script>", "<script>a</scr", "</>", "<?x?>", "\x00<\xff>", "a<b c<d>",
		"<p>" + long + long + "</p><a href=x>", "<p title='" + long + long + "'><b>", long,
	} {
		resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: io.NopCloser(strings.NewReader(text)), Request: &http.Request{Method: "GET"}}
		(&rewriter{prefix: "/p"}).response(resp)
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != text {
			t.Errorf("%.20q (%d bytes): %v, %d bytes", text, len(text), err, len(got))
		}
	}
}

// A stream arrives piece by piece, also one of a page whose links are rewritten.
func TestProxyDoesNotHoldBack(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	for _, kind := range []string{"text/plain", "text/event-stream", "text/html"} {
		next := make(chan struct{})
		port := page(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			for i := range 3 {
				_, _ = fmt.Fprintf(w, "<p>%d</p>\n", i)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		})
		stream := h.open(podsPath+"p:"+port+"/proxy/", "")
		for i := range 3 {
			line, err := stream.buf.ReadString('>')
			h.must(err)
			rest, err := stream.buf.ReadString('>')
			h.must(err)
			if strings.TrimSpace(line+rest) != fmt.Sprintf("<p>%d</p>", i) {
				t.Errorf("%s: %q", kind, line+rest)
			}
			next <- struct{}{}
		}
		_ = stream.resp.Body.Close()
	}
	h.idle(kubelet)
}

// A pod that echoes begins its answer long before the question has ended.
func TestProxyHasNoLimitOfBodies(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	const size = 9 << 20
	port := page(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		n, err := io.Copy(w, r.Body)
		if err != nil || n != size || r.ContentLength != -1 {
			panic(http.ErrAbortHandler)
		}
	})
	for _, client := range []*http.Client{h.admin, h.oldHTTP()} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.http.URL+podsPath+"p:"+port+"/proxy/", io.LimitReader(zeros{}, size))
		h.must(err)
		resp, err := client.Do(r)
		h.must(err)
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || n != size || resp.StatusCode != 200 {
			t.Errorf("%d bytes, %v, %d", n, err, resp.StatusCode)
		}
		_ = resp.Body.Close()
	}
	h.idle(kubelet)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func echoWebSocket(t *testing.T) (port string, ended <-chan struct{}) {
	t.Helper()
	left := make(chan struct{}, 1)
	return page(t, func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{Subprotocols: []string{"echo"}, CheckOrigin: func(*http.Request) bool { return true }}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() {
			_ = conn.Close()
			left <- struct{}{}
		}()
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil || string(data) == "leave" {
				return
			}
			if conn.WriteMessage(kind, data) != nil {
				return
			}
		}
	}), left
}

func TestWebSocketThroughAProxy(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	port, ended := echoWebSocket(t)
	path := podsPath + "p:" + port + "/proxy/ws"
	conn := h.websocket(path, "echo")
	if conn.Subprotocol() != "echo" {
		t.Errorf("protocol %q", conn.Subprotocol())
	}
	for _, text := range []string{"one", strings.Repeat("two", 100<<10)} {
		h.must(conn.WriteMessage(websocket.TextMessage, []byte(text)))
		if _, data, err := conn.ReadMessage(); err != nil || string(data) != text {
			t.Fatalf("%v %d bytes", err, len(data))
		}
	}
	_ = conn.Close() // the client leaves without a word
	<-ended
	h.idle(kubelet)
	conn = h.websocket(path, "echo")
	h.must(conn.WriteMessage(websocket.TextMessage, []byte("leave")))
	if _, _, err := conn.ReadMessage(); err == nil {
		t.Error("the pod has left and the connection stays")
	}
	<-ended
	h.idle(kubelet)
	// A pod that does not want to answers as it likes.
	dialer := websocket.Dialer{TLSClientConfig: h.http1()}
	_, resp, err := dialer.DialContext(t.Context(), "wss"+strings.TrimPrefix(h.http.URL, "https")+podsPath+"p:"+page(t, echo)+"/proxy/", nil) //nolint:bodyclose // not to be closed, says the library
	if err == nil || resp == nil || resp.StatusCode != http.StatusAccepted {
		t.Errorf("%v %v", err, resp)
	}
	h.idle(kubelet)
}

// An upgraded connection carries anything, so it takes the right to create; whatever is
// passed through a proxy ends with the right to it.
func TestProxyIsAuthorized(t *testing.T) {
	h := newRealHarness(t)
	kubelet := h.node()
	h.server.reauthorizeEvery = 10 * time.Millisecond
	h.post(rbacPath+"/clusterroles", `{"metadata":{"name":"look"},"rules":[{"apiGroups":[""],"resources":["pods/proxy"],"verbs":["get"]}]}`)
	h.post(rbacPath+"/clusterroles", `{"metadata":{"name":"metrics"},"rules":[{"apiGroups":[""],"resources":["nodes/metrics"],"verbs":["get"]}]}`)
	h.post(rbacPath+"/clusterroles", `{"metadata":{"name":"nodes"},"rules":[{"apiGroups":[""],"resources":["nodes/proxy"],"verbs":["get"]}]}`)
	h.grant("look", "User", "eve")
	h.grant("edit", "User", "bob")
	h.grant("metrics", "User", "prometheus")
	h.grant("nodes", "User", "operator")
	h.post("/api/v1/nodes", `{"metadata":{"name":"n1"}}`)
	path := podsPath + "p:" + page(t, echo) + "/proxy/"
	for _, c := range []struct {
		user, method, path string
		want               int
	}{
		{"eve", "GET", path, 202}, {"eve", "POST", path, 403}, {"eve", "DELETE", path, 403}, {"eve", "OPTIONS", path, 403},
		{"bob", "POST", path, 202}, {"nobody", "GET", path, 403}, {"eve", "GET", strings.Replace(path, "pods", "services", 1), 403},
		{"prometheus", "GET", "/api/v1/nodes/n1/proxy/metrics", 200}, {"prometheus", "GET", "/api/v1/nodes/n1/proxy/metrics/resource", 200},
		{"prometheus", "GET", "/api/v1/nodes/n1/proxy/pods", 403}, {"prometheus", "GET", "/api/v1/nodes/n1/proxy/stats/summary", 403},
		{"prometheus", "GET", "/api/v1/nodes/n1/proxy/metrics/..", 403},
		{"operator", "GET", "/api/v1/nodes/n1/proxy/pods", 200}, {"operator", "GET", "/api/v1/nodes/n1/proxy/metrics", 200},
		{"operator", "GET", "/api/v1/nodes/n1/proxy/logs/", 404}, {"operator", "POST", "/api/v1/nodes/n1/proxy/pods", 403},
		{"bob", "GET", "/api/v1/nodes/n1/proxy/healthz", 403}, {"eve", "GET", "/api/v1/nodes/n1/proxy/pods", 403},
	} {
		if a := h.call(c.method, c.path, "", "Impersonate-User: "+c.user); a.code != c.want {
			t.Errorf("%s %s %s: %d, want %d: %s", c.user, c.method, c.path, a.code, c.want, a.body)
		}
	}
	port, ended := echoWebSocket(t)
	dial := func(user string) (*websocket.Conn, *http.Response, error) {
		dialer := websocket.Dialer{TLSClientConfig: h.http1()}
		return dialer.DialContext(t.Context(), "wss"+strings.TrimPrefix(h.http.URL, "https")+podsPath+"p:"+port+"/proxy/", http.Header{"Impersonate-User": {user}})
	}
	if _, resp, err := dial("eve"); err == nil || resp.StatusCode != http.StatusForbidden { //nolint:bodyclose // not to be closed, says the library
		t.Errorf("upgraded with the right to read: %v", resp)
	}
	conn, _, err := dial("bob") //nolint:bodyclose // not to be closed, says the library
	h.must(err)
	t.Cleanup(func() { _ = conn.Close() })
	h.must(conn.WriteMessage(websocket.TextMessage, []byte("hello")))
	_, _, err = conn.ReadMessage()
	h.must(err)
	h.call("DELETE", rbacPath+"/clusterrolebindings/edit-bob", "")
	<-ended
	h.idle(kubelet)
}

func TestHostilePods(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	answering := func(text string) string {
		return raw(t, func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		})
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	h.must(err)
	closed := portOf(t, "http://"+listener.Addr().String())
	h.must(listener.Close())
	for what, port := range map[string]string{
		"huge headers": answering("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxProxyHeaderBytes) + "\r\n\r\n"),
		"no HTTP":      answering("SSH-2.0-OpenSSH_9.9\r\n"), "silence": answering(""), "half a header": answering("HTTP/1.1 200 OK\r\nX: "),
		"nobody": closed, "an upgrade that nobody asked for": answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
	} {
		a := h.call("GET", podsPath+"p:"+port+"/proxy/", "")
		if a.code != 503 || !strings.Contains(a.status(t).Message, "error trying to reach port "+port+" of pod p: ") {
			t.Errorf("%s: %d %s", what, a.code, a.body)
		}
	}
	if a := h.call("GET", podsPath+"p:"+closed+"/proxy/", ""); !strings.Contains(string(a.body), "connection refused") {
		t.Errorf("the cause is missing: %s", a.body)
	}
	// Half an answer must not look like a whole one.
	for _, text := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"} {
		stream := h.open(podsPath+"p:"+answering(text)+"/proxy/", "")
		if body, err := io.ReadAll(stream.buf); err == nil || string(body) != "half" {
			t.Errorf("%q %v", body, err)
		}
	}
	h.idle(kubelet)
}

func TestPodThatHangs(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	asked := make(chan net.Conn, 1)
	port := raw(t, func(conn net.Conn) { asked <- conn })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.http.URL+podsPath+"p:"+port+"/proxy/", nil)
	h.must(err)
	ended := make(chan error, 1)
	go func() {
		resp, err := h.admin.Do(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		ended <- err
	}()
	conn := <-asked
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// The connection to the pod ends with the client's patience.
	h.must(conn.SetReadDeadline(time.Now().Add(10 * time.Second)))
	if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the pod's connection stays: %v", err)
	}
	_ = conn.Close()
	h.idle(kubelet)
}

func TestProxyToService(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	h.createPod("lost", "n2", "c")
	web, admin := page(t, echo), page(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "admin") })
	const services, slices1 = "/api/v1/namespaces/default/services", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	service := func(name, ports string) {
		h.post(services, `{"metadata":{"name":"`+name+`"},"spec":{"ports":[`+ports+`]}}`)
	}
	slice := func(name, service, ports, endpoints string) {
		h.post(slices1, `{"metadata":{"name":"`+name+`","labels":{"kubernetes.io/service-name":"`+service+`"}},"addressType":"IPv4","ports":[`+ports+`],"endpoints":[`+endpoints+`]}`)
	}
	pod := func(name string) string {
		return `{"addresses":["10.0.0.1"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","namespace":"default","name":"` + name + `"}}`
	}
	both := `{"name":"web","port":` + web + `},{"name":"admin","port":` + admin + `}`
	service("two", `{"name":"web","port":80},{"name":"admin","port":81}`)
	slice("two-a", "two", both, `{"addresses":["10.0.0.3"],"conditions":{"ready":false},"targetRef":{"kind":"Pod","name":"none"}},`+pod("lost"))
	slice("two-b", "two", both, pod("gone")+","+pod("p"))
	service("one", `{"name":"web","port":80}`)
	slice("one-a", "one", both, pod("p"))
	service("bare", `{"port":8080}`)
	slice("bare-a", "bare", `{"name":"","port":`+web+`}`, pod("p"))
	service("manual", `{"port":80}`)
	slice("manual-a", "manual", `{"port":80}`, `{"addresses":["192.0.2.1"]},{"addresses":["10.0.0.1"],"targetRef":{"kind":"Pod","namespace":"kube-system","name":"p"}}`)
	service("empty", `{"port":80}`)
	service("replaced", `{"port":80}`)
	slice("replaced-a", "replaced", `{"port":`+web+`}`, `{"addresses":["10.0.0.1"],"targetRef":{"kind":"Pod","name":"p","uid":"other"}}`)
	for range 5 { // whichever endpoint comes first
		for _, name := range []string{"two:web", "http:two:80", "one", "one:", "one:80", "bare", "bare:8080"} {
			if s := h.call("GET", services+"/"+name+"/proxy/x?y", "").seen(t); s.URI != "/x?y" {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if a := h.call("GET", services+"/two:admin/proxy/", ""); string(a.body) != "admin" {
			t.Errorf("%d %s", a.code, a.body)
		}
	}
	for name, want := range map[string]string{
		"two": `no service port "" found`, "two:82": `no service port "82" found`, "one:admin": `no service port "admin"`,
		"manual": "no pods of its namespace", "empty": `no endpoints available for service "empty"`, "replaced": "has been replaced",
	} {
		if a := h.call("GET", services+"/"+name+"/proxy/", ""); a.code != 503 || !strings.Contains(a.status(t).Message, want) {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
	}
	if a := h.call("GET", services+"/none/proxy/", ""); a.code != 404 || !strings.Contains(a.status(t).Message, `services "none" not found`) {
		t.Errorf("%d %s", a.code, a.body)
	}
	h.idle(kubelet)
}

func TestProxyToNode(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	h.post("/api/v1/nodes", `{"metadata":{"name":"n1"}}`)
	h.post("/api/v1/nodes", `{"metadata":{"name":"n2"}}`)
	for path, want := range map[string]string{
		"healthz": "HEALTHZ", "pods": "PODS", "pods/": "PODS", "stats/summary": "STATS_SUMMARY", "metrics": "METRICS", "metrics/resource": "METRICS_RESOURCE",
		"stats/summary?only_cpu_and_memory=true": "STATS_SUMMARY",
	} {
		for _, node := range []string{"n1", "n1:10250", "https:n1:10250", "https:n1:"} {
			a := h.call("GET", "/api/v1/nodes/"+node+"/proxy/"+path, "")
			if a.code != 200 || string(a.body) != "page PAGE_NAME_"+want || a.header.Get("Content-Type") != "text/x-page" {
				t.Errorf("%s %s: %d %v %s", node, path, a.code, a.header, a.body)
			}
		}
	}
	if asked := kubelet.pages[0]; asked.GetCaller().GetUser() != "kubernetes-admin" || asked.GetCaller().GetRequestId() == "" {
		t.Errorf("%v", asked)
	}
	count := len(kubelet.pages)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "n1/proxy", 404}, {"GET", "n1/proxy/", 404}, {"GET", "n1/proxy/exec/default/p/c?command=ls", 404}, {"GET", "n1/proxy/run/default/p/c", 404},
		{"GET", "n1/proxy/logs/", 404}, {"GET", "n1/proxy/containerLogs/default/p/c", 404}, {"GET", "n1/proxy/debug/pprof/heap", 404},
		{"GET", "n1/proxy/metrics/cadvisor", 404}, {"GET", "n1/proxy/pods/../exec", 404}, {"GET", "n1/proxy/metrics/..", 404},
		{"GET", "n1:10255/proxy/pods", 404}, {"GET", "n1:2379/proxy/metrics", 404}, {"GET", "none/proxy/pods", 404}, {"GET", "n2/proxy/pods", 503},
		{"POST", "n1/proxy/pods", 405}, {"PUT", "n1/proxy/metrics", 405}, {"DELETE", "n1/proxy/pods", 405}, {"OPTIONS", "n1/proxy/pods", 405},
		{"GET", "ftp:n1:10250/proxy/pods", 400},
	} {
		if a := h.call(c.method, "/api/v1/nodes/"+c.path, ""); a.code != c.want || a.status(t).Kind != "Status" {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, a.code, c.want, a.body)
		}
	}
	if a := h.callAs(h.oldHTTP(), "GET", "/api/v1/nodes/n1/proxy/pods", "", "Connection: Upgrade", "Upgrade: websocket"); a.code != 405 {
		t.Errorf("upgrade: %d %s", a.code, a.body)
	}
	if len(kubelet.pages) != count {
		t.Errorf("the kubelet was asked %v", kubelet.pages[count:])
	}
	if a := h.call("GET", "/api/v1/nodes/n1/proxy/configz", ""); a.code != 503 || !strings.Contains(a.status(t).Message, "no configuration today") {
		t.Errorf("%d %s", a.code, a.body)
	}
}

// A proxied request is audited, without its query, which is the pod's business.
func TestProxiesAreAudited(t *testing.T) {
	h := newHarness(t)
	h.node()
	log := audittest.Open(t)
	h.server.cfg.Traffic = traffic.New(traffic.Config{Audit: log.Log, Clock: h.clock})
	name := "p:" + page(t, echo)
	h.call("PUT", podsPath+name+"/proxy/x?password=secret", "").seen(t)
	events, text := log.Events(2)
	if i := slices.IndexFunc(events, func(e audittest.Event) bool { return e.Stage == "ResponseComplete" }); i != 1 ||
		events[1].Verb != "update" || events[1].ObjectRef.Subresource != "proxy" || events[1].ObjectRef.Name != name ||
		events[1].RequestURI != podsPath+name+"/proxy/x" || bytes.Contains(text, []byte("secret")) {
		t.Errorf("%+v", events)
	}
}
