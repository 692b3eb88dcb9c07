package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
)

type storageMetrics struct {
	durations *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	writes    prometheus.Histogram
	bytes     prometheus.Histogram
}

func newStorageMetrics() *storageMetrics {
	return &storageMetrics{
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "etcd_request_duration_seconds", Help: "Time of requests to etcd: txn is a batch of writes, get a read proof.",
			Buckets: durationBuckets,
		}, []string{"operation"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_request_errors_total", Help: "Requests to etcd that failed.",
		}, []string{"operation"}),
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kijabi_batch_writes", Help: "Keys written by one batch.", Buckets: prometheus.ExponentialBuckets(1, 2, 13),
		}),
		bytes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kijabi_batch_bytes", Help: "Bytes written by one batch.", Buckets: prometheus.ExponentialBuckets(256, 4, 9),
		}),
	}
}

func (s *storageMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{s.durations, s.failures, s.writes, s.bytes}
}

// Backend measures another.
func (m *Metrics) Backend(below store.Backend) store.Backend {
	return &backend{
		Backend: below, storage: m.storage,
		commits: m.storage.durations.WithLabelValues("txn"), reads: m.storage.durations.WithLabelValues("get"),
		failedCommits: m.storage.failures.WithLabelValues("txn"), failedReads: m.storage.failures.WithLabelValues("get"),
	}
}

type backend struct {
	store.Backend

	storage                    *storageMetrics
	commits, reads             prometheus.Observer
	failedCommits, failedReads prometheus.Counter
}

// Commit implements store.Backend.
func (b *backend) Commit(ctx context.Context, guardKey string, guard int64, ops []store.Op) (int64, error) {
	size := 0
	for i := range ops {
		size += len(ops[i].Key) + len(ops[i].Value)
	}
	began := time.Now()
	revision, err := b.Backend.Commit(ctx, guardKey, guard, ops)
	b.commits.Observe(time.Since(began).Seconds())
	b.storage.writes.Observe(float64(len(ops) - 1)) // the manifest is no write
	b.storage.bytes.Observe(float64(size))
	if err != nil {
		b.failedCommits.Inc()
	}
	return revision, err
}

// Read implements store.Backend.
func (b *backend) Read(ctx context.Context, key string) (store.Pair, int64, error) {
	began := time.Now()
	pair, revision, err := b.Backend.Read(ctx, key)
	b.reads.Observe(time.Since(began).Seconds())
	if err != nil {
		b.failedReads.Inc()
	}
	return pair, revision, err
}

// Forwarder counts what another passes on.
func (m *Metrics) Forwarder(to registry.Forwarder) registry.Forwarder {
	return &forwarder{to: to, done: m.forwarded.WithLabelValues("done"), failed: m.forwarded.WithLabelValues("failed")}
}

type forwarder struct {
	to           registry.Forwarder
	done, failed prometheus.Counter
}

func (f *forwarder) count(err error) {
	if err != nil {
		f.failed.Inc()
		return
	}
	f.done.Inc()
}

func (f *forwarder) Do(ctx context.Context, caller registry.Caller, op registry.Operation) (registry.OperationResult, error) {
	result, err := f.to.Do(ctx, caller, op)
	f.count(err)
	return result, err
}

func (f *forwarder) Transact(ctx context.Context, caller registry.Caller, ops []registry.Operation, independent bool) ([]registry.OperationResult, error) {
	results, err := f.to.Transact(ctx, caller, ops, independent)
	f.count(err)
	return results, err
}

func (f *forwarder) DeleteCollection(ctx context.Context, caller registry.Caller, ref registry.Ref, opts metav1.DeleteOptions, list registry.ListOptions) (int64, error) {
	count, err := f.to.DeleteCollection(ctx, caller, ref, opts, list)
	f.count(err)
	return count, err
}
