package etcdnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ErrRemoved means that the cluster goes on without this member.
var ErrRemoved = errors.New("has been removed from the masters of its cluster")

// Damaged is the error of a member whose data should be given up for that of the others.
type Damaged struct {
	// Reason for people.
	Reason string
	// Usable data can be served, for want of better: its disk failed once, or it differs from that
	// of another member, which may be the wrong one.
	Usable bool
	// Differs says that the files are whole, but not what others have.
	Differs bool
}

// Error implements error.
func (d *Damaged) Error() string {
	return "the data of this master's etcd member is damaged: " + d.Reason
}

// Files beside a member's data. They go with it when it is moved aside.
const (
	// unprovenFile is there while a member starts, and for provenAfter. Who finds it looks at the
	// data before etcd does, which ends the process over what it cannot read.
	unprovenFile = "unproven"
	// failedFile says which error of the disk ended the process.
	failedFile = "failed"
	// trustFile makes the next start take data that is usable.
	trustFile = "trusted"
)

// provenAfter is how long a member must have served for its data to count as readable.
const provenAfter = time.Minute

// Trust makes the next start in dir use data which an earlier one has called damaged but usable.
func Trust(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, trustFile), nil, 0o600); err != nil {
		return fmt.Errorf("take the data of %s in spite of its damage: %w", dir, err)
	}
	return nil
}

// MarkFailed tells the next start in dir that the disk has failed a write; as far as it still takes one.
func MarkFailed(dir string, err error) {
	_ = os.WriteFile(filepath.Join(dir, failedFile), fmt.Appendf(nil, "its disk failed: %v", err), 0o600)
}

// examine returns a *Damaged if what the last start left says that the data is, and notes that
// another start begins. With trust it lets usable data pass.
func examine(ctx context.Context, dir string, log *zap.Logger) (trust bool, err error) {
	if !Exists(dir) {
		return false, nil
	}
	trust = os.Remove(filepath.Join(dir, trustFile)) == nil
	if reason, err := os.ReadFile(filepath.Join(dir, failedFile)); err == nil {
		if !trust {
			return false, &Damaged{Reason: string(reason), Usable: true}
		}
		if err := os.Remove(filepath.Join(dir, failedFile)); err != nil {
			return false, fmt.Errorf("take the data of %s: %w", dir, err)
		}
	}
	unproven := filepath.Join(dir, unprovenFile)
	if _, err := os.Stat(unproven); err == nil {
		log.Info("the last start did not last, looking at the data", zap.String("dir", dir))
		if err := Verify(ctx, dir, log); err != nil {
			return false, err
		}
	}
	if err := os.WriteFile(unproven, nil, 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return false, fmt.Errorf("etcd's data directory: %w", err)
	}
	return trust, nil
}

// proven notes that the data could be read.
func proven(dir string) error {
	if err := os.Remove(filepath.Join(dir, unprovenFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Verify reads all data of a member that does not run, and returns a *Damaged if it is not readable.
func Verify(ctx context.Context, dir string, log *zap.Logger) error {
	if err := verifyLog(filepath.Join(dir, "member", "wal"), quiet(log)); err != nil {
		return judge("its log", err)
	}
	return VerifyFile(ctx, filepath.Join(dir, "member", "snap", "db"))
}

// VerifyFile reads all of a bbolt file that nobody uses, and returns a *Damaged if it is not readable.
// A file that does not exist is not damaged.
func VerifyFile(ctx context.Context, file string) error {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := verifyDatabase(ctx, file); err != nil {
		return judge(file, err)
	}
	return nil
}

// judge tells damage from what says nothing of the data.
func judge(what string, err error) error {
	system := syscall.Errno(0)
	switch {
	case errors.Is(err, syscall.EIO):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &system), errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("look at %s: %w", what, err)
	}
	return &Damaged{Reason: fmt.Sprintf("%s cannot be read: %v", what, err)}
}

func verifyLog(dir string, log *zap.Logger) error {
	snapshots, err := wal.ValidSnapshotEntries(log, dir)
	if err != nil {
		return err
	}
	from := &walpb.Snapshot{}
	if n := len(snapshots); n > 0 {
		from = snapshots[n-1]
	}
	w, err := wal.OpenForRead(log, dir, from)
	if err != nil {
		return err
	}
	_, _, _, err = w.ReadAll()
	if errors.Is(err, io.ErrUnexpectedEOF) { // a torn write, which etcd repairs
		err = nil
	}
	_ = w.Close() // it was only read
	return err
}

// verifyDatabase reads every page that is in use. What lies in damaged ones as an offset may lead
// outside of the file: the fault becomes an error.
func verifyDatabase(ctx context.Context, file string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			if err := verifyBucket(ctx, bucket, bytes.Equal(name, schema.Key.Name())); err != nil {
				return fmt.Errorf("bucket %q: %w", name, err)
			}
			return nil
		})
	})
}

func verifyBucket(ctx context.Context, bucket *bbolt.Bucket, keys bool) error {
	var last []byte
	first := true
	return bucket.ForEach(func(key, value []byte) error {
		if !first && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("entry %x follows %x", key, last)
		}
		last, first = key, false
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if keys {
			_, _, err := entry(key, value)
			return err
		}
		return nil
	})
}

// differs recognises etcd's refusal to start with other data than another member's; it has no error
// value.
func differs(err error) bool {
	return strings.Contains(err.Error(), "found data inconsistency with peers")
}

// diskFailed is what etcd's log does when it ends the process: over a failed write it may not be
// repeated, since the kernel may have dropped what was to be written. The next start is told.
type diskFailed struct{ dir string }

var _ zapcore.CheckWriteHook = diskFailed{}

// OnWrite implements zapcore.CheckWriteHook.
func (d diskFailed) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && errors.Is(err, syscall.EIO) {
			MarkFailed(d.dir, fmt.Errorf("%s: %w", entry.Message, err))
		}
	}
	os.Exit(1)
}
