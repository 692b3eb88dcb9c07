//go:build !mutant_nocomponentepoch

package store

// isFenced says whether a write under an epoch comes too late; 0 is none.
func isFenced(epoch, current uint64) bool { return epoch != 0 && epoch != current }
