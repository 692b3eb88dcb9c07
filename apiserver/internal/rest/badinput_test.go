package rest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
)

// served checks that another client is answered meanwhile.
func (h *harness) served() {
	h.t.Helper()
	if a := h.call("GET", "/api/v1/namespaces/default/configmaps", ""); a.code != http.StatusOK {
		h.t.Errorf("another client: %d %s", a.code, a.body)
	}
}

func TestBodiesThatAreRefused(t *testing.T) {
	h := newHarness(t)
	const pods, yaml = "/api/v1/namespaces/default/pods", "application/yaml"
	nested := func(n int) string {
		return `{"metadata":{"name":"x"},"deep":` + strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) + "}"
	}
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 8), c-1)
	}
	for name, c := range map[string]struct {
		path, body, header string
		code               int
	}{
		"nested 100":        {configMaps, nested(100), "", 201},
		"nested 2000":       {configMaps, nested(2000), "", 400},
		"YAML nested 2000":  {configMaps, "deep: " + strings.Repeat("{a: ", 2000) + strings.Repeat("}", 2000), "Content-Type: " + yaml, 400},
		"YAML of aliases":   {configMaps, laughs, "Content-Type: " + yaml, 400},
		"quantity":          {pods, `{"spec":{"overhead":{"cpu":"1e2147483647"}}}`, "", 400},
		"quantity in YAML":  {pods, "spec: {overhead: {cpu: \"1\\x65999999999\"}}", "Content-Type: " + yaml, 400},
		"compressed":        {configMaps, "x", "Content-Encoding: gzip", 415},
		"not compressed":    {configMaps, `{"metadata":{"name":"y"}}`, "Content-Encoding: identity", 201},
		"more than allowed": {configMaps, strings.Repeat(" ", maxBodyBytes+1), "", 413},
		"unknown fields":    {configMaps + "?fieldValidation=Strict", `{"` + strings.Repeat("x", 1<<20) + `":1}`, "", 400},
	} {
		header := c.header
		if header == "" {
			header = "Content-Type: application/json"
		}
		a := h.call("POST", c.path, c.body, header)
		if a.code != c.code || c.code >= 400 && (a.status(t).Kind != "Status" || len(a.body) > 16<<10) {
			t.Errorf("%s: %d, %d bytes: %.300s", name, a.code, len(a.body), a.body)
		}
		h.served()
	}
	// The same without its length in advance.
	r, err := http.NewRequestWithContext(t.Context(), "POST", h.http.URL+configMaps, io.MultiReader(strings.NewReader(strings.Repeat(" ", maxBodyBytes)), strings.NewReader("  ")))
	h.must(err)
	resp, err := h.admin.Do(r)
	h.must(err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("chunks: %d", resp.StatusCode)
	}
}

// Warnings stay within what clients and proxies take as headers.
func TestWarningsAreBounded(t *testing.T) {
	h := newHarness(t)
	var fields []string
	for i := range 90 {
		fields = append(fields, fmt.Sprintf(`"%d%s":1`, i, strings.Repeat("é", 1000)))
	}
	a := h.call("POST", configMaps, `{"metadata":{"name":"x"},`+strings.Join(fields, ",")+"}")
	lines := a.header.Values("Warning")
	if size := len(strings.Join(lines, "")); a.code != http.StatusCreated || len(lines) == 0 || size > 4<<10 {
		t.Errorf("%d, %d warnings of %d bytes", a.code, len(lines), size)
	}
}

func TestMethodsThatAreNotAllowed(t *testing.T) {
	h := newHarness(t)
	for _, c := range []struct{ method, path, allow string }{
		{"BREW", "/api/v1/namespaces/default/pods", "GET, HEAD, POST, DELETE"},
		{"TRACE", "/api/v1/namespaces/default/pods/p", "GET, HEAD, PUT, PATCH, DELETE"},
		{"OPTIONS", "/api/v1/pods", "GET, HEAD, DELETE"},
		{"POST", "/apis", "GET, HEAD"}, {"DELETE", "/livez", "GET, HEAD"}, {"PUT", "/version", "GET, HEAD"},
	} {
		a := h.call(c.method, c.path, "")
		if a.code != http.StatusMethodNotAllowed || a.header.Get("Allow") != c.allow || a.status(t).Reason != metav1.StatusReasonMethodNotAllowed {
			t.Errorf("%s %s: %d, Allow %q: %s", c.method, c.path, a.code, a.header.Get("Allow"), a.body)
		}
	}
}

