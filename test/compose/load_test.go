package compose

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
)

// fetch gets a page over a new connection.
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
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return string(body), err
}

// load are requests to a URL and writes to the masters that go on meanwhile.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu           sync.Mutex
	requests     int
	failures     []string
	acknowledged []string
	last         time.Time
	longest      time.Duration // between two acknowledgements
}

func (d *demo) load(t *testing.T, url string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, last: time.Now()}
	every := func(pause time.Duration, act func(number int)) {
		l.done.Go(func() {
			pace := time.NewTicker(pause)
			defer pace.Stop()
			for number := 0; ; number++ {
				act(number)
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
			}
		})
	}
	every(50*time.Millisecond, func(int) {
		_, err := fetch(ctx, url)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.requests++
		if err != nil && ctx.Err() == nil {
			l.failures = append(l.failures, err.Error())
		}
	})
	every(20*time.Millisecond, func(number int) {
		name := fmt.Sprintf("written-%d", number)
		callCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_, err := d.api.Create(callCtx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}})
		l.mu.Lock()
		defer l.mu.Unlock()
		if err == nil {
			l.longest = max(l.longest, time.Since(l.last))
			l.last = time.Now()
			l.acknowledged = append(l.acknowledged, name)
		}
	})
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

// writes tells how many writes were acknowledged so far.
func (l *load) writes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acknowledged)
}

// check ends the load: no request may have failed, and what was acknowledged must be
// there.
func (l *load) check(t *testing.T, d *demo) {
	t.Helper()
	l.stop()
	page, err := client.List[*corev1.ConfigMap](t.Context(), d.api, client.ListOptions{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, object := range page.Items {
		there[object.Name] = true
	}
	var lost []string
	for _, name := range l.acknowledged {
		if !there[name] {
			lost = append(lost, name)
		}
	}
	t.Logf("%d requests, %d failed; %d writes acknowledged, at most %s from one to the next, %d lost",
		l.requests, len(l.failures), len(l.acknowledged), l.longest.Round(time.Millisecond), len(lost))
	if len(lost) > 0 {
		t.Errorf("acknowledged writes are lost: %s", strings.Join(lost, " "))
	}
	if len(l.failures) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(l.failures), l.requests, l.failures[0])
	}
	if l.requests < 20 || len(l.acknowledged) < 20 {
		t.Error("too few to tell")
	}
}
