// Package metrics tells Prometheus what the loops do, under the names that Kubernetes'
// controllers use, so that existing dashboards and alerts read it. Nothing is counted here:
// each reading asks the loops.
package metrics

import (
	"bytes"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"kijabi.dev/platform/kube/controller"
)

// Config of Metrics; every field is required.
type Config struct {
	// Loops describes every loop.
	Loops func() []controller.LoopStatus
	// Leading says whether the loops run, and Epoch under which leadership.
	Leading func() (leading bool, epoch uint64)
}

// Metrics of one controller-manager. Safe for concurrent use.
type Metrics struct{ registry *prometheus.Registry }

// New returns metrics with those of the process and the Go runtime.
func New(cfg Config) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(newLoops(cfg), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Page is all metrics as Prometheus' text, and its media type.
func (m *Metrics) Page() (contentType string, text []byte, err error) {
	families, err := m.registry.Gather()
	if err != nil {
		return "", nil, fmt.Errorf("gather metrics: %w", err)
	}
	var out bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	encoder := expfmt.NewEncoder(&out, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return "", nil, fmt.Errorf("write metrics: %w", err)
		}
	}
	return string(format), out.Bytes(), nil
}

// figure is a number of each loop.
type figure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*controller.LoopStatus) float64
}

// histogram is a distribution of each loop.
type histogram struct {
	desc  *prometheus.Desc
	value func(*controller.LoopStatus) controller.Histogram
}

// loops collects what the loops say of themselves.
type loops struct {
	cfg            Config
	figures        []figure
	histograms     []histogram
	leading, epoch *prometheus.Desc
}

var _ prometheus.Collector = (*loops)(nil)

func newLoops(cfg Config) *loops {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, []string{"name"}, nil) }
	gauge := func(name, help string, value func(*controller.LoopStatus) float64) figure {
		return figure{desc(name, help), prometheus.GaugeValue, value}
	}
	counter := func(name, help string, value func(*controller.LoopStatus) int64) figure {
		return figure{desc(name, help), prometheus.CounterValue, func(s *controller.LoopStatus) float64 { return float64(value(s)) }}
	}
	return &loops{
		cfg: cfg,
		figures: []figure{
			gauge("workqueue_depth", "Keys that are due and wait for a worker.", func(s *controller.LoopStatus) float64 { return float64(s.Depth) }),
			gauge("workqueue_unfinished_work_seconds", "Seconds that all work in progress has taken so far: it grows as fast as there are workers that are stuck.",
				func(s *controller.LoopStatus) float64 { return s.Unfinished.Seconds() }),
			gauge("workqueue_longest_running_processor_seconds", "Seconds that the longest work in progress has taken so far.",
				func(s *controller.LoopStatus) float64 { return s.Longest.Seconds() }),
			gauge("kijabi_loop_oldest_seconds", "Seconds that the oldest due key has been due.", func(s *controller.LoopStatus) float64 { return s.Oldest.Seconds() }),
			gauge("kijabi_loop_paused", "1 while the loop works on nothing by an administrator's order.", func(s *controller.LoopStatus) float64 { return truth(!s.Paused.IsZero()) }),
			counter("workqueue_adds_total", "Keys that became due.", func(s *controller.LoopStatus) int64 { return s.Adds }),
			counter("workqueue_retries_total", "Keys that were to be tried again after a failure or a conflict.", func(s *controller.LoopStatus) int64 { return s.Retries }),
			counter("kijabi_loop_reconciles_total", "Reconciles.", func(s *controller.LoopStatus) int64 { return s.Reconciles }),
			counter("kijabi_loop_failures_total", "Reconciles that failed, but for conflicts.", func(s *controller.LoopStatus) int64 { return s.Failures }),
		},
		histograms: []histogram{
			{desc("workqueue_queue_duration_seconds", "How long keys were due before they were worked on."), func(s *controller.LoopStatus) controller.Histogram { return s.Waited }},
			{desc("workqueue_work_duration_seconds", "How long the work on a key took."), func(s *controller.LoopStatus) controller.Histogram { return s.Worked }},
		},
		leading: prometheus.NewDesc("kijabi_loops_running", "1 on the master that leads, where the loops run.", nil, nil),
		epoch:   prometheus.NewDesc("kijabi_loops_epoch", "Epoch of the leadership that is followed; 0 while none is known.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (l *loops) Describe(out chan<- *prometheus.Desc) {
	for _, f := range l.figures {
		out <- f.desc
	}
	for _, h := range l.histograms {
		out <- h.desc
	}
	out <- l.leading
	out <- l.epoch
}

// Collect implements prometheus.Collector.
func (l *loops) Collect(out chan<- prometheus.Metric) {
	leading, epoch := l.cfg.Leading()
	out <- prometheus.MustNewConstMetric(l.leading, prometheus.GaugeValue, truth(leading))
	out <- prometheus.MustNewConstMetric(l.epoch, prometheus.GaugeValue, float64(epoch))
	for _, loop := range l.cfg.Loops() {
		for _, f := range l.figures {
			out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(&loop), loop.Name)
		}
		for _, h := range l.histograms {
			value, buckets := h.value(&loop), map[float64]uint64{}
			for i, bound := range controller.HistogramBounds() {
				buckets[bound] = value.Counts[i]
			}
			out <- prometheus.MustNewConstHistogram(h.desc, value.Count, value.Sum, buckets, loop.Name)
		}
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
