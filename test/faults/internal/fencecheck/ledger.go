// Package fencecheck reads what the members of a stopped cluster have on disk and checks it
// against what clients and the audit logs say: that epochs never go back and nothing of an old
// epoch was committed after a newer claim (I4), that nothing acknowledged is lost and nothing
// was done twice (I1), that all members hold the same (I13), and that each request was audited
// once (I15).
//
// It decodes the members' files by itself and shares no code with the apiserver: a mistake
// there is not repeated here.
package fencecheck

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Keys of the store that are no objects.
const (
	fenceKey    = "/fence"
	manifestKey = "/manifest"
)

// Change is one object's change in a revision.
type Change struct {
	// Path is the object's key in etcd, such as "/o/configmaps/default/a".
	Path   string
	Delete bool
	// Version is the resource version that the change gave; 0 when the revision's manifest does
	// not say.
	Version uint64
	// RequestID of the request that made it; empty for one without.
	RequestID string
}

// Revision is what one etcd transaction has done.
type Revision struct {
	Number int64
	// Claim is set when the revision claimed the fence, for Holder.
	Claim  bool
	Holder string
	// Manifest is set when the revision is a batch: of Epoch, the Batch-th of it.
	Manifest     bool
	Epoch, Batch uint64
	// Requests are the ids of the batch's requests, those that changed nothing but
	// short-lived objects among them.
	Requests []string
	Changes  []Change

	hash [sha256.Size]byte // of all it wrote
}

// Ledger is a member's whole history, in order.
type Ledger []Revision

// Open reads the file of a member that is stopped. Nothing of the history may have been
// compacted, which takes a day.
func Open(file string) (Ledger, error) {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	defer func() { _ = db.Close() }()
	var ledger Ledger
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("key"))
		if bucket == nil {
			return errors.New("it is no member's database")
		}
		return bucket.ForEach(func(key, value []byte) error {
			ledger, err = ledger.add(key, value)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	for i := range ledger {
		ledger[i].finish()
	}
	return ledger, nil
}

// add adds a pair: the key is a revision in eight bytes, an underscore, the place in the
// revision in eight bytes, and a t when the value's key was deleted.
func (l Ledger) add(key, value []byte) (Ledger, error) {
	if len(key) < 17 || key[8] != '_' {
		return l, fmt.Errorf("%x is no revision", key)
	}
	var pair mvccpb.KeyValue
	if err := proto.Unmarshal(value, &pair); err != nil {
		return l, fmt.Errorf("revision %x: %w", key, err)
	}
	number := int64(binary.BigEndian.Uint64(key))
	if len(l) == 0 || l[len(l)-1].Number != number {
		l = append(l, Revision{Number: number})
	}
	r := &l[len(l)-1]
	sum := sha256.New()
	sum.Write(r.hash[:])
	sum.Write(key)
	sum.Write(value)
	sum.Sum(r.hash[:0])
	removed := len(key) == 18 && key[17] == 't'
	switch path := string(pair.GetKey()); path {
	case fenceKey:
		r.Claim = true
		r.Holder, _, _ = strings.Cut(string(pair.GetValue()), " ")
	case manifestKey:
		if err := r.decodeManifest(pair.GetValue()); err != nil {
			return l, fmt.Errorf("manifest of revision %d: %w", number, err)
		}
	default:
		r.Changes = append(r.Changes, change(path, removed, pair.GetValue(), number))
	}
	return l, nil
}

// change of an object; a stored value in clear begins with a format (1) and its place in the batch.
func change(path string, removed bool, value []byte, revision int64) Change {
	c := Change{Path: path, Delete: removed}
	if !removed && len(value) >= 3 && value[0] == 1 {
		c.Version = versionOf(revision, int(binary.BigEndian.Uint16(value[1:])))
	}
	return c
}

// versionOf is the resource version of the change at a place of a revision.
func versionOf(revision int64, index int) uint64 { return uint64(revision)<<12 | uint64(index) }

// decodeManifest reads the format that ARCHITECTURE.md's store writes.
func (r *Revision) decodeManifest(b []byte) error {
	if len(b) == 0 || b[0] != 1 {
		return errors.New("unknown format")
	}
	in := input{rest: b[1:]}
	r.Manifest, r.Epoch, r.Batch = true, in.number(), in.number()
	in.number() // when, zigzag
	for range in.number() {
		in.text() // by whom
		id := in.text()
		r.Requests = append(r.Requests, id)
		in.number() // how many writes it had
		for range in.number() {
			in.number() // its place in the request
			op := in.number()
			r.Changes = append(r.Changes, Change{
				Path: in.text(), Delete: op&1 == 1, Version: versionOf(r.Number, int(op>>1)), RequestID: id,
			})
		}
	}
	if in.short {
		return errors.New("it is cut short")
	}
	return nil
}

// finish joins what the manifest and the values say about the same change.
func (r *Revision) finish() {
	byPath := map[string]Change{}
	for _, c := range r.Changes {
		known := byPath[c.Path]
		known.Path, known.Delete = c.Path, c.Delete
		known.Version = max(known.Version, c.Version)
		if c.RequestID != "" {
			known.RequestID = c.RequestID
		}
		byPath[c.Path] = known
	}
	r.Changes = r.Changes[:0]
	for _, c := range byPath {
		r.Changes = append(r.Changes, c)
	}
	slices.SortFunc(r.Changes, func(a, b Change) int {
		if a.Version != b.Version {
			return int(int64(a.Version) - int64(b.Version))
		}
		return strings.Compare(a.Path, b.Path)
	})
}

type input struct {
	rest  []byte
	short bool
}

func (in *input) number() uint64 {
	value, n := binary.Uvarint(in.rest)
	if n <= 0 {
		in.short, in.rest = true, nil
		return 0
	}
	in.rest = in.rest[n:]
	return value
}

func (in *input) text() string {
	n := in.number()
	if n > uint64(len(in.rest)) {
		in.short, in.rest = true, nil
		return ""
	}
	text := string(in.rest[:n])
	in.rest = in.rest[n:]
	return text
}
