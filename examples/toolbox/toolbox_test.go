package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// call runs the toolbox and returns its status and all it wrote.
func call(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	status := run(t.Context(), args, &out, &out)
	return status, out.String()
}

func TestBasics(t *testing.T) {
	file := filepath.Join(t.TempDir(), "note")
	t.Setenv("GREETING", "hello there")
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"write", file, "kept"}, 0, ""},
		{[]string{"cat", file}, 0, "kept\n"},
		{[]string{"cat", file + ".missing"}, 1, "no such file"},
		{[]string{"ls", filepath.Dir(file)}, 0, "-rw-r--r--          5 " + file},
		{[]string{"env", "GREETING"}, 0, "hello there\n"},
		{[]string{"env"}, 0, "GREETING=hello there\n"},
		{[]string{"env", "NOT_SET_HERE"}, 1, "NOT_SET_HERE is not set"},
		{[]string{"echo", "a", "b"}, 0, "a b\n"},
		{[]string{"exit", "7"}, 7, ""},
		{[]string{"exit", "700"}, 1, "want 0 to 255"},
		{[]string{"sleep", "0.001"}, 0, ""},
		{[]string{"sleep", "soon"}, 1, "invalid duration"},
		{[]string{"cat"}, 2, "usage: toolbox cat FILE..."},
		{[]string{"dance"}, 2, `there is no "dance"`},
		{nil, 2, "nslookup"},
		{[]string{"memory", "lots"}, 1, "want a number"},
	} {
		status, out := call(t, test.args...)
		if status != test.status || !strings.Contains(out, test.want) {
			t.Errorf("%q: status %d, want %d; output %q, want %q", test.args, status, test.status, out, test.want)
		}
	}
}

func TestGet(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%2 == 0 && r.URL.Path == "/flaky" {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, r.Method+" "+string(body)+"\n")
	}))
	t.Cleanup(server.Close)
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"get", server.URL}, 0, "GET \n"},
		{[]string{"get", "--post", "{}", server.URL}, 0, "POST {}\n"},
		{[]string{"get", "--expect", "elephant", server.URL}, 1, `lacks "elephant"`},
		{[]string{"get", "--count", "5", "--quiet", "--fresh", server.URL}, 0, "5 requests, 0 failed\n"},
		{[]string{"get", "--count", "4", "--every", "1ms", server.URL + "/flaky"}, 1, "4 requests, 2 failed\n"},
		{[]string{"get", "--timeout", "1s", "127.0.0.1:1"}, 1, "refused"},
	} {
		requests.Store(0)
		status, out := call(t, test.args...)
		if status != test.status || !strings.Contains(out, test.want) {
			t.Errorf("%q: status %d, want %d; output %q, want %q", test.args, status, test.status, out, test.want)
		}
	}
}

func TestGetWithTrustAndToken(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Authorization")+"\n")
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"get", "-ca", ca, "-bearer", token, server.URL}, 0, "Bearer secret\n"},
		{[]string{"get", "-bearer", token, server.URL}, 1, "certificate"},
		{[]string{"get", "-ca", token, server.URL}, 1, "holds no certificate"},
		{[]string{"get", "-ca", ca, "-bearer", filepath.Join(dir, "none"), server.URL}, 1, "no such file"},
	} {
		status, out := call(t, test.args...)
		if status != test.status || !strings.Contains(out, test.want) {
			t.Errorf("%q: status %d, want %d; output %q, want %q", test.args, status, test.status, out, test.want)
		}
	}
}

func TestEchoAndSleepEndWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"tcp-echo", "127.0.0.1:0"}, writer, io.Discard) }()
	line := make([]byte, 100)
	n, err := reader.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "listening on "))
	if status, out := call(t, "tcp-send", address, "ahoy"); status != 0 || out != "ahoy\n" {
		t.Errorf("echo: status %d, %q", status, out)
	}
	cancel()
	if status := <-ended; status != 0 {
		t.Errorf("tcp-echo ended with %d", status)
	}
	if status := run(ctx, []string{"sleep"}, io.Discard, io.Discard); status != 0 {
		t.Errorf("sleep ended with %d", status)
	}
}
