//go:build mutant_dropevent

package store

// isDropped loses what every 500th revision changed: a mistake that test/faults must find.
func isDropped(d delivery) bool { return RevisionOf(d.progress)%500 == 0 }
