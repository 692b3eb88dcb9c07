package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/store"
)

// BenchmarkCommit measures writes of 1 KiB through a real etcd of one member.
func BenchmarkCommit(b *testing.B) {
	body := []byte(strings.Repeat("x", 1024))
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := run(b, "a", member(b).Backend(), func(c *store.Config) { c.Log = zap.NewNop() })
			s.lead()
			b.ReportAllocs()
			b.SetParallelism(max(1, writers/2)) // two processors
			var next atomic.Int64
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				k := pod(fmt.Sprintf("w%d", next.Add(1)))
				w := []store.Write{{Key: k, Decide: func(*store.Record) (store.Change, error) {
					return store.Change{Value: body}, nil
				}}}
				for pb.Next() {
					if _, err := s.Commit(context.Background(), store.Group{Writes: w, User: "bench"}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
