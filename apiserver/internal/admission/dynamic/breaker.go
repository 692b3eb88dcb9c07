package dynamic

import (
	"fmt"
	"sync"
	"time"
)

const (
	// tolerated is how many failures in a row open a breaker.
	tolerated = 5
	// firstPause is how long it stays open at first; each probe that fails doubles that, up to longestPause.
	firstPause   = 5 * time.Second
	longestPause = time.Minute
)

// breaker keeps requests from waiting for a webhook that does not answer. After some failures
// in a row it is open: calls fail at once. After a pause one call at a time is let through,
// and the first that succeeds closes it. Safe for concurrent use.
type breaker struct {
	mu       sync.Mutex
	failures int
	pause    time.Duration
	until    time.Time // when open: not before then is probed
	probing  bool
	last     error
}

// openError is the failure of a call that was not made.
type openError struct{ cause error }

func (e *openError) Error() string {
	return fmt.Sprintf("it failed %d times in a row and is not asked for now: %v", tolerated, e.cause)
}

func (e *openError) Unwrap() error { return e.cause }

// enter lets a call through or fails. probe must be passed to what ends the call.
func (b *breaker) enter(now time.Time) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failures < tolerated:
		return false, nil
	case b.probing || now.Before(b.until):
		return false, &openError{b.last}
	}
	b.probing = true
	return true, nil
}

// leave ends a call. judged is false when nothing is known about the webhook, because its
// caller has gone.
func (b *breaker) leave(now time.Time, probe, judged bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	switch {
	case !judged:
	case err == nil:
		b.failures, b.pause, b.last = 0, 0, nil
	default:
		b.failures, b.last = b.failures+1, err
		if b.failures == tolerated {
			b.pause, b.until = firstPause, now.Add(firstPause)
		} else if probe {
			b.pause = min(2*b.pause, longestPause)
			b.until = now.Add(b.pause)
		}
	}
}
