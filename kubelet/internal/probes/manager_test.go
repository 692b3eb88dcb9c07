package probes

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
)

// script answers probes by the time since it began.
type script struct {
	mu    sync.Mutex
	start time.Time
	ok    func(since time.Duration, probe *corev1.Probe) bool
	calls int
}

func (s *script) Probe(_ context.Context, probe *corev1.Probe, _ Target) (bool, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return s.ok(time.Since(s.start), probe), "said so", nil
}

func probe(name string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: name}}, PeriodSeconds: period, FailureThreshold: failures}
}

func run(t *testing.T, target Target, ok func(time.Duration, *corev1.Probe) bool, check func(m *Manager, s *script)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &script{start: time.Now(), ok: ok}
		m := New(Config{Executor: s, Clock: clock.RealClock{}, Changed: func(types.UID, string, Result) {}})
		ctx, cancel := context.WithCancel(t.Context())
		group := lifecycle.NewGroup(ctx)
		group.Go(m.Run)
		target.ContainerID, target.StartedAt = "c", time.Now()
		m.Start(target)
		check(m, s)
		cancel()
		_ = group.Wait()
	})
}

func after(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestReadyIsNoticedAtOnce(t *testing.T) {
	target := Target{Container: &corev1.Container{ReadinessProbe: probe("ready", 10, 3)}}
	run(t, target, func(since time.Duration, _ *corev1.Probe) bool { return since > 25*time.Millisecond }, func(m *Manager, _ *script) {
		if r, _ := m.Result("c"); r.Ready {
			t.Error("ready before the first probe")
		}
		after(75 * time.Millisecond)
		if r, _ := m.Result("c"); !r.Ready {
			t.Error("not noticed within 75 ms")
		}
	})
}

func TestStartupHoldsBackTheOthers(t *testing.T) {
	target := Target{Container: &corev1.Container{StartupProbe: probe("startup", 1, 30), LivenessProbe: probe("live", 1, 1), ReadinessProbe: probe("ready", 1, 1)}}
	run(t, target, func(since time.Duration, p *corev1.Probe) bool {
		return p.TCPSocket.Host != "live" && since >= 5*time.Second
	}, func(m *Manager, _ *script) {
		after(4 * time.Second)
		if r, _ := m.Result("c"); r.Started || r.Failed {
			t.Errorf("after 4 s: %+v", r)
		}
		after(3 * time.Second)
		if r, _ := m.Result("c"); !r.Started || !r.Ready || !r.Failed {
			t.Errorf("after 7 s: %+v, want started, ready, and liveness failed", r)
		}
	})
}

func TestLivenessNeedsConsecutiveFailures(t *testing.T) {
	target := Target{Container: &corev1.Container{LivenessProbe: probe("live", 1, 3)}}
	run(t, target, func(since time.Duration, _ *corev1.Probe) bool {
		return int(since.Seconds())%3 == 2 // two failures, then a success
	}, func(m *Manager, _ *script) {
		after(20 * time.Second)
		if r, _ := m.Result("c"); r.Failed {
			t.Error("failed without three failures in a row")
		}
	})
}

func TestAdoptedContainersKeepTheirState(t *testing.T) {
	target := Target{Container: &corev1.Container{ReadinessProbe: probe("ready", 5, 3)}, Ready: true, Started: true, Adopted: true}
	run(t, target, func(time.Duration, *corev1.Probe) bool { return false }, func(m *Manager, _ *script) {
		after(8 * time.Second)
		if r, _ := m.Result("c"); !r.Ready {
			t.Error("unready before three failures")
		}
		after(12 * time.Second)
		if r, _ := m.Result("c"); r.Ready {
			t.Error("still ready after three failures")
		}
	})
}

func TestStoppedContainersAreNotProbed(t *testing.T) {
	target := Target{Container: &corev1.Container{ReadinessProbe: probe("ready", 1, 3)}}
	run(t, target, func(time.Duration, *corev1.Probe) bool { return true }, func(m *Manager, s *script) {
		after(3500 * time.Millisecond)
		m.Stop("c")
		s.mu.Lock()
		before := s.calls
		s.mu.Unlock()
		after(5 * time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.calls != before {
			t.Errorf("%d probes after Stop", s.calls-before)
		}
	})
}

func TestFailuresAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{start: time.Now(), ok: func(time.Duration, *corev1.Probe) bool { return false }}
		told := map[string]int{}
		var mu sync.Mutex
		m := New(Config{
			Executor: s, Clock: clock.RealClock{}, Changed: func(types.UID, string, Result) {},
			Failed: func(_ types.UID, _, probe, message string) {
				mu.Lock()
				defer mu.Unlock()
				told[probe+": "+message]++
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		group := lifecycle.NewGroup(ctx)
		group.Go(m.Run)
		m.Start(Target{ContainerID: "c", StartedAt: time.Now(), Container: &corev1.Container{
			ReadinessProbe: probe("ready", 1, 3), LivenessProbe: probe("live", 1, 3),
		}})
		after(10500 * time.Millisecond)
		cancel()
		_ = group.Wait()
		if ready, live := told["Readiness: said so"], told["Liveness: said so"]; ready < 9 || ready > 11 || live != 3 {
			t.Errorf("told %v; want about 10 failures of readiness, not the early tries, and 3 of liveness", told)
		}
	})
}
