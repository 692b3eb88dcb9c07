package metrics

import (
	"strings"
	"testing"
	"time"

	"kijabi.dev/platform/kube/controller"
)

func TestPage(t *testing.T) {
	m := New(Config{
		Loops: func() []controller.LoopStatus {
			return []controller.LoopStatus{
				{
					Name: "deployment", Depth: 3, Adds: 9, Retries: 2, Reconciles: 6, Failures: 1, Paused: time.Unix(1, 0),
					Oldest: 4 * time.Second, Longest: 2 * time.Second, Unfinished: 3 * time.Second,
					Waited: controller.Histogram{Count: 6, Sum: 1.5, Counts: [10]uint64{0, 0, 0, 1, 2, 5, 6, 6, 6, 6}},
				},
				{Name: "namespace"},
			}
		},
		Leading: func() (bool, uint64) { return true, 77 },
	})
	contentType, text, err := m.Page()
	if err != nil || !strings.HasPrefix(contentType, "text/plain") {
		t.Fatalf("%s, %v", contentType, err)
	}
	for _, want := range []string{
		`workqueue_depth{name="deployment"} 3`,
		`workqueue_depth{name="namespace"} 0`,
		`workqueue_adds_total{name="deployment"} 9`,
		`workqueue_retries_total{name="deployment"} 2`,
		`workqueue_queue_duration_seconds_bucket{name="deployment",le="0.001"} 1`,
		`workqueue_queue_duration_seconds_bucket{name="deployment",le="1"} 6`,
		`workqueue_queue_duration_seconds_bucket{name="deployment",le="+Inf"} 6`,
		`workqueue_queue_duration_seconds_sum{name="deployment"} 1.5`,
		`workqueue_work_duration_seconds_count{name="deployment"} 0`,
		`workqueue_unfinished_work_seconds{name="deployment"} 3`,
		`workqueue_longest_running_processor_seconds{name="deployment"} 2`,
		`kijabi_loop_oldest_seconds{name="deployment"} 4`,
		`kijabi_loop_paused{name="deployment"} 1`,
		`kijabi_loop_paused{name="namespace"} 0`,
		`kijabi_loop_reconciles_total{name="deployment"} 6`,
		`kijabi_loop_failures_total{name="deployment"} 1`,
		`kijabi_loops_running 1`,
		`kijabi_loops_epoch 77`,
	} {
		if !strings.Contains(string(text), "\n"+want+"\n") {
			t.Errorf("no line %s", want)
		}
	}
	for _, want := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(string(text), "\n"+want) {
			t.Errorf("no metric %s", want)
		}
	}
}
