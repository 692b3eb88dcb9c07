//go:build mutant_nocomponentepoch

package store

// isFenced lets writes of any epoch pass: a mistake that test/faults must find.
func isFenced(uint64, uint64) bool { return false }
