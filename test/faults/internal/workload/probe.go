package workload

import (
	"context"
	"fmt"
	"sync"
	"time"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"

	"kijabi.dev/test/faults/internal/history"
)

const (
	// probeEvery is how far apart the writes of a prober begin.
	probeEvery = 5 * time.Millisecond
	// probeDeadline is how long one may take: a write that got lost must not hide that the next
	// succeeds.
	probeDeadline = time.Second
	// probesAtOnce is more than begin within a deadline.
	probesAtOnce = 256
)

// Prober creates objects through one master, whether or not earlier ones were answered, and
// remembers when they were acknowledged.
type Prober struct {
	Namespace string
	// Prefix of the objects' names; no other prober's.
	Prefix   string
	Master   Master
	Recorder *history.Recorder
	Pace     *Pace
	// Client is the first number of probesAtOnce clients.
	Client int

	mu   sync.Mutex
	acks []ack // in the order of their ends
	sent int
}

// ack is when an acknowledged write began and ended.
type ack struct{ called, returned time.Duration }

// Run writes until ctx ends, and then waits for the last answers.
func (p *Prober) Run(ctx context.Context) {
	var calls sync.WaitGroup
	seats := make(chan int, probesAtOnce)
	for i := range probesAtOnce {
		seats <- p.Client + i
	}
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for number := 0; ; number++ {
		select {
		case <-ctx.Done():
			calls.Wait()
			return
		case <-ticker.C:
		}
		if !p.Pace.due(number) {
			continue
		}
		select {
		case seat := <-seats:
			calls.Go(func() {
				p.write(context.WithoutCancel(ctx), seat, number)
				seats <- seat
			})
		default: // the machine is too busy to probe this often
		}
	}
}

func (p *Prober) write(ctx context.Context, seat, number int) {
	o := history.Operation{
		Client: seat, Master: p.Master.Name, Verb: history.Create, RequestID: rpc.NewRequestID(),
		Key: fmt.Sprintf("%s-%d", p.Prefix, number),
	}
	o.Value = o.Key
	ctx, cancel := context.WithTimeout(rpc.WithRequestID(ctx, o.RequestID), probeDeadline)
	defer cancel()
	o.Called = p.Recorder.Now()
	answer, err := p.Master.API.Create(ctx, configMap(object.Key{Namespace: p.Namespace, Name: o.Key}, o.Value))
	o.Returned = p.Recorder.Now()
	o.Outcome = outcome(err)
	if err == nil {
		o.Version = Version(answer)
	} else {
		o.Error = err.Error()
	}
	p.Recorder.Add(o)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	if err == nil {
		p.acks = append(p.acks, ack{o.Called, o.Returned})
	}
}

// AcknowledgedSince counts the acknowledged writes that began at or after a time.
func (p *Prober) AcknowledgedSince(since time.Duration) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, a := range p.acks {
		if a.called >= since {
			n++
		}
	}
	return n
}

// Fastest is how long the quickest acknowledged write took that began after a time, 0 when there
// was none.
func (p *Prober) Fastest(since time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var fastest time.Duration
	for _, a := range p.acks {
		if took := a.returned - a.called; a.called >= since && (fastest == 0 || took < fastest) {
			fastest = took
		}
	}
	return fastest
}

// Stall is the longest time without an acknowledgement between the last one before from and
// the first write that both began and was acknowledged before to; ok is false when there is none.
// It is how long a client that writes all the time has to wait when something breaks at from.
func (p *Prober) Stall(from, to time.Duration) (longest time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := from
	for _, a := range p.acks {
		if a.returned < from {
			continue
		}
		if a.returned > to {
			break
		}
		longest = max(longest, a.returned-last)
		last = a.returned
		ok = ok || a.called >= from
	}
	return longest, ok
}
