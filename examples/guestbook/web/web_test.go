package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeStore keeps entries and can be told to fail.
type fakeStore struct {
	mu      sync.Mutex
	entries []Entry
	status  int // 0 answers normally
	fail    int // how many requests to break off first
}

func (f *fakeStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.fail > 0:
		f.fail--
		panic(http.ErrAbortHandler) // the connection breaks without an answer
	case f.status != 0:
		http.Error(w, "message is required", f.status)
	case r.Method == http.MethodPost:
		var entry Entry
		if err := json.NewDecoder(r.Body).Decode(&entry); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.entries = append(f.entries, entry)
		w.WriteHeader(http.StatusCreated)
	case r.URL.Path == "/entries":
		_ = json.NewEncoder(w).Encode(append([]Entry{}, f.entries...))
	}
}

// site serves a guestbook over store and returns a client that does not follow redirects.
func site(t *testing.T, store http.Handler) (*Site, string, *http.Client) {
	t.Helper()
	backend := httptest.NewServer(store)
	t.Cleanup(backend.Close)
	s := NewSite("Our guests", "pod-1", NewStore(backend.URL), slog.New(slog.DiscardHandler))
	front := httptest.NewServer(s.Routes())
	t.Cleanup(front.Close)
	client := front.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s, front.URL, client
}

func send(t *testing.T, client *http.Client, method, target string, form url.Values) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestSignAndRead(t *testing.T) {
	store := &fakeStore{}
	_, base, client := site(t, store)
	form := url.Values{"name": {"Ada"}, "message": {"<b>hello</b>"}}
	if status, body := send(t, client, "POST", base+"/sign", form); status != http.StatusSeeOther {
		t.Fatalf("sign: %d %s", status, body)
	}
	status, page := send(t, client, "GET", base+"/", nil)
	for _, want := range []string{"Our guests", "Ada", "&lt;b&gt;hello", "Served by pod-1"} {
		if status != http.StatusOK || !strings.Contains(page, want) {
			t.Errorf("page: %d, without %q: %s", status, want, page)
		}
	}
	var got view
	status, body := send(t, client, "GET", base+"/entries", nil)
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
		t.Fatalf("entries: %d %s: %v", status, body, err)
	}
	if got.Host != "pod-1" || len(got.Entries) != 1 || got.Entries[0].ID == "" {
		t.Errorf("entries: %+v", got)
	}
}

func TestAStoreInTroubleIsToldNotHidden(t *testing.T) {
	store := &fakeStore{status: http.StatusInternalServerError}
	_, base, client := site(t, store)
	for _, path := range []string{"/", "/entries", "/readyz"} {
		if status, body := send(t, client, "GET", base+path, nil); status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if status, _ := send(t, client, "GET", base+"/healthz", nil); status != http.StatusOK {
		t.Errorf("healthz: %d, but a restart would not help", status)
	}
	store.status = http.StatusUnprocessableEntity
	status, body := send(t, client, "POST", base+"/sign", url.Values{"name": {"Ada"}})
	if status != http.StatusUnprocessableEntity || !strings.Contains(body, "message is required") {
		t.Errorf("sign: %d %s", status, body)
	}
}

func TestABrokenConnectionIsTriedAgain(t *testing.T) {
	store := &fakeStore{fail: 1}
	_, base, client := site(t, store)
	form := url.Values{"name": {"Ada"}, "message": {"hello"}}
	if status, body := send(t, client, "POST", base+"/sign", form); status != http.StatusSeeOther {
		t.Fatalf("sign: %d %s", status, body)
	}
}

func TestReadinessFailsBeforeTheEnd(t *testing.T) {
	backend := httptest.NewServer(&fakeStore{})
	t.Cleanup(backend.Close)
	s := NewSite("t", "h", NewStore(backend.URL), slog.New(slog.DiscardHandler))
	front := httptest.NewUnstartedServer(s.Routes())
	front.Start()
	t.Cleanup(front.Close)
	if status, body := send(t, front.Client(), "GET", front.URL+"/readyz", nil); status != http.StatusOK {
		t.Fatalf("ready at first: %d %s", status, body)
	}
	ended := make(chan error, 1)
	go func() { ended <- shutdown(context.WithoutCancel(t.Context()), front.Config, s, 300*time.Millisecond) }()
	deadline := time.After(10 * time.Second)
	for status := http.StatusOK; status != http.StatusServiceUnavailable; {
		status, _ = send(t, front.Client(), "GET", front.URL+"/readyz", nil) // served until shutdown proper
		select {
		case <-deadline:
			t.Fatal("still ready")
		default:
		}
	}
	if status, _ := send(t, front.Client(), "GET", front.URL+"/", nil); status != http.StatusOK {
		t.Errorf("not served while draining: %d", status)
	}
	if err := <-ended; err != nil {
		t.Errorf("shut down: %v", err)
	}
}
