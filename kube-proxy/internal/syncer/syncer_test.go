package syncer

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"kijabi.dev/kube-proxy/internal/dataplane"
)

// recorder is a plane that keeps what it is told.
type recorder struct {
	updates chan dataplane.Update
	err     atomic.Pointer[error]
}

func (r *recorder) Sync(u dataplane.Update) error {
	err := r.err.Load() // before the update is seen, as the test sets it after that
	r.updates <- u
	if err != nil {
		return *err
	}
	return nil
}
func (*recorder) Run(context.Context) error { return nil }
func (*recorder) Clean() error              { return nil }
func (*recorder) Close() error              { return nil }

func service(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func TestSyncer(t *testing.T) {
	defer goleak.VerifyNone(t)
	clk := testclock.NewFakeClock(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	plane := &recorder{updates: make(chan dataplane.Update, 10)}
	var ready atomic.Bool
	s := New(Config{NodeName: "me", Planes: []dataplane.Plane{plane}, Clock: clk, Log: zaptest.NewLogger(t), Ready: func() { ready.Store(true) }})
	next := func() dataplane.Update {
		t.Helper()
		select {
		case u := <-plane.updates:
			return u
		case <-time.After(10 * time.Second):
			t.Fatal("no update")
			panic("unreachable")
		}
	}
	elapse := func(d time.Duration) { // lets the syncer's pause begin, then pass
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for !clk.HasWaiters() {
			if time.Now().After(deadline) {
				t.Fatal("the syncer does not pause")
			}
		}
		clk.Step(d)
	}

	s.ServiceChanged(nil, service("a", "10.96.0.20"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	if u := next(); !u.Full || len(u.Services) != 1 {
		t.Errorf("first update: %+v, want a full one with one service", u)
	}

	elapse(0) // the pause begins after Ready was called
	if !ready.Load() {
		t.Error("not ready after the first update")
	}

	// Two changes during the pause make one update after it.
	s.ServiceChanged(nil, service("b", "10.96.0.21"))
	s.ServiceChanged(nil, service("c", "10.96.0.22"))
	elapse(minPeriod - time.Nanosecond)
	if len(plane.updates) != 0 {
		t.Error("an update came before the pause was over")
	}
	clk.Step(time.Nanosecond)
	for got := 0; got < 2; { // a leftover token of the first change may split them
		u := next()
		if u.Full {
			t.Errorf("update: %+v, want a partial one", u)
		}
		got += len(u.Services)
		if got < 2 {
			elapse(minPeriod)
		}
	}

	// After a pause a change goes at once. A refusal has everything sent again.
	elapse(minPeriod)
	refused := errors.New("refused")
	plane.err.Store(&refused)
	s.ServiceChanged(service("a", "10.96.0.20"), nil)
	if u := next(); u.Full || len(u.Services) != 1 {
		t.Errorf("update: %+v, want service a only", u)
	}
	plane.err.Store(nil)
	elapse(minPeriod)
	elapse(retryPeriod)
	if u := next(); !u.Full || len(u.Services) != 2 {
		t.Errorf("update: %+v, want both services again", u)
	}
}
