package etcdnode

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/store"
)

// written is the data of a member that has ended: 200 keys of 2 KiB.
func written(t *testing.T) Config {
	t.Helper()
	cfg := Config{Name: "a", Dir: t.TempDir(), PeerURL: freeURL(t), ClusterToken: "test", Log: zap.NewNop()}
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := n.Backend().Commit(t.Context(), "/fence", 0, []store.Op{{Key: "/fence", Value: []byte("a")}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		op := store.Op{Key: string(rune('a'+i%26)) + "/" + string(rune('a'+i/26)), Value: bytes.Repeat([]byte("v"), 2<<10)}
		if _, err := n.Backend().Commit(t.Context(), "/fence", guard, []store.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
	n.Close()
	return cfg
}

// flipIn inverts a bit of a file at an offset.
func flipIn(t *testing.T, file string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, offset); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 0x10
	if _, err := f.WriteAt(one, offset); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func unproved(t *testing.T, cfg Config) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(cfg.Dir, unprovenFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedFilesAreFound starts members whose last start has ended the process. Etcd itself would
// end this one.
func TestDamagedFilesAreFound(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, cfg Config){
		"log": func(t *testing.T, cfg Config) {
			logs, err := filepath.Glob(filepath.Join(cfg.Dir, "member", "wal", "*.wal"))
			if err != nil || len(logs) == 0 {
				t.Fatalf("logs %v: %v", logs, err)
			}
			flipIn(t, logs[0], 64<<10)
		},
		"page": func(t *testing.T, cfg Config) { // the type of the page that the root is
			file := filepath.Join(cfg.Dir, "member", "snap", "db")
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			size := int64(os.Getpagesize())
			for at := 2 * size; at < int64(len(content)); at += size {
				if content[at+8] == 1 || content[at+8] == 2 {
					flipIn(t, file, at+8)
				}
			}
		},
		"truncated": func(t *testing.T, cfg Config) {
			if err := os.Truncate(filepath.Join(cfg.Dir, "member", "snap", "db"), 8<<10); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := written(t)
			if err := Verify(t.Context(), cfg.Dir, cfg.Log); err != nil {
				t.Fatalf("before: %v", err)
			}
			damage(t, cfg)
			unproved(t, cfg)
			n, err := Start(t.Context(), cfg)
			var damaged *Damaged
			if !errors.As(err, &damaged) || damaged.Usable || damaged.Differs {
				if n != nil {
					n.Close()
				}
				t.Fatalf("started with %v, want Damaged", err)
			}
			t.Log(err)
		})
	}
}

// TestAnyFlippedBitIsSurvived looks at databases with a flipped bit anywhere.
func TestAnyFlippedBitIsSurvived(t *testing.T) {
	cfg := written(t)
	file := filepath.Join(cfg.Dir, "member", "snap", "db")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	random, found := rand.New(rand.NewPCG(1, 2)), 0
	for range 300 {
		page := random.Int64N(info.Size() / int64(os.Getpagesize()))
		offset := page*int64(os.Getpagesize()) + random.Int64N(64) // where pages' heads are
		flipIn(t, file, offset)
		if Verify(t.Context(), cfg.Dir, cfg.Log) != nil {
			found++
		}
		flipIn(t, file, offset)
	}
	if err := Verify(t.Context(), cfg.Dir, cfg.Log); err != nil || found == 0 {
		t.Errorf("found %d; with all bits restored: %v", found, err)
	}
}

// TestFailedDiskIsRemembered starts where a failed write has ended the process.
func TestFailedDiskIsRemembered(t *testing.T) {
	cfg := written(t)
	if err := os.WriteFile(filepath.Join(cfg.Dir, failedFile), []byte(syscall.EIO.Error()), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := Start(t.Context(), cfg)
		var damaged *Damaged
		if !errors.As(err, &damaged) || !damaged.Usable || damaged.Differs {
			t.Fatalf("started with %v, want Damaged", err)
		}
	}
	if err := Trust(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	for range 2 { // once trusted, it is forgotten
		n, err := Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
	}
}

// TestSpace fills a database and frees it by compaction and defragmentation.
func TestSpace(t *testing.T) {
	cfg := Config{Name: "a", Dir: t.TempDir(), PeerURL: freeURL(t), ClusterToken: "test", Log: zap.NewNop()}
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	guard, err := n.Backend().Commit(t.Context(), "/fence", 0, []store.Op{{Key: "/fence", Value: []byte("a")}})
	if err != nil {
		t.Fatal(err)
	}
	var revision int64
	for range 60 {
		if revision, err = n.Backend().Commit(t.Context(), "/fence", guard, []store.Op{{Key: "/o/x", Value: make([]byte, 1<<20)}}); err != nil {
			t.Fatal(err)
		}
	}
	n.Settle()
	s, err := n.Space()
	if err != nil || s.Limit < minLimit || s.Limit > maxLimit || s.Ceiling <= s.Limit || s.Free <= 0 || s.File < 50<<20 || s.InUse < 40<<20 {
		t.Errorf("space is %+v: %v", s, err)
	}
	if err := n.Compact(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	if s, err := n.Space(); err != nil || s.InUse > 10<<20 {
		t.Fatalf("%d bytes are in use after compaction: %v", s.InUse, err)
	}
	if err := n.Compact(t.Context(), revision); err != nil {
		t.Errorf("compacted again: %v", err)
	}
	before, after, err := n.Defragment()
	if err != nil || before < 50<<20 || after > 10<<20 {
		t.Errorf("defragmented from %d to %d: %v", before, after, err)
	}
	if _, err := n.Backend().Commit(t.Context(), "/fence", guard, []store.Op{{Key: "/o/y", Value: []byte("y")}}); err != nil {
		t.Error(err)
	}
}
