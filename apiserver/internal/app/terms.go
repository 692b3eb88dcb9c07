package app

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// terms remembers since when this master leads.
type terms struct {
	store *store.Store
	clock clock.PassiveClock

	mu    sync.Mutex
	term  store.Term
	since time.Time
}

func newTerms(s *store.Store, clk clock.PassiveClock) *terms { return &terms{store: s, clock: clk} }

func (t *terms) run(ctx context.Context) error {
	for term := range t.store.WatchTerm(ctx) {
		t.mu.Lock()
		if term != t.term {
			t.term, t.since = term, t.clock.Now()
		}
		t.mu.Unlock()
	}
	return nil
}

func (t *terms) leadingSince() (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.since, t.term.Leading
}

// knownNodes lists the cluster's nodes from memory.
func knownNodes(objects *store.Store) func() []string {
	return func() []string {
		records := objects.Snapshot("nodes", "").Records
		names := make([]string, 0, len(records))
		for _, record := range records {
			names = append(names, record.Key.Name)
		}
		return names
	}
}

// nodeLease reads the Lease of a node from memory; nil if there is none.
func nodeLease(objects *store.Store) func(node string) *coordinationv1.Lease {
	kind := object.KindOf[*coordinationv1.Lease]()
	resource := kind.GVR.GroupResource().String()
	return func(node string) *coordinationv1.Lease {
		record, ok := objects.Get(store.Key{Resource: resource, Namespace: corev1.NamespaceNodeLease, Name: node})
		if !ok {
			return nil
		}
		obj, err := object.Decode(kind, record.Value)
		if err != nil {
			return nil // unreadable: it says nothing
		}
		return obj.(*coordinationv1.Lease)
	}
}

// restAddresses lists the REST doors of living masters.
func restAddresses(group *masters.Masters) func() []netip.AddrPort {
	return func() []netip.AddrPort {
		var out []netip.AddrPort
		for _, member := range group.Status().Members {
			address, err := netip.ParseAddrPort(member.RESTAddress)
			if err == nil && member.Alive {
				out = append(out, address)
			}
		}
		slices.SortFunc(out, netip.AddrPort.Compare)
		return out
	}
}
