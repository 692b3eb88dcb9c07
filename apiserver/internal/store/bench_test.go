package store_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/storage/memory"
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
			start := s.Revision()
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
			b.ReportMetric(float64(b.N)/float64(s.Revision()-start), "commits/batch")
		})
	}
}

// BenchmarkFloor is what etcd alone makes of the same batches.
func BenchmarkFloor(b *testing.B) {
	body := []byte(strings.Repeat("x", 1024))
	for _, size := range []int{1, 32, 64, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			backend := member(b).Backend()
			fence, err := backend.Commit(b.Context(), "/fence", 0, []store.Op{{Key: "/fence"}})
			if err != nil {
				b.Fatal(err)
			}
			ops := make([]store.Op, size)
			for i := range ops {
				ops[i] = store.Op{Key: fmt.Sprintf("/o/pods/default/w%d", i), Value: body}
			}
			b.ResetTimer()
			for n := 0; n < b.N; n += size {
				if _, err := backend.Commit(b.Context(), "/fence", fence, ops); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// member starts an etcd of one.
func member(t testing.TB) *etcdnode.Node {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://%s", l.Addr())
	_ = l.Close()
	n, err := etcdnode.Start(context.Background(), etcdnode.Config{
		Name: "a", Dir: t.TempDir(), PeerURL: url, ClusterToken: "test", Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// BenchmarkSnapshot lists 50,000 objects, unchanged since the last list and changed.
func BenchmarkSnapshot(b *testing.B) {
	s := run(b, "a", memory.New(), func(c *store.Config) { c.Log = zap.NewNop() })
	s.lead()
	for i := 0; i < 50_000; i += 1000 {
		var writes []store.Write
		for j := range 1000 {
			writes = append(writes, set(pod(fmt.Sprintf("p%06d", i+j)), "node=a"))
		}
		commit(b, s, writes...)
	}
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			if len(s.Snapshot("pods", "").Records) != 50_000 {
				b.Fatal("objects are missing")
			}
		}
	})
	b.Run("changed", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			commit(b, s, set(pod("p000001"), "node=b"))
			b.StartTimer()
			if len(s.Snapshot("pods", "").Records) != 50_000 {
				b.Fatal("objects are missing")
			}
		}
	})
}

// BenchmarkFanOut has one writer and 100 watchers that each take every event.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 100
	s := run(b, "a", memory.New(), func(c *store.Config) { c.Log = zap.NewNop() })
	s.lead()
	seen := make(chan int, watchers)
	for range watchers {
		w := watch(b, s, store.WatchOptions{Resource: "pods", After: s.Version(), Buffer: 1 << 30})
		go func() {
			n := 0
			for n < b.N {
				batch, err := w.Next(b.Context())
				if err != nil {
					break
				}
				n += len(batch.Events)
			}
			seen <- n
		}()
	}
	b.ResetTimer()
	for i := range b.N {
		commit(b, s, set(pod("x"), fmt.Sprintf("v=%d", i)))
	}
	for range watchers {
		if n := <-seen; n != b.N {
			b.Errorf("a watcher saw %d of %d events", n, b.N)
		}
	}
	b.ReportMetric(float64(b.N)*watchers/b.Elapsed().Seconds(), "events/s")
}
