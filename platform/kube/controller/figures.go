package controller

import (
	"time"

	"kijabi.dev/platform/kube/object"
)

// figures are counted since the program started. The queue's lock guards them.
type figures struct {
	adds, retries, reconciles, failures int64
	rate                                rate
	waited, worked                      Histogram
	failed                              Failure
}

// Failure is the newest one of a loop; the zero value means none.
type Failure struct {
	Key   object.Key
	Error string
	Time  time.Time
}

// bucketCount is how many upper bounds a Histogram has.
const bucketCount = 10

// Histogram counts durations.
type Histogram struct {
	// Count of all of them.
	Count uint64
	// Sum of all of them, in seconds.
	Sum float64
	// Counts of those that are at most as long as the bound of the same index in HistogramBounds.
	Counts [bucketCount]uint64
}

// HistogramBounds are the upper bounds of the buckets in seconds, from a microsecond to 1000 seconds:
// those of Kubernetes' metrics of work queues.
func HistogramBounds() [bucketCount]float64 {
	return [bucketCount]float64{1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 1e1, 1e2, 1e3}
}

func (h *Histogram) observe(d time.Duration) {
	seconds := max(d, 0).Seconds()
	h.Count++
	h.Sum += seconds
	for i, bound := range HistogramBounds() {
		if seconds <= bound {
			h.Counts[i]++
		}
	}
}

// rateSeconds is the time that a rate looks back.
const rateSeconds = 60

// rate counts what happened in each of the last seconds.
type rate struct {
	counts [rateSeconds]int64
	newest int64 // Unix time of the newest second
}

// roll clears the seconds in which nothing happened. A clock that is set back counts for the
// newest second.
func (r *rate) roll(now time.Time) {
	second := now.Unix()
	for s := max(r.newest+1, second-rateSeconds+1); s <= second; s++ {
		r.counts[s%rateSeconds] = 0
	}
	r.newest = max(r.newest, second)
}

func (r *rate) count(now time.Time) {
	r.roll(now)
	r.counts[r.newest%rateSeconds]++
}

// perSecond is the mean of the last minute.
func (r *rate) perSecond(now time.Time) float64 {
	r.roll(now)
	var sum int64
	for _, n := range r.counts {
		sum += n
	}
	return float64(sum) / rateSeconds
}

// LoopStatus describes one controller and its queue. Counts are since the program started.
type LoopStatus struct {
	Name string
	// Running says whether the loop runs, which it does on the master that leads.
	Running bool
	// Paused says since when the loop works on nothing, by somebody's order; zero while it does.
	Paused time.Time
	// Depth is the number of keys that are due, Delayed of those that will be at a known time.
	Depth, Delayed int
	// OldestKey has been due for longest, for the time Oldest.
	OldestKey object.Key
	Oldest    time.Duration
	// Active is the number of keys in work.
	Active int
	// LongestKey has been in work for longest, for the time Longest. Unfinished is the sum of
	// the times of all keys in work.
	LongestKey          object.Key
	Longest, Unfinished time.Duration
	// Adds counts keys that became due, Retries those of them that were to be tried again
	// after a failure, a conflict included.
	Adds, Retries int64
	// Reconciles counts calls of Reconcile, Failures those that failed otherwise than by a conflict.
	Reconciles, Failures int64
	// Rate is the reconciles a second, as the mean of the last minute.
	Rate float64
	// Failed is the newest failure.
	Failed Failure
	// Waited is how long keys were due until they were worked on, Worked how long that took.
	Waited, Worked Histogram
}

// status describes the queue.
func (q *queue) status(name string) LoopStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Now()
	s := LoopStatus{
		Name: name, Running: q.running, Paused: q.paused, Depth: len(q.due), Delayed: len(q.delayed), Active: len(q.working),
		Adds: q.figures.adds, Retries: q.figures.retries, Reconciles: q.figures.reconciles, Failures: q.figures.failures,
		Rate: q.figures.rate.perSecond(now), Failed: q.figures.failed, Waited: q.figures.waited, Worked: q.figures.worked,
	}
	for key, since := range q.due {
		if age := now.Sub(since); s.OldestKey == (object.Key{}) || age > s.Oldest {
			s.OldestKey, s.Oldest = key, age
		}
	}
	for key, since := range q.working {
		age := now.Sub(since)
		s.Unfinished += age
		if s.LongestKey == (object.Key{}) || age > s.Longest {
			s.LongestKey, s.Longest = key, age
		}
	}
	return s
}

// count notes the outcome of a Reconcile; a failure has an error.
func (q *queue) count(failure Failure) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.figures.reconciles++
	q.figures.rate.count(q.clock.Now())
	q.failLocked(failure)
}

// fail notes a failure that is not one of Reconcile.
func (q *queue) fail(failure Failure) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failLocked(failure)
}

func (q *queue) failLocked(failure Failure) {
	if failure.Error != "" {
		q.figures.failures++
		q.figures.failed = failure
	}
}
