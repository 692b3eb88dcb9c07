package events_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/events"
)

// counter counts what is written and answers as it is told to.
type counter struct {
	mu      sync.Mutex
	batches []int
	answer  func(call, op int) error
	away    func(call int) error
}

func (c *counter) Transact(_ context.Context, ops []client.Op, independent bool) ([]client.OpResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !independent {
		return nil, errors.New("one refused event must not take others with it")
	}
	call := len(c.batches)
	c.batches = append(c.batches, len(ops))
	if c.away != nil {
		if err := c.away(call); err != nil {
			return nil, err
		}
	}
	results := make([]client.OpResult, len(ops))
	for i := range results {
		if c.answer != nil {
			results[i].Err = c.answer(call, i)
		}
	}
	return results, nil
}

func (c *counter) written() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Trim(fmt.Sprint(c.batches), "[]")
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "1"}}
}

func TestRecorder(t *testing.T) {
	gone := apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, "x")
	for name, tc := range map[string]struct {
		writer *counter
		record func(r *events.Recorder)
		want   string // sizes of the transactions within a minute
	}{
		"several go together": {&counter{}, func(r *events.Recorder) {
			r.Record(pod("a"), corev1.EventTypeNormal, "Created", "one")
			r.Record(pod("a"), corev1.EventTypeNormal, "Started", "two")
		}, "2"},
		"a repetition is joined": {&counter{}, func(r *events.Recorder) {
			for range 5 {
				r.Record(pod("a"), corev1.EventTypeNormal, "Created", "one")
			}
		}, "1"},
		"a late repetition is an update": {&counter{}, func(r *events.Recorder) {
			for range 4 {
				r.Record(pod("a"), corev1.EventTypeNormal, "Created", "one")
				time.Sleep(3 * time.Second) // of the bubble's clock
			}
		}, "1 1"},
		"alike ones are combined": {&counter{}, func(r *events.Recorder) {
			for i := range 500 {
				r.Record(pod("a"), corev1.EventTypeNormal, "SuccessfulCreate", fmt.Sprint("pod ", i))
			}
		}, "11"},
		"masters away for a while": {&counter{away: func(call int) error {
			if call < 3 {
				return errors.New("no master answers")
			}
			return nil
		}}, func(r *events.Recorder) {
			r.Record(pod("a"), corev1.EventTypeNormal, "Created", "one")
		}, "1 1 1 1"},
		"a refused one is dropped": {&counter{answer: func(int, int) error { return gone }}, func(r *events.Recorder) {
			r.Record(pod("a"), corev1.EventTypeNormal, "Created", "one")
		}, "1"},
		"a removed one is made again": {&counter{answer: func(call, _ int) error {
			if call == 1 {
				return gone
			}
			return nil
		}}, func(r *events.Recorder) {
			r.Record(pod("a"), corev1.EventTypeNormal, "Created", "one")
			time.Sleep(15 * time.Second)
			r.Record(pod("a"), corev1.EventTypeNormal, "Created", "one")
		}, "1 1 1"},
		"no memory without bound": {&counter{away: func(call int) error {
			if call < 3 {
				return errors.New("no master answers")
			}
			return nil
		}}, func(r *events.Recorder) {
			for i := range 10000 {
				r.Record(pod(fmt.Sprint("pod-", i)), corev1.EventTypeNormal, "Created", "one")
			}
		}, strings.TrimSpace(strings.Repeat("128 ", 3+4096/128))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				r := events.New(events.Config{Writer: tc.writer, Component: "test", Clock: clock.RealClock{}, Log: zap.NewNop()})
				done := make(chan error)
				go func() { done <- r.Run(ctx) }()
				synctest.Wait()
				tc.record(r)
				if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("Run: %v", err)
				}
				got := tc.writer.written()
				if got != tc.want {
					t.Fatalf("transactions of %s events, want %s", got, tc.want)
				}
			})
		})
	}
}
