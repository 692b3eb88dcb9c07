package campaign

import (
	"context"
	"sync"
	"time"
)

// hostWatch measures how late this host wakes a program that sleeps: what it does to this
// program it does to a leader, too.
type hostWatch struct {
	mu   sync.Mutex
	most time.Duration
}

func (h *hostWatch) run(ctx context.Context) {
	const nap = 5 * time.Millisecond
	for {
		began := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-time.After(nap):
		}
		h.mu.Lock()
		h.most = max(h.most, time.Since(began)-nap)
		h.mu.Unlock()
	}
}

func (h *hostWatch) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.most = 0
}

// longest is the longest stall since the reset, in milliseconds.
func (h *hostWatch) longest() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return milliseconds(h.most)
}

// sampleMemory notes the most memory that an apiserver has.
func (s *session) sampleMemory(ctx context.Context) {
	for pause(ctx, time.Second) == nil {
		for _, master := range s.cluster.Masters() {
			if p, err := s.cluster.Process(master, "apiserver"); err == nil { // it may be down
				s.record.RSS = max(s.record.RSS, p.RSS())
			}
		}
	}
}
