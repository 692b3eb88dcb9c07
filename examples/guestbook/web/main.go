// Command web is the front end of the guestbook.
//
//	GET  /          the page
//	POST /sign      adds an entry and returns to the page
//	GET  /entries   the entries as JSON, and which pod served them
//	GET  /healthz   the program runs
//	GET  /readyz    the store answers and the program is not about to end
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const gracePeriod = 10 * time.Second

// config comes from the environment.
type config struct {
	address, title, storeURL string
	// drain is how long to go on serving while not ready, so that whoever sends
	// traffic here learns of it first.
	drain time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	err := start(ctx, log)
	stop()
	if err != nil {
		log.Error("failed", "error", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, log *slog.Logger) error {
	drain, err := time.ParseDuration(environment("DRAIN", "3s"))
	if err != nil {
		return fmt.Errorf("DRAIN: %w", err)
	}
	cfg := config{
		address: environment("ADDRESS", ":8080"), title: environment("TITLE", "Guestbook"),
		storeURL: os.Getenv("STORE_URL"), drain: drain,
	}
	if cfg.storeURL == "" {
		return errors.New("STORE_URL is not set: it names the store, such as http://guestbook-store")
	}
	return run(ctx, cfg, log)
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func run(ctx context.Context, cfg config, log *slog.Logger) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	site := NewSite(cfg.title, host, NewStore(cfg.storeURL), log)
	server := &http.Server{Handler: site.Routes(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() { ended <- shutdown(context.WithoutCancel(ctx), server, site, cfg.drain) })
	log.Info("serving", "address", listener.Addr().String(), "store", cfg.storeURL)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	log.Info("stopped")
	return nil
}

// shutdown fails readiness and asks clients to close their connections, serves a
// while longer, and then finishes what is under way.
func shutdown(ctx context.Context, server *http.Server, site *Site, drain time.Duration) error {
	site.Leave()
	server.SetKeepAlivesEnabled(false)
	pause := time.NewTimer(drain)
	defer pause.Stop()
	<-pause.C
	ctx, cancel := context.WithTimeout(ctx, gracePeriod)
	defer cancel()
	return server.Shutdown(ctx)
}
