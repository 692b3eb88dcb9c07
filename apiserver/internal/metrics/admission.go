package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// admissionMetrics are about webhooks and policies. Their names come from configurations,
// which administrators write.
type admissionMetrics struct {
	durations  *prometheus.HistogramVec
	rejections *prometheus.CounterVec
	failedOpen *prometheus.CounterVec
	policies   *prometheus.HistogramVec
}

func newAdmissionMetrics() *admissionMetrics {
	return &admissionMetrics{
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_admission_webhook_admission_duration_seconds", Help: "Time that a webhook took to answer, by its name and whether it refused.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25},
		}, []string{"name", "type", "operation", "rejected"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_admission_webhook_rejection_count", Help: "Requests refused because of a webhook, by its name and whether it refused or failed.",
		}, []string{"name", "type", "operation", "error_type", "rejection_code"}),
		failedOpen: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_admission_webhook_fail_open_count", Help: "Failures of a webhook that were ignored.",
		}, []string{"name", "type"}),
		policies: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_validating_admission_policy_check_duration_seconds", Help: "Time that the evaluation of a policy took, by what came of it.",
			Buckets: []float64{0.0000005, 0.001, 0.01, 0.1, 1},
		}, []string{"policy", "policy_binding", "enforcement_action"}),
	}
}

func (a *admissionMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{a.durations, a.rejections, a.failedOpen, a.policies}
}

// Webhook counts a call of a webhook; code is the HTTP status of a refusal, else 0.
func (m *Metrics) Webhook(name, kind, operation string, code int, took time.Duration) {
	m.admission.durations.WithLabelValues(name, kind, operation, strconv.FormatBool(code != 0)).Observe(took.Seconds())
}

// WebhookRejected counts a refusal; codes above 600 are counted as such.
func (m *Metrics) WebhookRejected(name, kind, operation, cause string, code int) {
	m.admission.rejections.WithLabelValues(name, kind, operation, cause, strconv.Itoa(min(code, 600))).Inc()
}

// WebhookFailedOpen counts a failure that was ignored.
func (m *Metrics) WebhookFailedOpen(name, kind string) {
	m.admission.failedOpen.WithLabelValues(name, kind).Inc()
}

// Policy counts the evaluation of a policy with a binding.
func (m *Metrics) Policy(policy, binding, action string, took time.Duration) {
	m.admission.policies.WithLabelValues(policy, binding, action).Observe(took.Seconds())
}
