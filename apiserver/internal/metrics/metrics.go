// Package metrics counts what this apiserver does, for Prometheus: under Kubernetes' names
// where Kubernetes has one, so that existing dashboards and alerts read it, and under kijabi_
// for what only Kijabi has.
package metrics

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Doors, the values of the label "door".
const (
	DoorREST = "rest"
	DoorGRPC = "grpc"
)

// Request says which series a request belongs to. All values come from small sets.
type Request struct {
	Door string
	// Verb as Kubernetes' metrics have it: LIST, POST, …
	Verb                                  string
	Group, Version, Resource, Subresource string
	// Scope is resource for a named object, namespace or cluster for collections, else empty.
	Scope  string
	DryRun bool
	// Mutating requests are counted apart while they are in flight.
	Mutating bool
	// Long requests last as long as their client likes.
	Long bool
}

// series are the metrics of one kind of Request.
type series struct {
	duration prometheus.Observer
	flight   prometheus.Gauge
}

// total is the counter of one kind of Request with one outcome.
type total struct {
	Request
	code int
}

// Metrics of one apiserver. All methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	inFlight  *prometheus.GaugeVec
	long      *prometheus.GaugeVec
	watched   *prometheus.CounterVec
	storage   *storageMetrics
	forwarded *prometheus.CounterVec
	admission *admissionMetrics

	mu     sync.RWMutex
	kinds  map[Request]series
	totals map[total]prometheus.Counter
}

// durationBuckets are seconds; Kubernetes' alerts ask for 0.4, 1, 5, 30 and 60.
var durationBuckets = []float64{ //nolint:gochecknoglobals // a constant
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 15, 30, 45, 60,
}

// New returns metrics with those of the process and the Go runtime.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), kinds: map[Request]series{}, totals: map[total]prometheus.Counter{}}
	labels := []string{"door", "verb", "group", "version", "resource", "subresource", "scope", "component"}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "apiserver_request_total", Help: "Requests answered, by outcome.",
	}, append([]string{"dry_run", "code"}, labels...))
	m.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "apiserver_request_duration_seconds", Help: "Time from a request's arrival to the end of its answer.", Buckets: durationBuckets,
	}, append([]string{"dry_run"}, labels...))
	m.inFlight = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "apiserver_current_inflight_requests", Help: "Requests being served, besides long-running ones.",
	}, []string{"request_kind"})
	m.long = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "apiserver_longrunning_requests", Help: "Watches and streams being served.",
	}, labels)
	m.watched = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "apiserver_watch_events_total", Help: "Events sent to watches.",
	}, []string{"group", "version", "resource"})
	m.forwarded = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kijabi_forwarded_writes_total", Help: "Requests that this master passed on to the leader, by outcome.",
	}, []string{"outcome"})
	m.storage = newStorageMetrics()
	m.registry.MustRegister(m.requests, m.durations, m.inFlight, m.long, m.watched, m.forwarded,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.storage.all()...)
	m.admission = newAdmissionMetrics()
	m.registry.MustRegister(m.admission.all()...)
	return m
}

// Handler answers with all metrics as text.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true})
}

// component is the label that Kubernetes' dashboards select by.
const component = "apiserver"

func (r Request) labels() []string {
	return []string{r.Door, r.Verb, r.Group, r.Version, r.Resource, r.Subresource, r.Scope, component}
}

func (m *Metrics) seriesOf(r Request) series {
	m.mu.RLock()
	s, known := m.kinds[r]
	m.mu.RUnlock()
	if known {
		return s
	}
	labels := r.labels()
	s.duration = m.durations.WithLabelValues(append([]string{dryRun(r.DryRun)}, labels...)...)
	switch {
	case r.Long:
		s.flight = m.long.WithLabelValues(labels...)
	case r.Mutating:
		s.flight = m.inFlight.WithLabelValues("mutating")
	default:
		s.flight = m.inFlight.WithLabelValues("readOnly")
	}
	m.mu.Lock()
	m.kinds[r] = s
	m.mu.Unlock()
	return s
}

func (m *Metrics) counter(t total) prometheus.Counter {
	m.mu.RLock()
	c, known := m.totals[t]
	m.mu.RUnlock()
	if known {
		return c
	}
	c = m.requests.WithLabelValues(append([]string{dryRun(t.DryRun), strconv.Itoa(t.code)}, t.labels()...)...)
	m.mu.Lock()
	m.totals[t] = c
	m.mu.Unlock()
	return c
}

func dryRun(asked bool) string {
	if asked {
		return "All"
	}
	return ""
}

// Began counts a request in flight until Ended.
func (m *Metrics) Began(r Request) { m.seriesOf(r).flight.Inc() }

// Ended ends what Began began.
func (m *Metrics) Ended(r Request) { m.seriesOf(r).flight.Dec() }

// Answered counts a request with its outcome, an HTTP status.
func (m *Metrics) Answered(r Request, code int, took time.Duration) {
	m.counter(total{r, code}).Inc()
	m.seriesOf(r).duration.Observe(took.Seconds())
}

// Watched is the counter of events sent to watches of a resource.
func (m *Metrics) Watched(group, version, resource string) prometheus.Counter {
	return m.watched.WithLabelValues(group, version, resource)
}
