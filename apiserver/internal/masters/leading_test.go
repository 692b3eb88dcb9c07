package masters_test

import (
	"context"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/masters"
)

// leads is what a master last said about whether it leads.
func leads(t *testing.T, m *masters.Masters) bool {
	t.Helper()
	for leading := range m.WatchLeading(t.Context()) {
		return leading
	}
	t.Fatal("nothing is said about who leads")
	return false
}

// Who leads is confirmed by raft alone: neither a disk nor an etcd that is cut off matters, but a
// majority of the masters does.
func TestConfirmLeading(t *testing.T) {
	machines := where{}.form(t, 3)
	lead := leader(t, machines)
	confirm := func(m *machine) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return m.running.ConfirmLeading(ctx)
	}
	for _, mc := range machines {
		if got, err := leads(t, mc.running.Masters), confirm(mc); got != (mc == lead) || (err == nil) != (mc == lead) {
			t.Errorf("%s, while %s leads: %v, %v", mc.name, lead.name, got, err)
		}
	}
	lead.running.backend.cut.Store(true)
	if err := confirm(lead); err != nil {
		t.Errorf("a leader without its data: %v", err)
	}
	lead.running.backend.cut.Store(false)
	former := lead.running
	for _, mc := range machines {
		if mc != lead {
			mc.stop()
		}
	}
	eventually(t, "a leader without the others leads no longer", func() bool { return !leads(t, former.Masters) && confirm(lead) != nil })
}
