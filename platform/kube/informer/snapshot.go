package informer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// A snapshot file holds a magic line, then length-prefixed records: the kind's type
// URL, each object's encoding, an empty record, and the CRC-32 of all before it.
const snapshotMagic = "kijabi snapshot 1\n"

// snapshotDelay is how long changes gather before the file is written anew.
const snapshotDelay = 500 * time.Millisecond

// run follows the collection and, if asked to, keeps its snapshot.
func (inf *Informer[T]) run(ctx context.Context) error {
	if inf.opts.snapshot == "" {
		return inf.follow(ctx)
	}
	return lifecycle.RunAll(ctx, inf.follow, inf.restoreIfAlone, inf.keepSnapshot)
}

// restoreIfAlone loads the snapshot when no master answered in time.
func (inf *Informer[T]) restoreIfAlone(ctx context.Context) error {
	select {
	case <-inf.synced:
	case <-ctx.Done():
	case <-time.After(inf.opts.snapshotGrace):
		objects, err := readSnapshot(inf.kind, inf.opts.snapshot)
		if errors.Is(err, fs.ErrNotExist) {
			break // a first start: there is nothing to go on with
		}
		if err != nil {
			inf.log.Error("snapshot unusable", zap.String("file", inf.opts.snapshot), zap.Error(err))
			break
		}
		inf.restore(objects)
	}
	<-ctx.Done()
	return nil
}

func (inf *Informer[T]) restore(objects []object.Object) {
	inf.handlersMu.Lock()
	defer inf.handlersMu.Unlock()
	inf.mu.Lock()
	if inf.live {
		inf.mu.Unlock()
		return // a master answered meanwhile
	}
	changes := make([]change[T], 0, len(objects))
	for _, obj := range objects {
		typed := obj.(T)
		if _, known := inf.items[object.KeyOf(typed)]; !known {
			changes = append(changes, inf.put(typed))
		}
	}
	inf.stale = true
	inf.mu.Unlock()
	for _, c := range changes {
		for _, handler := range inf.handlers {
			handler(c.before, c.after)
		}
	}
	inf.log.Warn("no master answers, serving from the snapshot", zap.Int("objects", len(objects)))
	inf.syncedOnce.Do(func() { close(inf.synced) })
}

// keepSnapshot writes the file once the collection is there, some time after each
// change, and when ctx ends.
func (inf *Informer[T]) keepSnapshot(ctx context.Context) error {
	var written uint64
	dirty := make(chan struct{}, 1)
	inf.OnChange(func(_, _ T) {
		select {
		case dirty <- struct{}{}:
		default:
		}
	})
	var synced <-chan struct{} = inf.synced
	for {
		select {
		case <-synced: // also when the collection is empty: that, too, is knowledge
			synced = nil
		case <-dirty:
			select {
			case <-time.After(snapshotDelay):
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		if err := inf.writeSnapshot(&written); err != nil {
			inf.log.Error("snapshot not written", zap.String("file", inf.opts.snapshot), zap.Error(err))
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// writeSnapshot writes the collection if masters confirmed it and it changed since written.
func (inf *Informer[T]) writeSnapshot(written *uint64) error {
	inf.mu.RLock()
	if !inf.live || inf.version == *written {
		inf.mu.RUnlock()
		return nil
	}
	version := inf.version
	objects := make([]object.Object, 0, len(inf.items))
	for _, kept := range inf.items {
		objects = append(objects, kept.get())
	}
	inf.mu.RUnlock()
	if err := saveSnapshot(inf.kind, inf.opts.snapshot, objects); err != nil {
		return err
	}
	*written = version
	return nil
}

func saveSnapshot(kind object.Kind, path string, objects []object.Object) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
			_ = os.Remove(file.Name())
		}
	}()
	sum := crc32.NewIEEE()
	out := bufio.NewWriter(file)
	w := io.MultiWriter(out, sum)
	if _, err := io.WriteString(w, snapshotMagic); err != nil {
		return err
	}
	if err := writeRecord(w, []byte(kind.TypeURL())); err != nil {
		return err
	}
	for _, obj := range objects {
		value, err := obj.Marshal()
		if err != nil {
			return fmt.Errorf("encode %s: %w", object.KeyOf(obj), err)
		}
		if err := writeRecord(w, value); err != nil {
			return err
		}
	}
	if err := writeRecord(w, nil); err != nil {
		return err
	}
	if err := binary.Write(out, binary.BigEndian, sum.Sum32()); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func writeRecord(w io.Writer, value []byte) error {
	if _, err := w.Write(binary.AppendUvarint(nil, uint64(len(value)))); err != nil {
		return err
	}
	_, err := w.Write(value)
	return err
}

func readSnapshot(kind object.Kind, path string) ([]object.Object, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(data) < len(snapshotMagic)+4 || string(data[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%s is not a snapshot", path)
	}
	body, sum := data[:len(data)-4], binary.BigEndian.Uint32(data[len(data)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return nil, fmt.Errorf("%s is damaged: its checksum does not match", path)
	}
	rest := body[len(snapshotMagic):]
	next := func() ([]byte, error) {
		n, width := binary.Uvarint(rest)
		if width <= 0 || n > uint64(len(rest)-width) {
			return nil, fmt.Errorf("%s is damaged: a record is cut short", path)
		}
		value := rest[width : width+int(n)]
		rest = rest[width+int(n):]
		return value, nil
	}
	url, err := next()
	if err != nil {
		return nil, err
	}
	if string(url) != kind.TypeURL() {
		return nil, fmt.Errorf("%s holds %s, not %s", path, url, kind.TypeURL())
	}
	var objects []object.Object
	for {
		value, err := next()
		if err != nil {
			return nil, err
		}
		if len(value) == 0 {
			return objects, nil
		}
		obj, err := object.Decode(kind, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		objects = append(objects, obj)
	}
}
