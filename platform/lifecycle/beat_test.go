package lifecycle

import (
	"testing"
	"time"
)

func TestTasksOfOnePeriodMeet(t *testing.T) {
	began := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for _, after := range []time.Duration{0, 1, 199 * time.Millisecond, 499999999, 500 * time.Millisecond, 777 * time.Millisecond} {
		now := began.Add(after)
		wait := UntilBeat(now, 500*time.Millisecond)
		if wait <= 0 || wait > 500*time.Millisecond {
			t.Errorf("%s after the beat: waits %s", after, wait)
		}
		if next := now.Add(wait).Sub(began); next%(500*time.Millisecond) != 0 {
			t.Errorf("%s after the beat: wakes at %s", after, next)
		}
	}
}
