package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// prober asks URLs again and again, each over a new connection, and remembers what
// failed.
type prober struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	sent     map[string]int
	failures []failure
}

type failure struct {
	url  string
	at   time.Time
	took time.Duration
	err  error
}

func (f failure) String() string {
	return fmt.Sprintf("%s %s after %s: %v", f.at.UTC().Format("15:04:05.000"), f.url, f.took.Round(time.Millisecond), f.err)
}

// probe starts to request every URL each 20 ms. A request may take 3 s.
func probe(t *testing.T, urls ...string) *prober {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &prober{cancel: cancel, sent: map[string]int{}}
	for _, url := range urls {
		p.done.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for {
				started := time.Now()
				err := request(ctx, url)
				if ctx.Err() != nil {
					return
				}
				p.note(url, started, err)
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
			}
		})
	}
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *prober) note(url string, started time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[url]++
	if err != nil {
		p.failures = append(p.failures, failure{url, started, time.Since(started), err})
	}
}

// stop ends the requests and returns the failures.
func (p *prober) stop() []failure {
	p.cancel()
	p.done.Wait()
	return p.failures
}

// lastFailure is the end of the last request that failed.
func (p *prober) lastFailure() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	var last time.Time
	for _, f := range p.failures {
		if end := f.at.Add(f.took); end.After(last) {
			last = end
		}
	}
	return last
}

// mustNotHaveFailed ends the requests; each URL must have answered every time.
func (p *prober) mustNotHaveFailed(t *testing.T) {
	t.Helper()
	failures := p.stop()
	total := 0
	for url, sent := range p.sent {
		if total += sent; sent < 5 {
			t.Errorf("only %d requests to %s were sent", sent, url)
		}
	}
	if len(failures) == 0 {
		t.Logf("%d requests to %d addresses, none failed", total, len(p.sent))
		return
	}
	var lines []string
	for _, f := range failures[:min(len(failures), 20)] {
		lines = append(lines, f.String())
	}
	t.Errorf("%d of %d requests failed, the first:\n%s", len(failures), total, strings.Join(lines, "\n"))
}

// request gets a URL over a new connection; any answer but 200 is an error. A URL of
// scheme tcp is an echo server.
func request(ctx context.Context, url string) error {
	if address, ok := strings.CutPrefix(url, "tcp://"); ok {
		return echo(ctx, address)
	}
	_, err := fetch(ctx, url)
	return err
}

func echo(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("ahoy")); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 4))
	return err
}

func fetch(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}
