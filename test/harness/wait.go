package harness

import (
	"strings"
	"testing"
	"time"
)

// Eventually waits for a condition: check returns nil once it holds. A check should
// return what is not as it should be rather than end the test, which a call that fails
// once would then do.
func Eventually(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	if err := await(limit, check); err != nil {
		t.Fatalf("%s: not within %s: %v", what, limit, err)
	}
}

// await returns the last error if the condition does not hold in time.
func await(limit time.Duration, check func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return err
		case <-retry.C:
		}
	}
}

// Contains fails when a text lacks one of the parts.
func Contains(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s:\n%s\nlacks %q", what, Tail(text, 40), part)
		}
	}
}
