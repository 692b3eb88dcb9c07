package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestEntriesSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "entries.jsonl")
	l := open(t, path)
	for _, id := range []string{"a", "b", "a"} {
		if _, _, err := l.Append(Entry{ID: id, Name: "n", Message: "m"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	torn, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"id":"c","na`); err != nil {
		t.Fatal(err)
	}
	if err := torn.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	if _, added, err := l.Append(Entry{ID: "d", Name: "n", Message: "m"}); err != nil || !added {
		t.Fatalf("append after the restart: %t, %v", added, err)
	}
	if _, added, _ := l.Append(Entry{ID: "a"}); added {
		t.Error("a repeated entry was added after the restart")
	}
	var ids strings.Builder
	for _, e := range open(t, path).Entries() {
		ids.WriteString(e.ID)
	}
	if ids.String() != "abd" {
		t.Errorf("entries %q, want abd", ids.String())
	}
}

func TestLogForgetsTheOldest(t *testing.T) {
	l := &Log{known: map[string]int{}}
	for i := range 2*maxEntries + 1 {
		l.remember(Entry{ID: strconv.Itoa(i)})
	}
	if len(l.entries) > maxEntries || len(l.known) != len(l.entries) {
		t.Fatalf("%d entries, %d known", len(l.entries), len(l.known))
	}
	for id, at := range l.known {
		if l.entries[at].ID != id {
			t.Fatalf("id %s is said to be at %d", id, at)
		}
	}
}

func TestRoutes(t *testing.T) {
	handler := routes(open(t, filepath.Join(t.TempDir(), "log")), slog.New(slog.DiscardHandler))
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/entries", "", http.StatusOK, "[]"},
		{"POST", "/entries", `{"id":"1","name":" Ada ","message":"hello"}`, http.StatusCreated, `"name":"Ada"`},
		{"POST", "/entries", `{"id":"1","name":"Ada","message":"again"}`, http.StatusOK, `"message":"hello"`},
		{"POST", "/entries", `{"id":"2","name":" ","message":"m"}`, http.StatusUnprocessableEntity, "name is required"},
		{"POST", "/entries", `{`, http.StatusBadRequest, "not an entry"},
		{"GET", "/entries", "", http.StatusOK, `"id":"1"`},
		{"GET", "/readyz", "", http.StatusOK, ""},
		{"GET", "/elsewhere", "", http.StatusNotFound, ""},
	} {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), test.method, test.path, strings.NewReader(test.body)))
		body, err := io.ReadAll(recorder.Body)
		if err != nil {
			t.Fatal(err)
		}
		if recorder.Code != test.status || !strings.Contains(string(body), test.want) {
			t.Errorf("%s %s %s: %d %s", test.method, test.path, test.body, recorder.Code, body)
		}
	}
}
