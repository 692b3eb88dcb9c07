package snapshot

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/storage/sealed"
)

// MakerConfig is what a Maker needs; fields are required unless said otherwise.
type MakerConfig struct {
	// Master that makes them.
	Master  string
	Archive Archive
	Keys    *sealed.Keys
	// Describe returns the header but for its revision and time.
	Describe func() Header
	// Revision is the newest of the local member, and Copy writes a copy of its database that
	// holds at least that.
	Revision func() int64
	Copy     func(io.Writer) (int64, error)
	// Scratch is a directory for the restoration on trial.
	Scratch string
	// KeepHourly and KeepDaily say what stays in the archive.
	KeepHourly, KeepDaily int
	Clock                 clock.PassiveClock
	Log                   *zap.Logger
}

// Maker makes snapshots of the local member's data. All methods are safe for concurrent use.
type Maker struct {
	cfg MakerConfig

	mu sync.Mutex // one at a time

	counts       sync.Mutex
	made, failed int64
}

// NewMaker returns a maker.
func NewMaker(cfg MakerConfig) *Maker { return &Maker{cfg: cfg} }

// Counts returns how many snapshots were made, and how many attempts failed.
func (m *Maker) Counts() (made, failed int64) {
	m.counts.Lock()
	defer m.counts.Unlock()
	return m.made, m.failed
}

// MakeFor makes the snapshot of a slot of time, unless the archive holds one that this master
// has made since the slot began.
func (m *Maker) MakeFor(ctx context.Context, slot time.Time) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all, err := m.cfg.Archive.List(ctx)
	if err != nil {
		return Entry{}, err
	}
	for _, entry := range all {
		if entry.Master == m.cfg.Master && !entry.Time.Before(slot) {
			return entry, nil
		}
	}
	return m.make(ctx)
}

// Make makes a snapshot, puts it into the archive, verifies what the archive then holds, and
// removes what need not be kept. One that does not pass is removed again.
func (m *Maker) Make(ctx context.Context) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.make(ctx)
}

func (m *Maker) make(ctx context.Context) (Entry, error) {
	began := m.cfg.Clock.Now()
	entry, err := m.put(ctx)
	m.counts.Lock()
	if err != nil {
		m.failed++
	} else {
		m.made++
	}
	m.counts.Unlock()
	if err != nil {
		return Entry{}, fmt.Errorf("snapshot of %s to %s: %w", m.cfg.Master, m.cfg.Archive, err)
	}
	m.cfg.Log.Info("snapshot made", zap.String("name", entry.Name), zap.Int64("bytes", entry.Bytes), zap.Duration("took", m.cfg.Clock.Since(began)))
	if err := m.prune(ctx); err != nil {
		m.cfg.Log.Warn("old snapshots not removed", zap.Error(err))
	}
	return entry, nil
}

func (m *Maker) put(ctx context.Context) (Entry, error) {
	header := m.header()
	entry, _ := parseName(nameOf(header))
	var err error
	entry.Bytes, err = m.cfg.Archive.Put(ctx, entry.Name, func(w io.Writer) error { return m.write(w, header) })
	if err != nil {
		return Entry{}, err
	}
	content, err := m.verify(ctx, entry.Name)
	if err != nil {
		if removeErr := m.cfg.Archive.Remove(ctx, entry.Name); removeErr != nil {
			m.cfg.Log.Error("bad snapshot not removed", zap.String("name", entry.Name), zap.Error(removeErr))
		}
		return Entry{}, fmt.Errorf("it does not pass the restoration on trial: %w", err)
	}
	if len(content.Unreadable) > 0 {
		m.cfg.Log.Warn("snapshot holds objects that cannot be read", zap.Strings("objects", content.Unreadable))
	}
	return entry, nil
}

func (m *Maker) header() Header {
	header := m.cfg.Describe()
	header.Master, header.Revision, header.Time = m.cfg.Master, m.cfg.Revision(), m.cfg.Clock.Now().UTC().Truncate(time.Second)
	return header
}

func (m *Maker) write(w io.Writer, header Header) error {
	return Write(w, m.cfg.Keys, header, func(w io.Writer) error {
		_, err := m.cfg.Copy(w)
		return err
	})
}

// Send makes a snapshot for w instead of the archive. It is not verified here. Name is called
// before anything is written.
func (m *Maker) Send(w io.Writer, name func(Entry) error) error {
	header := m.header()
	entry, _ := parseName(nameOf(header))
	if err := name(entry); err != nil {
		return err
	}
	return m.write(w, header)
}

// List is what the archive holds, newest first.
func (m *Maker) List(ctx context.Context) ([]Entry, error) { return m.cfg.Archive.List(ctx) }

func (m *Maker) verify(ctx context.Context, name string) (*Content, error) {
	file, err := m.cfg.Archive.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	if err := os.MkdirAll(m.cfg.Scratch, 0o700); err != nil {
		return nil, fmt.Errorf("directory for the restoration on trial: %w", err)
	}
	return Verify(ctx, file, m.cfg.Keys, m.cfg.Scratch)
}

func (m *Maker) prune(ctx context.Context) error {
	all, err := m.cfg.Archive.List(ctx)
	if err != nil {
		return err
	}
	for _, entry := range expired(all, m.cfg.KeepHourly, m.cfg.KeepDaily) {
		if err := m.cfg.Archive.Remove(ctx, entry.Name); err != nil {
			return err
		}
	}
	return nil
}
