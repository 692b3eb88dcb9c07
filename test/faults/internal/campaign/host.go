package campaign

import (
	"context"
	"sync"
	"time"

	"kijabi.dev/test/faults/internal/cluster"
)

// hostWatch remembers for how long this host did not run an apiserver that wanted to.
type hostWatch struct {
	mu   sync.Mutex
	most time.Duration
}

func (h *hostWatch) note(stall time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.most = max(h.most, stall)
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

// sampleEvery is how often the apiservers are looked at.
const sampleEvery = 200 * time.Millisecond

// watchHost notes how long threads of the apiservers waited for a CPU between two looks, and how
// much memory these have.
func (s *session) watchHost(ctx context.Context) {
	known := map[string]cluster.Process{} // to look for them costs more than to look at them
	waited := map[int]time.Duration{}     // by thread
	for {
		began := time.Now()
		if pause(ctx, sampleEvery) != nil {
			return
		}
		s.host.note(time.Since(began) - sampleEvery) // this program is not spared, either
		seen := map[int]time.Duration{}
		for _, master := range s.cluster.Masters() {
			p := known[master]
			if p.State() == 0 {
				var err error
				if p, err = s.cluster.Process(master, "apiserver"); err != nil {
					continue // it is down
				}
				known[master] = p
			}
			s.record.RSS = max(s.record.RSS, p.RSS())
			for thread, wait := range p.Waits() {
				seen[thread] = wait
				if before, found := waited[thread]; found {
					s.host.note(wait - before)
				}
			}
		}
		waited = seen
	}
}
