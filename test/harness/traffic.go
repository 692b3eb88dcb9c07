package harness

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Request gets a URL over a new connection, in 3 s at most; any answer but 200 is an
// error. A URL of scheme tcp is an echo server.
func Request(ctx context.Context, url string) error {
	if address, ok := strings.CutPrefix(url, "tcp://"); ok {
		return echo(ctx, address)
	}
	_, err := Fetch(ctx, url)
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

// Fetch is Request for a page that is looked at.
func Fetch(ctx context.Context, url string) (string, error) {
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

// Prober requests URLs again and again and remembers what failed.
type Prober struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	sent     map[string]int
	failures []Failure
}

// Failure is a request that failed.
type Failure struct {
	URL   string
	Began time.Time
	Took  time.Duration
	Err   error
}

// End is when it failed.
func (f Failure) End() time.Time { return f.Began.Add(f.Took) }

func (f Failure) String() string {
	return fmt.Sprintf("%s %s after %s: %v", f.Began.UTC().Format("15:04:05.000"), f.URL, f.Took.Round(time.Millisecond), f.Err)
}

// Probe starts to make a Request to every URL each 20 ms, until Stop or the test's end.
func Probe(t testing.TB, urls ...string) *Prober {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &Prober{cancel: cancel, sent: map[string]int{}}
	for _, url := range urls {
		p.sent[url] = 0
		p.done.Go(func() {
			repeat(ctx, 20*time.Millisecond, func(int) {
				began := time.Now()
				if err := Request(ctx, url); ctx.Err() == nil {
					p.note(url, began, err)
				}
			})
		})
	}
	t.Cleanup(func() { p.Stop() })
	return p
}

// repeat acts at this pace, or as fast as it can.
func repeat(ctx context.Context, pace time.Duration, act func(number int)) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for number := 0; ctx.Err() == nil; number++ {
		act(number)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func (p *Prober) note(url string, began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[url]++
	if err != nil {
		p.failures = append(p.failures, Failure{url, began, time.Since(began), err})
	}
}

// Await waits until so many more requests to each URL have ended.
func (p *Prober) Await(t testing.TB, more int) {
	t.Helper()
	p.mu.Lock()
	before := maps.Clone(p.sent)
	p.mu.Unlock()
	Eventually(t, time.Minute, fmt.Sprintf("%d more requests to each address", more), func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for url, sent := range p.sent {
			if sent < before[url]+more {
				return fmt.Errorf("%d to %s", sent-before[url], url)
			}
		}
		return nil
	})
}

// Stop ends the requests and returns those that failed.
func (p *Prober) Stop() []Failure {
	p.cancel()
	p.done.Wait()
	return p.failures
}

// MustNotHaveFailed ends the requests; each URL must have answered every time.
func (p *Prober) MustNotHaveFailed(t testing.TB) {
	t.Helper()
	failures := p.Stop()
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
	t.Errorf("%d of %d requests failed, the first:\n%s", len(failures), total, Failures(failures))
}

// Failures lists the first failures, one a line.
func Failures(failures []Failure) string {
	var lines []string
	for _, f := range failures[:min(len(failures), 20)] {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// Writer makes ConfigMaps again and again and remembers which were acknowledged.
type Writer struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu           sync.Mutex
	acknowledged []string
	wrong        []string
	last         time.Time
	longest      time.Duration // between two acknowledgements
}

// Create stores a ConfigMap that has a name and data, and no namespace.
type Create func(ctx context.Context, configMap *corev1.ConfigMap) error

// Write starts to create ConfigMaps in each of these ways at the same time, at this pace,
// until the test's end.
func Write(t testing.TB, pace time.Duration, ways ...Create) *Writer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writer{cancel: cancel, last: time.Now()}
	for i, create := range ways {
		w.done.Go(func() {
			repeat(ctx, pace, func(number int) {
				name := fmt.Sprintf("w%d-%d", i, number)
				w.note(name, create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"number": name}}))
			})
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *Writer) note(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		now := time.Now()
		w.longest = max(w.longest, now.Sub(w.last))
		w.last = now
		w.acknowledged = append(w.acknowledged, name)
	case apierrors.IsAlreadyExists(err):
		w.wrong = append(w.wrong, name+" exists already, though nobody was told that it was made")
	}
}

func (w *Writer) stop() {
	w.cancel()
	w.done.Wait()
}

// Acknowledged is how many writes were acknowledged so far.
func (w *Writer) Acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acknowledged)
}

// Await waits up to 20 s until so many more writes are acknowledged.
func (w *Writer) Await(t testing.TB, more int) {
	t.Helper()
	before := w.Acknowledged()
	Eventually(t, 20*time.Second, fmt.Sprintf("%d more writes", more), func() error {
		if have := w.Acknowledged() - before; have < more {
			return fmt.Errorf("%d so far", have)
		}
		return nil
	})
}

// MustBeThere ends the writes; what was acknowledged, enough to tell, must be there as
// list shows.
func (w *Writer) MustBeThere(t testing.TB, enough int, list func() ([]*corev1.ConfigMap, error)) {
	t.Helper()
	w.stop()
	all, err := list()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, configMap := range all {
		if configMap.Data["number"] == configMap.Name {
			there[configMap.Name] = true
		}
	}
	var lost []string
	for _, name := range w.acknowledged {
		if !there[name] {
			lost = append(lost, name)
		}
	}
	t.Logf("%d writes acknowledged; at most %s from one to the next", len(w.acknowledged), w.longest.Round(time.Millisecond))
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %s", len(lost), len(w.acknowledged), strings.Join(lost, " "))
	}
	for _, text := range w.wrong {
		t.Error(text)
	}
	if len(w.acknowledged) < enough {
		t.Errorf("only %d writes were acknowledged", len(w.acknowledged))
	}
}
