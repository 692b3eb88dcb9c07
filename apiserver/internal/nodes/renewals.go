package nodes

import (
	"maps"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// defaultLeaseDuration is how long a renewal holds that does not say so: what kubelets ask for.
const defaultLeaseDuration = 40 * time.Second

// renewals are the Leases that nodes which keep no connection renew themselves: kubelets of
// others, virtual and fake nodes. Renewals are noted by this machine's clock when they are
// seen; nobody else's clock decides. The zero value is ready. It is safe for concurrent use.
type renewals struct {
	mu    sync.Mutex
	since time.Time // beginning of the term that they belong to
	seen  map[string]renewal
	// known says since when nodes count: those that came later in the term, from then on.
	known map[string]time.Time
}

type renewal struct {
	written time.Time // as the Lease says; only compared for being another
	holds   time.Time // until when, by this machine's clock
}

// keep forgets nodes that are not among the sorted names, and all that an earlier term saw.
// It notes those that are new.
func (r *renewals) keep(names []string, now, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	came := now
	if !r.since.Equal(since) || r.seen == nil {
		r.since, r.seen, r.known = since, map[string]renewal{}, map[string]time.Time{}
		came = since
	}
	for _, name := range names {
		if _, ok := r.known[name]; !ok {
			r.known[name] = came
		}
	}
	maps.DeleteFunc(r.known, func(node string, _ time.Time) bool {
		_, known := slices.BinarySearch(names, node)
		return !known
	})
	maps.DeleteFunc(r.seen, func(node string, _ renewal) bool {
		_, known := slices.BinarySearch(names, node)
		return !known
	})
}

// heard returns the time from which a node that keep knows and no master hears counts as
// silent: the end of its Lease, or the beginning of the term or of the node, if it keeps none.
// A Lease is believed when it is first seen, for this master cannot know how old it is.
func (r *renewals) heard(node string, lease *coordinationv1.Lease, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if lease == nil || lease.Spec.RenewTime == nil || lease.Annotations[heardAnnotation] != "" {
		return r.known[node]
	}
	last, ok := r.seen[node]
	if !ok || !last.written.Equal(lease.Spec.RenewTime.Time) {
		duration := defaultLeaseDuration
		if seconds := lease.Spec.LeaseDurationSeconds; seconds != nil && *seconds > 0 {
			duration = time.Duration(*seconds) * time.Second
		}
		last = renewal{written: lease.Spec.RenewTime.Time, holds: now.Add(duration)}
		r.seen[node] = last
	}
	return last.holds
}
