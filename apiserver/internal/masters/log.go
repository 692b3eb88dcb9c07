package masters

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// logStore keeps raft's log, term and vote in one bbolt file, each write synced to disk.
type logStore struct {
	db *bbolt.DB
	// broken is told of a write that the disk has failed, and must end the process: to repeat it
	// would prove nothing, since the kernel may have dropped what was to be written. May be nil.
	broken func(error)
}

var (
	_ raft.LogStore    = (*logStore)(nil)
	_ raft.StableStore = (*logStore)(nil)
)

// logFile in the data directory holds them.
const logFile = "raft.db"

// Bucket names.
const (
	logBucket    = "log"
	stableBucket = "stable"
)

func openLog(dir string) (*logStore, error) {
	file := filepath.Join(dir, logFile)
	// The timeout tells a second process on the same directory apart from a slow disk.
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 2 * time.Second, NoFreelistSync: true})
	if err != nil {
		return nil, fmt.Errorf("open %s (is another apiserver using it?): %w", file, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{logBucket, stableBucket} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", file, err), db.Close())
	}
	return &logStore{db: db}, nil
}

// update changes the file.
func (l *logStore) update(change func(tx *bbolt.Tx) error) error {
	err := l.db.Update(change)
	if errors.Is(err, syscall.EIO) && l.broken != nil {
		l.broken(err)
	}
	return err
}

func (l *logStore) Close() error { return l.db.Close() }

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

// FirstIndex implements raft.LogStore.
func (l *logStore) FirstIndex() (uint64, error) {
	return l.edge(func(c *bbolt.Cursor) []byte { k, _ := c.First(); return k })
}

// LastIndex implements raft.LogStore.
func (l *logStore) LastIndex() (uint64, error) {
	return l.edge(func(c *bbolt.Cursor) []byte { k, _ := c.Last(); return k })
}

func (l *logStore) edge(pick func(*bbolt.Cursor) []byte) (index uint64, err error) {
	err = l.db.View(func(tx *bbolt.Tx) error {
		if k := pick(tx.Bucket([]byte(logBucket)).Cursor()); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return index, err
}

// GetLog implements raft.LogStore.
func (l *logStore) GetLog(index uint64, log *raft.Log) error {
	return l.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte(logBucket)).Get(indexKey(index))
		if v == nil {
			return raft.ErrLogNotFound
		}
		return unpack(v, log)
	})
}

// StoreLog implements raft.LogStore.
func (l *logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (l *logStore) StoreLogs(logs []*raft.Log) error {
	return l.update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(logBucket))
		for _, log := range logs {
			v, err := pack(log)
			if err != nil {
				return fmt.Errorf("encode log %d: %w", log.Index, err)
			}
			if err := bucket.Put(indexKey(log.Index), v); err != nil {
				return fmt.Errorf("store log %d: %w", log.Index, err)
			}
		}
		return nil
	})
}

// DeleteRange implements raft.LogStore.
func (l *logStore) DeleteRange(first, last uint64) error {
	return l.update(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(logBucket)).Cursor()
		for k, _ := c.Seek(indexKey(first)); k != nil && binary.BigEndian.Uint64(k) <= last; k, _ = c.Seek(indexKey(first)) {
			if err := c.Delete(); err != nil {
				return fmt.Errorf("delete logs %d to %d: %w", first, last, err)
			}
		}
		return nil
	})
}

// Set implements raft.StableStore.
func (l *logStore) Set(key, value []byte) error {
	return l.update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(stableBucket)).Put(key, value) })
}

// Get implements raft.StableStore.
func (l *logStore) Get(key []byte) (value []byte, err error) {
	err = l.db.View(func(tx *bbolt.Tx) error {
		value = append([]byte{}, tx.Bucket([]byte(stableBucket)).Get(key)...)
		return nil
	})
	return value, err
}

// SetUint64 implements raft.StableStore.
func (l *logStore) SetUint64(key []byte, value uint64) error { return l.Set(key, indexKey(value)) }

// GetUint64 implements raft.StableStore.
func (l *logStore) GetUint64(key []byte) (uint64, error) {
	v, err := l.Get(key)
	if err != nil || len(v) == 0 {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("value of %s has %d bytes, want 8", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// pack and unpack are raft's message encoding on disk and wire.
func pack(v any) ([]byte, error) {
	var b []byte
	err := codec.NewEncoderBytes(&b, new(codec.MsgpackHandle)).Encode(v)
	return b, err
}

func unpack(b []byte, v any) error {
	return codec.NewDecoderBytes(b, new(codec.MsgpackHandle)).Decode(v)
}
