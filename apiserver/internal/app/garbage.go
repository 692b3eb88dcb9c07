package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much garbage may lie about before it is collected. A create leaves 15 to 30 KB of it,
// which at Go's 100 % of what is in use made the collector a seventh of the CPU time of writes
// in a small cluster, and would need as much memory again as the objects in a large one. So
// there is a fixed part, of which a small cluster lives, and a share of what is in use.
const (
	garbageBytes   = 40 << 20
	garbagePercent = 40
	// maxGarbagePercent keeps an idle apiserver far below its goal of 120 MB.
	maxGarbagePercent = 200
)

// boundGarbage tells Go's collector how much garbage it may leave, and anew whenever it has
// found out how much is in use. GOGC in the environment prevails.
func boundGarbage() {
	if _, set := os.LookupEnv("GOGC"); set {
		return
	}
	debug.SetGCPercent(maxGarbagePercent)
	b := &garbageBound{percent: maxGarbagePercent}
	b.arm()
}

// garbageBound lives from one collection to the next: the collector itself tells of its end,
// so that an idle apiserver is not woken.
type garbageBound struct{ percent int }

func (b *garbageBound) arm() {
	runtime.AddCleanup(&struct{ _ [16]byte }{}, func(b *garbageBound) {
		b.adjust()
		b.arm()
	}, b)
}

func (b *garbageBound) adjust() {
	inUse := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(inUse)
	percent := gcPercent(inUse[0].Value.Uint64())
	// Telling the collector stops the world for a moment: not for nothing.
	if percent*10 > b.percent*11 || percent*11 < b.percent*10 {
		debug.SetGCPercent(percent)
		b.percent = percent
	}
}

// gcPercent is garbage allowed in percent of the bytes in use, as Go counts it.
func gcPercent(inUse uint64) int {
	return int(min(maxGarbagePercent, garbagePercent+garbageBytes*100/max(inUse, 1)))
}
