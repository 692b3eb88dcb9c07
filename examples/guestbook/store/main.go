// Command store keeps the entries of the guestbook and serves them as JSON.
//
//	GET  /entries   all entries, oldest first
//	POST /entries   adds one; repeating it with the same id changes nothing
//	GET  /healthz, /readyz
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	maxBody     = 16 << 10
	maxName     = 100
	maxMessage  = 2000
	gracePeriod = 10 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	err := run(ctx, environment("ADDRESS", ":8080"), environment("DATA_DIR", "/data"), log)
	stop()
	if err != nil {
		log.Error("failed", "error", err)
		os.Exit(1)
	}
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func run(ctx context.Context, address, dir string, log *slog.Logger) error {
	entries, err := OpenLog(filepath.Join(dir, "entries.jsonl"))
	if err != nil {
		return err
	}
	defer func() { _ = entries.Close() }() // every entry was synced before
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: routes(entries, log), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), gracePeriod)
		defer cancel()
		ended <- server.Shutdown(limited)
	})
	log.Info("serving", "address", listener.Addr().String(), "entries", len(entries.Entries()))
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	log.Info("stopped")
	return nil
}

func routes(entries *Log, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	ok := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	mux.HandleFunc("GET /healthz", ok)
	mux.HandleFunc("GET /readyz", ok) // the entries were loaded before the port was opened
	mux.HandleFunc("GET /entries", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, entries.Entries(), log)
	})
	mux.HandleFunc("POST /entries", func(w http.ResponseWriter, r *http.Request) {
		var entry Entry
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&entry); err != nil {
			http.Error(w, "the body is not an entry: "+err.Error(), http.StatusBadRequest)
			return
		}
		if err := entry.check(); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		entry.Time = time.Now().UTC()
		stored, added, err := entries.Append(entry)
		if err != nil {
			log.Error("entry not stored", "error", err)
			http.Error(w, "the entry could not be stored", http.StatusInternalServerError)
			return
		}
		status := http.StatusOK
		if added {
			status = http.StatusCreated
		}
		reply(w, status, stored, log)
	})
	return mux
}

// check says what is wrong with an entry.
func (e *Entry) check() error {
	e.Name, e.Message = strings.TrimSpace(e.Name), strings.TrimSpace(e.Message)
	switch {
	case e.ID == "" || len(e.ID) > maxName:
		return fmt.Errorf("id is required, at most %d bytes", maxName)
	case e.Name == "" || len(e.Name) > maxName:
		return fmt.Errorf("name is required, at most %d bytes", maxName)
	case e.Message == "" || len(e.Message) > maxMessage:
		return fmt.Errorf("message is required, at most %d bytes", maxMessage)
	}
	return nil
}

func reply(w http.ResponseWriter, status int, value any, log *slog.Logger) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Info("reply not sent", "error", err)
	}
}
