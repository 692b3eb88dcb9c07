package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	storeTimeout = 2 * time.Second
	maxReply     = 8 << 20
)

// Entry is one line of the guestbook, as the store keeps it.
type Entry struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
}

// Store is a client of the store.
type Store struct {
	url  string
	http *http.Client
}

// NewStore returns a client of the store at url.
func NewStore(url string) *Store {
	return &Store{url: strings.TrimSuffix(url, "/"), http: &http.Client{
		Timeout:   storeTimeout,
		Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
	}}
}

// RefusedError is what the store says about an entry it does not accept.
type RefusedError struct{ Reason string }

// Error returns the reason.
func (e *RefusedError) Error() string { return e.Reason }

// Ready says whether the store answers.
func (s *Store) Ready(ctx context.Context) error {
	_, err := s.do(ctx, http.MethodGet, "/readyz", nil)
	return err
}

// Entries returns all entries, oldest first.
func (s *Store) Entries(ctx context.Context) ([]Entry, error) {
	body, err := s.do(ctx, http.MethodGet, "/entries", nil)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	if err := json.Unmarshal(body, &entries); err != nil {
		return nil, fmt.Errorf("entries of the store: %w", err)
	}
	return entries, nil
}

// Add stores an entry. The entry's id makes it safe to send twice.
func (s *Store) Add(ctx context.Context, entry Entry) error {
	body, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("entry: %w", err)
	}
	_, err = s.do(ctx, http.MethodPost, "/entries", body)
	return err
}

// do sends a request, and once more over a new connection if the first got no
// answer: an idle connection may lead to a pod that is gone.
func (s *Store) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	reply, err := s.once(ctx, method, path, body)
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
		return reply, err
	}
	s.http.CloseIdleConnections()
	return s.once(ctx, method, path, body)
}

func (s *Store) once(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	response, err := s.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	switch {
	case response.StatusCode < http.StatusBadRequest:
		return reply, nil
	case response.StatusCode < http.StatusInternalServerError:
		return nil, &RefusedError{Reason: strings.TrimSpace(string(reply))}
	default:
		return nil, fmt.Errorf("store: %s", response.Status)
	}
}
