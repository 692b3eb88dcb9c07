// Package flowcontrol bounds how many requests are served at once and decides who is served
// first when more come: priority and fairness, configured by Kubernetes' FlowSchema and
// PriorityLevelConfiguration.
//
// A schema assigns a request to a priority level and, within it, to a flow, usually its user.
// Each level has seats of its own; while they are taken its requests wait, a queue a flow, and
// a seat that falls free goes to the waiting flow that holds the fewest. Idle seats that a level
// lends are used by others until its own requests come.
package flowcontrol

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"math"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
)

// Reasons of a refusal, as in Kubernetes' metrics.
const (
	ReasonQueueFull   = "queue-full"
	ReasonConcurrency = "concurrency-limit"
	ReasonTimeout     = "time-out"
	ReasonCancelled   = "cancelled"
)

const (
	defaultConcurrency = 600
	defaultWait        = 15 * time.Second
	defaultShares      = 30 // of a level that names none, as in Kubernetes
)

// Config of a Limiter.
type Config struct {
	// Concurrency is the number of seats of all levels together; 0 means 600.
	Concurrency int
	// Wait bounds how long a request waits for a seat; 0 means 15 s.
	Wait time.Duration
	// Clock; real when nil.
	Clock clock.Clock
}

// Request is what a request is judged by.
type Request struct {
	User   string
	Groups []string
	Verb   string
	// Path of a request for no resource; such requests have no Resource.
	Path string
	// Group, Resource ("pods" or "pods/status") and Namespace of a request for a resource.
	Group, Resource, Namespace string
}

// Limiter gives seats to requests. All methods are safe for concurrent use.
type Limiter struct {
	cfg Config

	mu      sync.Mutex
	schemas []*schema // by precedence
	levels  map[string]*level
	// sequence numbers the seats given, so that the longest unserved flow goes first.
	sequence uint64
}

// level is a priority level. The limiter's mutex guards it.
type level struct {
	name, uid string
	exempt    bool
	queues    bool
	nominal   int // seats of its own
	lendable  int // of these, may others use while idle
	limit     int // seats at most, borrowed ones included
	perFlow   int // requests of one flow that may wait
	capacity  int // requests that may wait
	seats     int // in use
	waiting   int
	flows     map[flowKey]*flow
	ready     flowHeap // flows that have waiting requests
	dispatched,
	rejected map[string]int64 // by schema; by reason
}

// flowKey names a flow within a level.
type flowKey struct{ schema, by string }

// flow is the requests of one level that share a schema and a distinguisher.
type flow struct {
	key     flowKey
	seats   int
	served  uint64 // sequence of the last seat given
	waiting []*waiter
	index   int // in ready; -1 outside
}

// waiter is a request that waits for a seat.
type waiter struct {
	// seated is closed once it has one.
	seated chan struct{}
	level  *level
	given  bool
}

// New returns a limiter with Kubernetes' suggested configuration.
func New(cfg Config) *Limiter {
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = defaultConcurrency
	}
	if cfg.Wait <= 0 {
		cfg.Wait = defaultWait
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	l := &Limiter{cfg: cfg, levels: map[string]*level{}}
	l.Configure(nil, nil)
	return l
}

