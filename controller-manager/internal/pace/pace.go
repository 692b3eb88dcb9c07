// Package pace spares statuses that are about to change again: of an object whose counts change
// all the time one is written every now and then, and the last one always.
package pace

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// between is the least time between two statuses of an object of which the first was not the end
// of something. Longer would be seen by who looks; a burst of pods becomes Ready within less.
const between = 50 * time.Millisecond

// forgetAt is how many objects are remembered before those are forgotten that need not be.
const forgetAt = 4096

// Pace remembers when statuses were written. It is safe for concurrent use.
type Pace struct {
	clock clock.PassiveClock

	mu   sync.Mutex
	last map[types.UID]time.Time
}

// New returns a pace that has seen nothing.
func New(clk clock.PassiveClock) *Pace { return &Pace{clock: clk, last: map[types.UID]time.Time{}} }

// Hold says for how long an object's status should wait; 0 is to write it now, which is then
// remembered. What somebody waits for, the end of a change or a failure, is not to be held: do
// not ask about it.
func (p *Pace) Hold(uid types.UID) time.Duration {
	now := p.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := between - now.Sub(p.last[uid]); left > 0 {
		return left
	}
	if len(p.last) >= forgetAt {
		for known, at := range p.last {
			if now.Sub(at) >= between {
				delete(p.last, known)
			}
		}
	}
	p.last[uid] = now
	return 0
}
