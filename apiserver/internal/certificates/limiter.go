package certificates

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// maxFailures within failureWindow are tolerated from one address. With 128 bits
	// of secret this is not what keeps guessing hopeless; it keeps guessing cheap for us.
	maxFailures   = 10
	failureWindow = time.Minute
	// maxTracked bounds the addresses remembered.
	maxTracked = 4096
)

// limiter counts failures per address in fixed windows.
type limiter struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	windows map[string]window
}

type window struct {
	ends     time.Time
	failures int
}

func newLimiter(c clock.PassiveClock) *limiter {
	return &limiter{clock: c, windows: map[string]window{}}
}

// blocked returns how long an address must wait, 0 if it need not.
func (l *limiter) blocked(address string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.windows[address]
	if left := w.ends.Sub(l.clock.Now()); w.failures >= maxFailures && left > 0 {
		return left
	}
	return 0
}

// failed counts a failure.
func (l *limiter) failed(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if len(l.windows) >= maxTracked {
		for known, w := range l.windows {
			if !w.ends.After(now) {
				delete(l.windows, known)
			}
		}
	}
	w, known := l.windows[address]
	if !known && len(l.windows) >= maxTracked {
		return // a flood from everywhere: forgetting somebody blocked would help it
	}
	if !w.ends.After(now) {
		w = window{ends: now.Add(failureWindow)}
	}
	w.failures++
	l.windows[address] = w
}
