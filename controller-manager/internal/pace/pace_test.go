package pace

import (
	"testing"
	"time"

	"kijabi.dev/platform/kube/object"
)

func TestPace(t *testing.T) {
	var p Pace
	key, other := object.Key{Name: "a"}, object.Key{Name: "b"}
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	wait := func(key object.Key, at time.Time, want time.Duration) {
		t.Helper()
		if got := p.Wait(key, at, time.Second); got != want {
			t.Errorf("waits %s, want %s", got, want)
		}
	}
	wait(key, now, 0)
	p.Wrote(key, now)
	wait(key, now.Add(300*time.Millisecond), 700*time.Millisecond)
	wait(key, now.Add(time.Second), 0)
	wait(key, now.Add(-time.Hour), time.Second)
	wait(other, now, 0)
	p.Forget(key)
	wait(key, now, 0)
}
