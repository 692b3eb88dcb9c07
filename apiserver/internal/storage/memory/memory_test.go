package memory

import (
	"testing"

	"kijabi.dev/apiserver/internal/storage/storagetest"
	"kijabi.dev/apiserver/internal/store"
)

func TestConforms(t *testing.T) {
	storagetest.Run(t, storagetest.Suite{
		New:     func(*testing.T) store.Backend { return New() },
		Compact: func(_ *testing.T, b store.Backend, revision int64) { b.(*Backend).Compact(revision) },
	})
}
