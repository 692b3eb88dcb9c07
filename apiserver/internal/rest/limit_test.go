package rest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/flowcontrol"
	"kijabi.dev/apiserver/internal/traffic"
)

const asJane = "Impersonate-User: jane"

// limited is a door whose level for users has one seat.
func limited(t *testing.T, reject bool) (*harness, *flowcontrol.Limiter, *audittest.Log) {
	t.Helper()
	h := newRealHarness(t)
	h.allMayAll()
	limiter := flowcontrol.New(flowcontrol.Config{Concurrency: 1})
	if reject {
		limiter.Configure(nil, []*flowcontrolv1.PriorityLevelConfiguration{{
			ObjectMeta: metav1.ObjectMeta{Name: "global-default", UID: "uid-of-the-level"},
			Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
				Type: flowcontrolv1.PriorityLevelEnablementLimited,
				Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
					NominalConcurrencyShares: new(int32(20)), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
				},
			},
		}})
	}
	log := audittest.Open(t)
	h.server.cfg.Traffic = traffic.New(traffic.Config{Limiter: limiter, Audit: log.Log, Clock: h.clock})
	return h, limiter, log
}

func used(limiter *flowcontrol.Limiter) int {
	for _, load := range limiter.Loads() {
		if load.Level == "global-default" {
			return load.Used
		}
	}
	return -1
}

// A user whose requests take all seats is told to come again; administrators are not concerned.
func TestTooManyRequests(t *testing.T) {
	h, limiter, log := limited(t, true)
	body, rest := io.Pipe()
	slow, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.http.URL+"/api/v1/namespaces/default/configmaps", body)
	h.must(err)
	slow.Header.Set("Impersonate-User", "jane")
	answers := make(chan int, 1)
	var group sync.WaitGroup
	group.Go(func() {
		resp, err := h.admin.Do(slow)
		if err != nil {
			t.Error(err)
			answers <- 0
			return
		}
		_ = resp.Body.Close()
		answers <- resp.StatusCode
	})
	_, err = io.WriteString(rest, `{"metadata":`)
	h.must(err)
	h.must(waitFor(t.Context(), func() bool { return used(limiter) == 1 }))

	a := h.call("GET", "/api/v1/pods", "", asJane)
	status := a.status(t)
	if a.code != http.StatusTooManyRequests || status.Reason != metav1.StatusReasonTooManyRequests || a.header.Get("Retry-After") != "1" {
		t.Errorf("%d, Retry-After %q: %s", a.code, a.header.Get("Retry-After"), a.body)
	}
	if a := h.call("GET", "/api/v1/pods", ""); a.code != http.StatusOK {
		t.Errorf("administrator: %d %s", a.code, a.body)
	}
	if a := h.callAs(h.nobody, "GET", "/readyz", ""); a.code != http.StatusOK {
		t.Errorf("probe: %d %s", a.code, a.body)
	}

	_, err = io.WriteString(rest, `{"name":"c"}}`)
	h.must(err)
	h.must(rest.Close())
	group.Wait()
	if code := <-answers; code != http.StatusCreated {
		t.Errorf("the slow request: %d", code)
	}
	a = h.call("GET", "/api/v1/pods", "", asJane)
	if a.code != http.StatusOK || a.header.Get("X-Kubernetes-PF-PriorityLevel-UID") != "uid-of-the-level" {
		t.Errorf("afterwards: %d, level %q", a.code, a.header.Get("X-Kubernetes-PF-PriorityLevel-UID"))
	}
	events, _ := log.Events(4)
	refused := 0
	for _, e := range events {
		if e.ResponseStatus.Code == http.StatusTooManyRequests && e.ResponseStatus.Reason == "TooManyRequests" && e.ImpersonatedUser.Username == "jane" {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d refusals are in the audit log", refused)
	}
}

// A watch holds its seat only until it has begun.
func TestWatchesAreCountedWhileTheyStart(t *testing.T) {
	h, limiter, _ := limited(t, true)
	for range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.http.URL+"/api/v1/pods?watch=true", nil)
		h.must(err)
		r.Header.Set("Impersonate-User", "jane")
		resp, err := h.admin.Do(r)
		h.must(err)
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("watch: %d", resp.StatusCode)
		}
	}
	if n := used(limiter); n != 0 {
		t.Errorf("%d seats are held by watches", n)
	}
	if a := h.call("GET", "/api/v1/pods", "", asJane); a.code != http.StatusOK {
		t.Errorf("beside watches: %d", a.code)
	}
}

// More requests than seats, of several users at once: they wait, and all are served.
func TestRequestsWaitTheirTurn(t *testing.T) {
	h, limiter, _ := limited(t, false)
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			user := fmt.Sprintf("Impersonate-User: user-%d", i%3)
			if a := h.call("POST", "/api/v1/namespaces/default/configmaps", fmt.Sprintf(`{"metadata":{"name":"c-%d"}}`, i), user); a.code != http.StatusCreated {
				t.Errorf("%d: %d %s", i, a.code, a.body)
			}
		})
	}
	group.Wait()
	h.must(waitFor(t.Context(), func() bool { return used(limiter) == 0 }))
	if a := h.call("GET", "/api/v1/namespaces/default/configmaps", ""); strings.Count(string(a.body), `"name":"c-`) != 60 {
		t.Errorf("%d ConfigMaps", strings.Count(string(a.body), `"name":"c-`))
	}
}

// Who leaves while waiting frees its place, and is not served behind its back.
func TestClientThatLeavesTheQueue(t *testing.T) {
	h, limiter, _ := limited(t, false)
	seat, err := limiter.Acquire(t.Context(), flowcontrol.Request{User: "other", Groups: []string{"system:authenticated"}, Verb: "get", Path: "/apis"})
	h.must(err)
	impatient := *h.admin
	impatient.Timeout = 50 * time.Millisecond
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.http.URL+"/api/v1/namespaces/default/configmaps", strings.NewReader(`{"metadata":{"name":"c"}}`))
	h.must(err)
	r.Header.Set("Impersonate-User", "jane")
	if resp, err := impatient.Do(r); err == nil {
		_ = resp.Body.Close()
		t.Errorf("served without a seat: %d", resp.StatusCode)
	}
	h.must(waitFor(t.Context(), func() bool {
		for _, load := range limiter.Loads() {
			if load.Level == "global-default" {
				return load.Waiting == 0 && load.Rejected[flowcontrol.ReasonCancelled] == 1
			}
		}
		return false
	}))
	seat.Release()
	if a := h.call("GET", "/api/v1/namespaces/default/configmaps/c", ""); a.code != http.StatusNotFound {
		t.Errorf("written without a client: %d", a.code)
	}
}
