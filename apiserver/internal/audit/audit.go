// Package audit writes what was asked of this apiserver, by whom and with which outcome, as
// lines of JSON in a file: audit.k8s.io/v1 events at the level Metadata. No content of
// requests or answers is in them.
//
// A request never waits for the file. What the file cannot take in time is dropped and
// counted, and the count is in the program's log.
package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/lifecycle"
)

const (
	// bufferBytes is what may wait for the file: several seconds of a busy master.
	bufferBytes = 8 << 20
	// gatherFor is how long lines gather before they are written; a master that is killed
	// loses no more than that.
	gatherFor = 100 * time.Millisecond
	// tellEvery is how often dropped lines are told of.
	tellEvery = 10 * time.Second
)

// Config of a Log.
type Config struct {
	// File the events are appended to; its directory is made. Required.
	File string
	// MaxBytes of a file, after which it is renamed and a new one begun. Rounded up to MiB. Required.
	MaxBytes int64
	// MaxFiles that are kept besides the present one. Required.
	MaxFiles int
	// Log is told of what was dropped. Required.
	Log *zap.Logger
}

// Log is the audit log. A nil Log drops everything. All methods are safe for concurrent use.
type Log struct {
	log  *zap.Logger
	file *rotatingFile
	wake chan struct{}

	mu      sync.Mutex
	waiting []byte
	lines   int64 // in waiting

	recorded, dropped atomic.Int64
}

// Open prepares the file. Run writes to it.
func Open(cfg Config) (*Log, error) {
	if cfg.File == "" || cfg.MaxBytes <= 0 || cfg.MaxFiles <= 0 || cfg.Log == nil {
		return nil, errors.New("audit: file, its bounds and log are required")
	}
	if err := os.MkdirAll(filepath.Dir(cfg.File), 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &Log{
		log: cfg.Log, wake: make(chan struct{}, 1),
		file: &rotatingFile{path: filepath.Clean(cfg.File), maxBytes: (cfg.MaxBytes + 1<<20 - 1) >> 20 << 20, keep: cfg.MaxFiles, log: cfg.Log},
	}, nil
}

// Record adds an event. It does not wait.
func (l *Log) Record(e *Event) {
	if l == nil {
		return
	}
	l.mu.Lock()
	if len(l.waiting) >= bufferBytes {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	l.waiting = e.append(l.waiting)
	l.lines++
	first := l.lines == 1
	l.mu.Unlock()
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Counts are the events written and those dropped since the start.
func (l *Log) Counts() (recorded, dropped int64) {
	if l == nil {
		return 0, 0
	}
	return l.recorded.Load(), l.dropped.Load()
}

// Run writes until ctx ends, and then what is left.
func (l *Log) Run(ctx context.Context) error {
	if l == nil {
		<-ctx.Done()
		return nil
	}
	return lifecycle.RunAll(ctx, l.write, l.tell)
}

func (l *Log) write(ctx context.Context) error {
	var spare []byte
	for {
		select {
		case <-ctx.Done():
			l.flush(spare)
			return l.file.close()
		case <-l.wake:
		}
		select {
		case <-ctx.Done():
		case <-time.After(gatherFor):
		}
		spare = l.flush(spare)
	}
}

// flush writes what waits; spare is taken for what comes next. It returns the next spare.
func (l *Log) flush(spare []byte) []byte {
	l.mu.Lock()
	data, lines := l.waiting, l.lines
	l.waiting, l.lines = spare[:0], 0
	l.mu.Unlock()
	if lines == 0 {
		return data
	}
	if err := l.append(data); err != nil {
		l.dropped.Add(lines)
		l.log.Error("audit events lost", zap.Int64("events", lines), zap.Error(err))
	} else {
		l.recorded.Add(lines)
	}
	if cap(data) > bufferBytes/4 {
		return nil // a burst is over
	}
	return data
}

// append writes whole lines, in pieces that a file can take.
func (l *Log) append(data []byte) error {
	limit := int(l.file.maxBytes)
	for len(data) > 0 {
		n := len(data)
		if n > limit {
			for n = limit; data[n-1] != '\n'; n-- {
			}
		}
		if err := l.file.write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// tell says now and then what was dropped.
func (l *Log) tell(ctx context.Context) error {
	var told int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lifecycle.UntilBeat(time.Now(), tellEvery)):
		}
		if dropped := l.dropped.Load(); dropped > told {
			l.log.Error("audit events dropped: the disk is too slow or full", zap.Int64("since_last", dropped-told), zap.Int64("in_all", dropped))
			told = dropped
		}
	}
}
