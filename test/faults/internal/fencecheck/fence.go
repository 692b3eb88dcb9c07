package fencecheck

import (
	"fmt"

	"kijabi.dev/test/faults/internal/history"
)

// Fence is what Epochs has found.
type Fence struct {
	// Claims of epochs, and the batches committed under them.
	Claims, Batches int
	// Stale counts batches that were committed under another epoch than the last claimed one.
	Stale int
	// Violations describe all that is wrong, stale batches too.
	Violations []string
}

// Epochs checks that in the order of revisions every batch has the epoch of the last claim
// before it, that batches of an epoch are counted without gaps, and that no object changed
// outside a batch.
func Epochs(ledger Ledger) Fence {
	var f Fence
	var epoch, batch uint64
	for _, r := range ledger {
		switch {
		case r.Claim && r.Manifest:
			f.violate("revision %d claims the fence and is a batch", r.Number)
		case r.Claim:
			f.Claims++
			epoch, batch = uint64(r.Number), 0
		case r.Manifest:
			f.Batches++
			if r.Epoch != epoch {
				f.Stale++
				f.violate("revision %d was committed under epoch %d while %d was claimed", r.Number, r.Epoch, epoch)
				continue
			}
			if r.Batch <= batch { // it may be skipped: a batch that was refused has a number, too
				f.violate("revision %d is batch %d of epoch %d, after batch %d", r.Number, r.Batch, r.Epoch, batch)
			}
			batch = r.Batch
		case len(r.Changes) > 0:
			f.violate("revision %d changed %s outside a guarded batch", r.Number, r.Changes[0].Path)
		}
	}
	return f
}

func (f *Fence) violate(format string, args ...any) {
	f.Violations = append(f.Violations, fmt.Sprintf(format, args...))
}

// SameData checks that members hold the same up to the newest revision that all have. members
// are their ledgers by name.
func SameData(members map[string]Ledger) (violations []string) {
	var name string
	var reference Ledger
	for other, ledger := range members {
		if len(ledger) == 0 {
			violations = append(violations, other+" holds nothing")
			continue
		}
		if reference == nil {
			name, reference = other, ledger
			continue
		}
		for i := range min(len(ledger), len(reference)) {
			if a, b := reference[i], ledger[i]; a.Number != b.Number || a.hash != b.hash {
				violations = append(violations, fmt.Sprintf("%s and %s differ from revision %d on (%d)", name, other, a.Number, b.Number))
				break
			}
		}
	}
	return violations
}

// Longest is the ledger that reaches furthest.
func Longest(members map[string]Ledger) Ledger {
	var longest Ledger
	for _, ledger := range members {
		if len(ledger) > len(longest) {
			longest = ledger
		}
	}
	return longest
}

// Lost checks acknowledged writes against the ledger: each is there, at the version that its
// client was told, once. prefix is the path of the objects' namespace. It counts the writes
// that were checked and those lost.
func Lost(ledger Ledger, prefix string, operations []history.Operation) (checked, lost int, violations []string) {
	made := map[string][]Change{} // by request
	for _, r := range ledger {
		for _, c := range r.Changes {
			if c.RequestID != "" {
				made[c.RequestID] = append(made[c.RequestID], c)
			}
		}
	}
	for _, o := range operations {
		if o.Verb == history.Get {
			continue
		}
		changes := made[o.RequestID]
		if len(changes) > 1 {
			violations = append(violations, fmt.Sprintf("done %d times: %s", len(changes), o))
		}
		switch o.Outcome {
		case history.OK:
			checked++
			if len(changes) == 0 {
				lost++
				violations = append(violations, fmt.Sprintf("lost: %s", o))
			} else if c := changes[0]; c.Path != prefix+o.Key || c.Version != o.Version || c.Delete != (o.Verb == history.Delete) {
				violations = append(violations, fmt.Sprintf("done otherwise than acknowledged, as %+v: %s", c, o))
			}
		case history.Unknown:
		default: // refused for good
			if len(changes) > 0 {
				violations = append(violations, fmt.Sprintf("refused and yet done, as %+v: %s", changes[0], o))
			}
		}
	}
	return checked, lost, violations
}

// State is what exists below a prefix at the ledger's end: the versions by the rest of the path.
func State(ledger Ledger, prefix string) map[string]uint64 {
	state := map[string]uint64{}
	for _, r := range ledger {
		for _, c := range r.Changes {
			if len(c.Path) <= len(prefix) || c.Path[:len(prefix)] != prefix {
				continue
			}
			if c.Delete {
				delete(state, c.Path[len(prefix):])
			} else {
				state[c.Path[len(prefix):]] = c.Version
			}
		}
	}
	return state
}

// Versions are the versions that requests for single writes have made, by request.
func Versions(ledger Ledger) map[string]uint64 {
	versions := map[string]uint64{}
	for _, r := range ledger {
		for _, c := range r.Changes {
			if c.RequestID != "" {
				versions[c.RequestID] = c.Version
			}
		}
	}
	return versions
}
