package store

import (
	"strings"
)

// The layout of the key space. Objects and ephemeral objects are kept apart, so that
// either can be treated alone (backup, compaction).
const (
	objectPrefix    = "/o/"
	ephemeralPrefix = "/e/"
	fenceKey        = "/fence"
	manifestKey     = "/manifest"
)

// versionBits is how far a revision is shifted in a version, to leave room for the
// index in the batch. All ones means "after the whole revision".
const (
	versionBits  = 12
	progressMark = 1<<versionBits - 1
	// maxWrites of a batch: below progressMark, and with the manifest below the
	// transaction limit that etcdnode sets.
	maxWrites = 4000
)

// VersionOf returns the version of the write with the given index in a revision.
func VersionOf(revision int64, index int) uint64 {
	return uint64(revision)<<versionBits | uint64(index)
}

// ProgressOf returns the version that follows everything in a revision.
func ProgressOf(revision int64) uint64 {
	return uint64(revision)<<versionBits | progressMark
}

// RevisionOf returns the revision a version belongs to.
func RevisionOf(version uint64) int64 { return int64(version >> versionBits) }

// path is the stored form of a key: "/o/pods/default/web"; the namespace is empty for
// cluster-scoped kinds. No part can hold a slash.
func path(k Key, ephemeral bool) string {
	prefix := objectPrefix
	if ephemeral {
		prefix = ephemeralPrefix
	}
	return prefix + k.Resource + "/" + k.Namespace + "/" + k.Name
}

// Prefixes are what the keys of a resource's objects begin with in the backend.
func Prefixes(resource string) []string {
	return []string{objectPrefix + resource + "/", ephemeralPrefix + resource + "/"}
}

// KeyOf returns the object that a key of the backend stands for; ok is false for keys that
// are no objects.
func KeyOf(backendKey string) (k Key, ok bool) {
	k, _, ok = parsePath(backendKey)
	return k, ok
}

// parsePath reverses path; ok is false for keys that are no objects.
func parsePath(p string) (k Key, ephemeral, ok bool) {
	rest, found := strings.CutPrefix(p, objectPrefix)
	if !found {
		if rest, found = strings.CutPrefix(p, ephemeralPrefix); !found {
			return Key{}, false, false
		}
		ephemeral = true
	}
	k.Resource, rest, found = strings.Cut(rest, "/")
	if !found {
		return Key{}, false, false
	}
	k.Namespace, k.Name, found = strings.Cut(rest, "/")
	return k, ephemeral, found && k.valid()
}

// valid says whether path and parsePath agree about k.
func (k Key) valid() bool {
	return k.Resource != "" && k.Name != "" && !strings.Contains(k.Resource, "/") &&
		!strings.Contains(k.Namespace, "/") && !strings.Contains(k.Name, "/")
}
