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
}

type renewal struct {
	written time.Time // as the Lease says; only compared for being another
	holds   time.Time // until when, by this machine's clock
}

// keep forgets nodes that are not among the sorted names, and all that an earlier term saw.
func (r *renewals) keep(names []string, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.since.Equal(since) || r.seen == nil {
		r.since, r.seen = since, map[string]renewal{}
	}
	maps.DeleteFunc(r.seen, func(node string, _ renewal) bool {
		_, known := slices.BinarySearch(names, node)
		return !known
	})
}

// heard returns the time from which a node that no master hears counts as silent: the end
// of its Lease, or since, if it keeps none. A Lease is believed when it is first seen, for
// this master cannot know how old it is.
func (r *renewals) heard(node string, lease *coordinationv1.Lease, now, since time.Time) time.Time {
	if lease == nil || lease.Spec.RenewTime == nil || lease.Annotations[heardAnnotation] != "" {
		return since
	}
	r.mu.Lock()
	defer r.mu.Unlock()
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