// exchange writes text to a new connection and returns all that comes back until it is closed.
func (h *harness) exchange(config *tls.Config, text string) string {
	h.t.Helper()
	conn, err := (&tls.Dialer{Config: config}).DialContext(h.t.Context(), "tcp", h.http.Listener.Addr().String())
	h.must(err)
	defer func() { _ = conn.Close() }()
	h.must(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = io.WriteString(conn, text)
	h.must(err)
	answer, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		h.t.Errorf("the connection is not closed: %v", err)
	}
	return string(answer)
}

func TestOddRequests(t *testing.T) {
	h := newHarness(t)
	admin := h.http1()
	nobody := admin.Clone()
	nobody.Certificates = nil
	const end = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	for name, c := range map[string]struct {
		config     *tls.Config
		text, code string
	}{
		"options of the server":     {nobody, "OPTIONS *" + end + "\r\n", "401"},
		"tunnel":                    {nobody, "CONNECT localhost:22" + end + "\r\n", "401"},
		"tunnel for admin":          {admin, "CONNECT localhost:22" + end + "\r\n", "405"},
		"absolute":                  {admin, "GET https://elsewhere/api/v1/namespaces" + end + "\r\n", "200"},
		"dots":                      {admin, "GET /api/v1/./namespaces/../pods" + end + "\r\n", "404"},
		"slashes":                   {admin, "GET /api/v1//pods" + end + "\r\n", "404"},
		"hidden slash":              {admin, "GET /api/v1/namespaces/default%2fpods%2fnone" + end + "\r\n", "404"},
		"zero":                      {admin, "GET /api/v1/namespaces/default/pods/a%00b" + end + "\r\n", "404"},
		"no escape":                 {admin, "GET /api/v1/%zz" + end + "\r\n", "400"},
		"headers too large":         {admin, "GET /" + end + "X: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", "431"},
		"address too long":          {admin, "GET /api/v1/pods?labelSelector=" + strings.Repeat("a,", 50<<10) + end + "\r\n", "431"},
		"lengths that differ":       {admin, "POST " + configMaps + end + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "400"},
		"negative length":           {admin, "POST " + configMaps + end + "Content-Length: -1\r\n\r\n", "400"},
		"unknown transfer encoding": {admin, "POST " + configMaps + end + "Transfer-Encoding: gzip\r\n\r\n", "501"},
		"unknown expectation":       {admin, "POST " + configMaps + end + "Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}", "417"},
		"broken chunk":              {admin, "POST " + configMaps + end + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
		"refused before its body":   {nobody, "POST " + configMaps + end + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", "401"},
		"no HTTP":                   {nobody, "\x00\x01\x02\r\n\r\n", "400"},
	} {
		if answer := h.exchange(c.config, c.text); !strings.HasPrefix(answer, "HTTP/1.1 "+c.code) {
			t.Errorf("%s: %.300q", name, answer)
		}
		h.served()
	}
	plain, err := net.Dial("tcp", h.http.Listener.Addr().String()) //nolint:noctx // a test
	h.must(err)
	defer func() { _ = plain.Close() }()
	h.must(plain.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = io.WriteString(plain, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	h.must(err)
	answer, err := io.ReadAll(plain)
	if err != nil || !strings.Contains(string(answer), "400 Bad Request") || !strings.Contains(string(answer), "HTTPS") {
		t.Errorf("without TLS: %q %v", answer, err)
	}
}

// A body that does not come is not waited for, whether or not somebody reads it.
func TestBodiesThatDoNotCome(t *testing.T) {
	h := newHarness(t)
	h.server.readTimeout = 300 * time.Millisecond
	for name, client := range map[string]*http.Client{"HTTP/1.1": h.oldHTTP(), "HTTP/2": h.admin} {
		body, rest := io.Pipe()
		r, err := http.NewRequestWithContext(t.Context(), "POST", h.http.URL+configMaps, body)
		h.must(err)
		answered := make(chan error, 1)
		go func() {
			resp, err := client.Do(r)
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusRequestTimeout {
					err = fmt.Errorf("code %d", resp.StatusCode)
				}
			}
			answered <- err
		}()
		_, err = io.WriteString(rest, `{"metadata":`)
		h.must(err)
		h.served()
		if err := <-answered; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = rest.Close()
	}
	nobody := h.http1()
	nobody.Certificates = nil
	if answer := h.exchange(nobody, "POST "+configMaps+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 401") {
		t.Errorf("refused: %.200q", answer)
	}
}

// What is passed on to a pod may take longer.
func TestSlowUploadThroughAProxy(t *testing.T) {
	h := newHarness(t)
	h.node()
	h.server.readTimeout = 100 * time.Millisecond
	path := podsPath + "p:" + page(t, echo) + "/proxy/"
	body, rest := io.Pipe()
	go func() {
		for range 6 {
			_, _ = io.WriteString(rest, "x")
			<-time.After(h.server.readTimeout / 2) // together three times what others have
		}
		_ = rest.Close()
	}()
	r, err := http.NewRequestWithContext(t.Context(), "POST", h.http.URL+path, body)
	h.must(err)
	resp, err := h.oldHTTP().Do(r)
	h.must(err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	h.must(err)
	if resp.StatusCode != http.StatusAccepted || !strings.Contains(string(text), `"Body":"xxxxxx"`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

// One address has so many connections, and fewer that ask for nothing.
func TestConnectionsOfOneAddress(t *testing.T) {
	limits := newConnections(3, 2, zap.NewNop())
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	web.Config.ConnState = limits.changed
	web.Start()
	defer web.Close()
	open := func() net.Conn {
		conn, err := net.Dial("tcp", web.Listener.Addr().String()) //nolint:noctx // a test
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
	ask := func(conn net.Conn) bool {
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		n, _ := conn.Read(make([]byte, 100))
		return n > 0
	}
	first, second, third := open(), open(), open()
	if n, err := third.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatal("a third that asks for nothing is kept")
	}
	if !ask(first) || !ask(second) {
		t.Fatal("those before are not served")
	}
	third = open()
	if !ask(third) {
		t.Error("one more is not served once others have asked")
	}
	if ask(open()) {
		t.Error("a fourth is served")
	}
	_ = first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := waitFor(ctx, func() bool { return ask(open()) }); err != nil {
		t.Errorf("a place does not become free: %v", err)
	}
}

// cutOff is a registry that cannot prove its memory current.
type cutOff struct{ registry.Registry }

var errCutOff = apierrors.NewServiceUnavailable("memory is not proven current")

func (cutOff) Get(context.Context, registry.Ref) (*store.Record, error) { return nil, errCutOff }

func (cutOff) List(context.Context, registry.Ref, registry.ListOptions) (registry.List, error) {
	return registry.List{}, errCutOff
}

func (cutOff) Do(context.Context, registry.Caller, registry.Operation) (registry.OperationResult, error) {
	return registry.OperationResult{}, errCutOff
}

// Clients of a master that is cut off are told to come again.
func TestMasterThatIsCutOff(t *testing.T) {
	h := newHarness(t)
	h.server.cfg.Registry = cutOff{h.server.cfg.Registry}
	for method, path := range map[string]string{"GET": configMaps, "PUT": configMaps + "/x", "POST": configMaps} {
		a := h.call(method, path, configMapX)
		if a.code != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "1" || a.status(t).Reason != metav1.StatusReasonServiceUnavailable {
			t.Errorf("%s %s: %d, Retry-After %q: %s", method, path, a.code, a.header.Get("Retry-After"), a.body)
		}
	}
}
