//go:build !mutant_dropevent

package store

// isDropped is never true: every delivery reaches its watchers.
func isDropped(delivery) bool { return false }
