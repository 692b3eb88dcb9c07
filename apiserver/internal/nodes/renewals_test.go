package nodes

import (
	"testing"
	"time"
)

// A node that registers late in a term must not be called silent for all of the term: it
// would be out of traffic before its first heartbeat.
func TestNodesThatComeLaterCountFromThen(t *testing.T) {
	began := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var r renewals
	r.keep([]string{"old"}, began.Add(time.Second), began)
	later := began.Add(time.Minute)
	r.keep([]string{"new", "old"}, later, began)
	r.keep([]string{"new", "old"}, later.Add(time.Second), began)
	for node, want := range map[string]time.Time{"old": began, "new": later} {
		if got := r.heard(node, nil, later.Add(time.Second)); !got.Equal(want) {
			t.Errorf("%s counts from %s, want %s", node, got, want)
		}
	}
	// One that leaves and comes again is new; in another term all are known from the beginning.
	r.keep([]string{"old"}, later.Add(2*time.Second), began)
	r.keep([]string{"new", "old"}, later.Add(3*time.Second), began)
	if got := r.heard("new", nil, later); !got.Equal(later.Add(3 * time.Second)) {
		t.Errorf("one that came again counts from %s", got)
	}
	term := later.Add(time.Hour)
	r.keep([]string{"new", "old"}, term.Add(time.Second), term)
	if got := r.heard("new", nil, later); !got.Equal(term) {
		t.Errorf("in a new term it counts from %s", got)
	}
}