// Configure replaces the configuration: the built-in one, with the given objects added or
// put in the place of those of the same name. Requests being served keep their seats, those
// waiting their places. The objects are not kept.
func (l *Limiter) Configure(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) {
	builtInSchemas, builtInLevels := Defaults()
	wanted := merged(builtInLevels, levels, func(o *flowcontrolv1.PriorityLevelConfiguration) string { return o.Name })
	var shares float64
	for _, o := range wanted {
		shares += float64(sharesOf(o))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	names := map[string]bool{}
	for _, o := range wanted {
		names[o.Name] = true
		lv := l.levels[o.Name]
		if lv == nil {
			lv = &level{name: o.Name, flows: map[flowKey]*flow{}, dispatched: map[string]int64{}, rejected: map[string]int64{}}
			l.levels[o.Name] = lv
		}
		lv.configure(o, int(math.Ceil(float64(l.cfg.Concurrency)*float64(sharesOf(o))/max(shares, 1))))
	}
	for name, lv := range l.levels {
		if !names[name] {
			l.retire(lv)
		}
	}
	l.schemas = compile(merged(builtInSchemas, schemas, func(o *flowcontrolv1.FlowSchema) string { return o.Name }), l.levels)
	l.dispatch()
}

// merged is base with the objects of over added or in the place of their namesakes.
func merged[T any](base, over []T, name func(T) string) []T {
	out := append([]T{}, base...)
next:
	for _, o := range over {
		for i := range out {
			if name(out[i]) == name(o) {
				out[i] = o
				continue next
			}
		}
		out = append(out, o)
	}
	return out
}

func sharesOf(o *flowcontrolv1.PriorityLevelConfiguration) int32 {
	switch {
	case o.Spec.Limited != nil && o.Spec.Limited.NominalConcurrencyShares != nil:
		return max(*o.Spec.Limited.NominalConcurrencyShares, 0)
	case o.Spec.Exempt != nil && o.Spec.Exempt.NominalConcurrencyShares != nil:
		return max(*o.Spec.Exempt.NominalConcurrencyShares, 0)
	case o.Spec.Type == flowcontrolv1.PriorityLevelEnablementLimited:
		return defaultShares
	}
	return 0
}

func (lv *level) configure(o *flowcontrolv1.PriorityLevelConfiguration, nominal int) {
	lv.uid, lv.nominal = string(o.UID), nominal
	lv.exempt = o.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	lv.lendable, lv.limit, lv.queues, lv.perFlow, lv.capacity = 0, math.MaxInt, false, 0, 0
	if e := o.Spec.Exempt; e != nil && e.LendablePercent != nil {
		lv.lendable = nominal * int(*e.LendablePercent) / 100
	}
	limited := o.Spec.Limited
	if limited == nil {
		return
	}
	if limited.LendablePercent != nil {
		lv.lendable = nominal * int(*limited.LendablePercent) / 100
	}
	if limited.BorrowingLimitPercent != nil {
		lv.limit = nominal + nominal*int(*limited.BorrowingLimitPercent)/100
	}
	if limited.LimitResponse.Type != flowcontrolv1.LimitResponseTypeQueue {
		return
	}
	queues, hand, length := 64, 8, 50 // Kubernetes' defaults
	if q := limited.LimitResponse.Queuing; q != nil {
		queues, hand, length = orDefault(q.Queues, queues), orDefault(q.HandSize, hand), orDefault(q.QueueLengthLimit, length)
	}
	// Kubernetes deals a flow a hand of the shared queues; here each has a queue of its own,
	// of the length that a whole hand would have.
	lv.queues, lv.perFlow, lv.capacity = true, hand*length, queues*length
}

func orDefault(v int32, def int) int {
	if v > 0 {
		return int(v)
	}
	return def
}

// retire refuses what waits in a level that is no more. Those with seats keep them.
func (l *Limiter) retire(lv *level) {
	for _, f := range lv.ready {
		for _, w := range f.waiting {
			lv.rejected[ReasonConcurrency]++
			close(w.seated)
		}
		f.waiting, f.index = nil, -1
	}
	lv.ready, lv.waiting = nil, 0
	delete(l.levels, lv.name)
}

// Seat is the right to be served. The zero Seat is that of an exempt request.
type Seat struct {
	// SchemaUID and LevelUID are those of the objects that decided; empty for built-in ones.
	SchemaUID, LevelUID string

	limiter *Limiter
	level   *level
	flow    *flow
	once    *sync.Once
}

// Release gives the seat to the next. Releasing it again does nothing.
func (s Seat) Release() {
	if s.limiter == nil {
		return
	}
	s.once.Do(func() {
		l := s.limiter
		l.mu.Lock()
		defer l.mu.Unlock()
		s.level.leave(s.flow)
		l.dispatch()
	})
}

// Acquire waits until the request may be served. The error is a TooManyRequests StatusError
// when it may not, now or for too long, or ctx's.
func (l *Limiter) Acquire(ctx context.Context, r Request) (Seat, error) {
	l.mu.Lock()
	s := l.classify(r)
	lv := s.level
	seat := Seat{SchemaUID: s.uid, LevelUID: lv.uid}
	if lv.exempt {
		lv.dispatched[s.name]++
		l.mu.Unlock()
		return seat, nil
	}
	f := lv.flow(flowKey{s.name, s.distinguish(r)})
	seat.limiter, seat.level, seat.flow, seat.once = l, lv, f, new(sync.Once)
	if len(f.waiting) == 0 && lv.waiting == 0 && l.free(lv) {
		l.take(lv, f)
		l.mu.Unlock()
		return seat, nil
	}
	reason := ""
	switch {
	case !lv.queues:
		reason = ReasonConcurrency
	case len(f.waiting) >= lv.perFlow || lv.waiting >= lv.capacity:
		reason = ReasonQueueFull
	}
	if reason != "" {
		lv.rejected[reason]++
		lv.forget(f)
		l.mu.Unlock()
		return Seat{}, refused(s, lv.name, reason)
	}
	w := &waiter{seated: make(chan struct{}), level: lv}
	lv.wait(f, w)
	l.dispatch() // a seat may be free to this flow
	l.mu.Unlock()
	return l.await(ctx, seat, s, w)
}

// await waits for the seat.
func (l *Limiter) await(ctx context.Context, seat Seat, s *schema, w *waiter) (Seat, error) {
	timer := l.cfg.Clock.NewTimer(l.cfg.Wait)
	defer timer.Stop()
	reason := ReasonTimeout
	select {
	case <-w.seated:
	case <-timer.C():
	case <-ctx.Done():
		reason = ReasonCancelled
	}
	l.mu.Lock()
	if w.given {
		l.mu.Unlock()
		return seat, nil // at the very last moment, perhaps
	}
	if l.levels[w.level.name] == w.level && w.level.withdraw(seat.flow, w) {
		w.level.rejected[reason]++
	}
	l.mu.Unlock()
	if reason == ReasonCancelled {
		return Seat{}, ctx.Err()
	}
	return Seat{}, refused(s, w.level.name, reason)
}

func refused(s *schema, level, reason string) error {
	return apierrors.NewTooManyRequests(fmt.Sprintf(
		"too many requests, please try again later (flow schema %q, priority level %q: %s)", s.name, level, reason), 1)
}

// free says whether a level may use one more seat: its own, or one that others lend.
func (l *Limiter) free(lv *level) bool {
	if lv.seats < lv.nominal || lv.exempt {
		return true
	}
	if lv.seats >= lv.limit {
		return false
	}
	lent, borrowed := 0, 0
	for _, other := range l.levels {
		borrowed += max(0, other.seats-other.nominal)
		if other != lv {
			lent += max(0, min(other.lendable, other.nominal-other.seats))
		}
	}
	return lent > borrowed
}

// take seats a request of a flow.
func (l *Limiter) take(lv *level, f *flow) {
	l.sequence++
	lv.seats++
	f.seats++
	f.served = l.sequence
	lv.dispatched[f.key.schema]++
	if f.index >= 0 {
		heap.Fix(&lv.ready, f.index)
	}
}

// dispatch gives free seats to those who wait: first the levels that have seats of their own,
// then those that borrow.
func (l *Limiter) dispatch() {
	for _, own := range [...]bool{true, false} {
		for _, lv := range l.levels {
			for lv.waiting > 0 && (own && lv.seats < lv.nominal || !own && l.free(lv)) {
				f := lv.ready[0]
				w := f.waiting[0]
				lv.unwait(f, 0)
				w.given = true
				l.take(lv, f)
				close(w.seated)
			}
		}
	}
}

func (lv *level) flow(key flowKey) *flow {
	f := lv.flows[key]
	if f == nil {
		f = &flow{key: key, index: -1}
		lv.flows[key] = f
	}
	return f
}

// forget drops a flow that has nothing left.
func (lv *level) forget(f *flow) {
	if f.seats == 0 && len(f.waiting) == 0 && lv.flows[f.key] == f {
		delete(lv.flows, f.key)
	}
}

func (lv *level) leave(f *flow) {
	lv.seats--
	f.seats--
	if f.index >= 0 {
		heap.Fix(&lv.ready, f.index)
	}
	lv.forget(f)
}

func (lv *level) wait(f *flow, w *waiter) {
	f.waiting = append(f.waiting, w)
	lv.waiting++
	if f.index < 0 {
		heap.Push(&lv.ready, f)
	}
}

// unwait takes the i-th waiter off a flow.
func (lv *level) unwait(f *flow, i int) {
	copy(f.waiting[i:], f.waiting[i+1:])
	f.waiting[len(f.waiting)-1] = nil
	f.waiting = f.waiting[:len(f.waiting)-1]
	lv.waiting--
	if len(f.waiting) == 0 {
		heap.Remove(&lv.ready, f.index)
	}
}

// withdraw takes a waiter off that has given up.
func (lv *level) withdraw(f *flow, w *waiter) bool {
	for i, other := range f.waiting {
		if other == w {
			lv.unwait(f, i)
			lv.forget(f)
			return true
		}
	}
	return false
}

// flowHeap has the flow on top that holds the fewest seats, and of these the one that has
// waited longest for another.
type flowHeap []*flow

func (h flowHeap) Len() int { return len(h) }
func (h flowHeap) Less(i, j int) bool {
	if h[i].seats != h[j].seats {
		return h[i].seats < h[j].seats
	}
	return h[i].served < h[j].served
}

func (h flowHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *flowHeap) Push(x any) {
	f := x.(*flow)
	f.index = len(*h)
	*h = append(*h, f)
}

func (h *flowHeap) Pop() any {
	old := *h
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	f.index = -1
	return f
}

// Load is how busy a level is.
type Load struct {
	Level string
	// Seats of its own, those in use, and requests that wait.
	Seats, Used, Waiting int
	// Dispatched requests by flow schema, and Rejected ones by reason, since the start.
	Dispatched, Rejected map[string]int64
}

// Loads lists all levels.
func (l *Limiter) Loads() []Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Load, 0, len(l.levels))
	for _, lv := range l.levels {
		out = append(out, Load{
			Level: lv.name, Seats: lv.nominal, Used: lv.seats, Waiting: lv.waiting,
			Dispatched: maps.Clone(lv.dispatched), Rejected: maps.Clone(lv.rejected),
		})
	}
	return out
}
