package daemonset

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Pauses before a pod that failed is replaced once more.
const (
	firstPause = time.Second
	mostPause  = 15 * time.Minute
)

// place is a node for the pods of one revision of a set.
type place struct {
	set        types.UID
	node, hash string
}

// backoff remembers how often pods have failed at a place. It is lost with the leader, whose
// successor begins with the first pause. It is safe for concurrent use.
type backoff struct {
	mu     sync.Mutex
	failed map[place]failure
}

type failure struct {
	at    time.Time
	pause time.Duration
}

// left is how long the failed pod of a place has to stay yet.
func (b *backoff) left(at place, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.failed[at]
	if !ok || now.Sub(f.at) > 2*mostPause {
		return 0
	}
	return max(0, f.at.Add(f.pause).Sub(now))
}

// replaced notes that a failed pod of a place was replaced: the next one waits longer.
func (b *backoff) replaced(at place, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for other, f := range b.failed {
		if now.Sub(f.at) > 2*mostPause {
			delete(b.failed, other)
		}
	}
	if b.failed == nil {
		b.failed = map[place]failure{}
	}
	pause := firstPause
	if f, ok := b.failed[at]; ok {
		pause = min(2*f.pause, mostPause)
	}
	b.failed[at] = failure{at: now, pause: pause}
}
