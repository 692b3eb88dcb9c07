package etcdnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"

	"kijabi.dev/apiserver/internal/store"
)

// WriteDatabase writes a copy of the member's database as of one moment to w, while the member
// goes on, and returns the revision that the copy holds at least.
func (n *Node) WriteDatabase(w io.Writer) (revision int64, err error) {
	revision = n.etcd.Server.KV().Rev()
	copied := n.etcd.Server.Backend().Snapshot()
	defer func() { err = errors.Join(err, copied.Close()) }()
	if _, err := copied.WriteTo(w); err != nil {
		return 0, fmt.Errorf("copy the database of etcd member %s: %w", n.cfg.Name, err)
	}
	return revision, nil
}

// Revision is the newest that the member has applied.
func (n *Node) Revision() int64 { return n.etcd.Server.KV().Rev() }

// DatabaseBytes is the size of the member's database file.
func (n *Node) DatabaseBytes() int64 { return n.etcd.Server.Backend().Size() }

// Database is a copy of a member's database, open for reading.
type Database struct{ db *bbolt.DB }

// OpenDatabase opens a copy and checks the structure of all of its pages. The file must not be
// that of a running member.
func OpenDatabase(path string) (*Database, error) {
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	var faults []error
	err = db.View(func(tx *bbolt.Tx) error {
		for fault := range tx.Check() {
			faults = append(faults, fault)
		}
		return nil
	})
	if err = errors.Join(err, errors.Join(faults...)); err != nil {
		return nil, errors.Join(fmt.Errorf("database %s is damaged: %w", path, err), db.Close())
	}
	return &Database{db: db}, nil
}

// Close releases the file.
func (d *Database) Close() error { return d.db.Close() }

// Each calls yield with every pair of the newest revision, in no order, and returns that
// revision. Values are valid during the call only.
func (d *Database) Each(ctx context.Context, yield func(store.Pair) error) (revision int64, err error) {
	err = d.db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(schema.Key.Name())
		if bucket == nil {
			return errors.New("it holds no bucket of keys")
		}
		newest := map[string][]byte{} // key to the place of its newest entry; revisions come in order
		err := bucket.ForEach(func(place, value []byte) error {
			at, kv, err := entry(place, value)
			if err != nil {
				return err
			}
			revision = max(revision, at)
			switch {
			case len(kv.GetKey()) == 0: // a restored database begins with a bare revision
			case mvcc.IsTombstone(place):
				delete(newest, string(kv.GetKey()))
			default:
				newest[string(kv.GetKey())] = place
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, place := range newest {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			_, kv, err := entry(place, bucket.Get(place))
			if err != nil {
				return err
			}
			if err := yield(store.Pair{Key: string(kv.GetKey()), Value: kv.GetValue(), Revision: kv.GetModRevision()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the database: %w", err)
	}
	return revision, nil
}

// revisionSize is the length of a revision that is a key of etcd's database; a tombstone's has
// a byte more.
const revisionSize = 17

func entry(place, value []byte) (revision int64, kv *mvccpb.KeyValue, err error) {
	if len(place) < revisionSize || len(place) > revisionSize+1 {
		return 0, nil, fmt.Errorf("an entry's revision has %d bytes", len(place))
	}
	kv = &mvccpb.KeyValue{}
	if err := proto.Unmarshal(value, kv); err != nil {
		return 0, nil, fmt.Errorf("the entry of revision %x: %w", place, err)
	}
	return mvcc.BytesToBucketKey(place).Main, kv, nil
}
