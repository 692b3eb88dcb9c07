package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
)

const maxForm = 16 << 10

// Site serves the guestbook's pages.
type Site struct {
	title, host string
	store       *Store
	log         *slog.Logger
	page        *template.Template
	leaving     atomic.Bool
}

// NewSite returns a site over store that says it is served by host.
func NewSite(title, host string, store *Store, log *slog.Logger) *Site {
	return &Site{title: title, host: host, store: store, log: log, page: newPage()}
}

// Leave makes readiness fail from now on.
func (s *Site) Leave() { s.leaving.Store(true) }

// Routes returns the handler of all paths.
func (s *Site) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("POST /sign", s.sign)
	mux.HandleFunc("GET /entries", s.entries)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", s.ready)
	return mux
}

// view is the data of the page and, but for Error, of /entries.
type view struct {
	Title   string  `json:"title"`
	Host    string  `json:"host"`
	Entries []Entry `json:"entries"`
	Error   string  `json:"-"`
}

func (s *Site) show(w http.ResponseWriter, r *http.Request) {
	entries, err := s.store.Entries(r.Context())
	if err != nil {
		s.log.Error("entries not read", "error", err)
		s.render(w, http.StatusServiceUnavailable, view{Error: "The entries cannot be read at the moment. Please come back later."})
		return
	}
	slices.Reverse(entries) // the newest on top
	s.render(w, http.StatusOK, view{Entries: entries})
}

func (s *Site) sign(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		s.render(w, http.StatusBadRequest, view{Error: "The form could not be read: " + err.Error()})
		return
	}
	err := s.store.Add(r.Context(), Entry{ID: rand.Text(), Name: r.PostForm.Get("name"), Message: r.PostForm.Get("message")})
	var refused *RefusedError
	switch {
	case err == nil:
		http.Redirect(w, r, "/", http.StatusSeeOther)
	case errors.As(err, &refused):
		s.render(w, http.StatusUnprocessableEntity, view{Error: "Not added: " + refused.Reason + "."})
	default:
		s.log.Error("entry not stored", "error", err)
		s.render(w, http.StatusServiceUnavailable, view{Error: "Your entry could not be stored. Please try again."})
	}
}

func (s *Site) render(w http.ResponseWriter, status int, v view) {
	v.Title, v.Host = s.title, s.host
	var body bytes.Buffer
	if err := s.page.Execute(&body, v); err != nil {
		s.log.Error("page not rendered", "error", err)
		http.Error(w, "the page could not be rendered", http.StatusInternalServerError)
		return
	}
	s.send(w, status, "text/html; charset=utf-8", body.Bytes())
}

func (s *Site) entries(w http.ResponseWriter, r *http.Request) {
	entries, err := s.store.Entries(r.Context())
	if err != nil {
		s.log.Error("entries not read", "error", err)
		http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
		return
	}
	body, err := json.Marshal(view{Title: s.title, Host: s.host, Entries: entries})
	if err != nil {
		http.Error(w, "the entries could not be encoded", http.StatusInternalServerError)
		return
	}
	s.send(w, http.StatusOK, "application/json", append(body, '\n'))
}

func (s *Site) ready(w http.ResponseWriter, r *http.Request) {
	if s.leaving.Load() {
		http.Error(w, "about to end", http.StatusServiceUnavailable)
		return
	}
	if err := s.store.Ready(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (s *Site) send(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.log.Info("reply not sent", "error", err)
	}
}
