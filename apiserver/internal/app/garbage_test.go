package app

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGarbageIsBoundedByWhatIsInUse(t *testing.T) {
	for inUse, want := range map[uint64]int{0: 200, 10 << 20: 200, 40 << 20: 140, 400 << 20: 50, 4 << 30: 40} {
		if got := gcPercent(inUse); got != want {
			t.Errorf("%d MB in use: %d %%, want %d", inUse>>20, got, want)
		}
	}
	t.Setenv("GOGC", "") // set, whatever it is: nothing is touched
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	boundGarbage()
	if now := debug.SetGCPercent(77); now != 77 {
		t.Errorf("GOGC does not prevail: %d %%", now)
	}
	// With 400 MB in use, a collection makes it 50 %.
	hold := make([]byte, 400<<20)
	b := &garbageBound{percent: 77}
	b.arm()
	deadline := time.Now().Add(10 * time.Second)
	for {
		runtime.GC()
		now := debug.SetGCPercent(77)
		if now > 45 && now <= 50 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with 400 MB in use garbage may be %d %%, want 50", now)
		}
		b.percent = 77
		runtime.Gosched()
	}
	runtime.KeepAlive(hold)
}
