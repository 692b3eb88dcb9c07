// Package pace keeps loops from writing large objects, and statuses that are about to change again, anew
// at every little change.
package pace

import (
	"sync"
	"time"

	"kijabi.dev/platform/kube/object"
)

// Statuses is the least time between two statuses of an object of which the first was not the end
// of something: longer would be seen by who looks, and a burst of pods becomes Ready within less.
const Statuses = 50 * time.Millisecond

// Pace remembers when keys were last written. The zero value is ready. It is safe for concurrent use.
type Pace struct {
	mu   sync.Mutex
	last map[object.Key]time.Time
}

// Wait is how long a key must wait until its last write is spacing ago; 0 if it need not.
func (p *Pace) Wait(key object.Key, now time.Time, spacing time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.last[key]
	if !ok {
		return 0
	}
	return max(0, min(spacing, last.Add(spacing).Sub(now))) // a clock that was set back makes nobody wait longer
}

// Wrote notes a write.
func (p *Pace) Wrote(key object.Key, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[object.Key]time.Time{}
	}
	p.last[key] = now
}

// Forget drops a key that is no more.
func (p *Pace) Forget(key object.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}
