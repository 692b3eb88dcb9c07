// Package snapshot makes copies of the cluster's objects, keeps them in an archive, and checks
// them by a restoration on trial.
//
// A snapshot is an age file (https://age-encryption.org/v1) whose file key is wrapped by the
// cluster's storage key, the ID of which is in clear: keys that were replaced open their
// snapshots for as long as they are kept. Inside are the length of the header (4 bytes), the
// header in JSON, a copy of etcd's database, and the SHA-256 of both.
package snapshot

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"filippo.io/age"

	"kijabi.dev/apiserver/internal/storage/sealed"
)

// format is the version of what is inside the age file.
const format = 1

const (
	// stanza is the type of age's recipient stanza that holds the wrapped file key.
	stanza = "kijabi-storage-key"
	// purpose tells wrapped file keys from everything else that a storage key seals.
	purpose = "kijabi snapshot"
	// maxHeader bounds the header in bytes.
	maxHeader = 1 << 20
)

// Header says what a snapshot is of.
type Header struct {
	// Format is set by Write.
	Format    int    `json:"format"`
	ClusterID string `json:"clusterID"`
	// Generation is how often the cluster had been restored or recovered.
	Generation uint64 `json:"generation"`
	// Master that made it.
	Master string `json:"master"`
	// Revision of etcd that it holds at least.
	Revision int64 `json:"revision"`
	// Epoch of the leader at that time.
	Epoch uint64 `json:"epoch"`
	// Time when it was begun, by the master's clock.
	Time time.Time `json:"time"`
	// Version of the program.
	Version string `json:"version"`
	// Members were the masters.
	Members []Member `json:"members"`
}

// Member of the masters.
type Member struct {
	Name        string `json:"name"`
	PeerAddress string `json:"peerAddress"`
	Role        string `json:"role"`
}

// ErrDamaged is returned for a file that is no whole, unchanged snapshot.
var ErrDamaged = errors.New("the snapshot is damaged, cut short or was tampered with")

// recipient wraps file keys with the storage key that seals.
type recipient struct{ keys *sealed.Keys }

var _ age.Recipient = recipient{}

// Wrap implements age.Recipient.
func (r recipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	id, wrapped := r.keys.Wrap(purpose, fileKey)
	return []*age.Stanza{{Type: stanza, Args: []string{id}, Body: wrapped}}, nil
}

// identity unwraps file keys with whichever storage key they need.
type identity struct {
	keys *sealed.Keys
	// missing is why the storage key could not be had.
	missing error
}

var _ age.Identity = (*identity)(nil)

// Unwrap implements age.Identity.
func (i *identity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type != stanza || len(s.Args) != 1 {
			continue
		}
		fileKey, err := i.keys.Unwrap(purpose, s.Args[0], s.Body)
		if err != nil {
			i.missing = err
		}
		return fileKey, err
	}
	return nil, age.ErrIncorrectIdentity
}

// Write writes a snapshot to w, of the database that copyTo writes.
func Write(w io.Writer, keys *sealed.Keys, h Header, copyTo func(io.Writer) error) error {
	h.Format = format
	header, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode the snapshot's header: %w", err)
	}
	out, err := age.Encrypt(w, recipient{keys})
	if err != nil {
		return fmt.Errorf("encrypt the snapshot: %w", err)
	}
	digest := sha256.New()
	both := io.MultiWriter(out, digest)
	if _, err := both.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(header))), header...)); err != nil {
		return fmt.Errorf("write the snapshot's header: %w", err)
	}
	if err := copyTo(both); err != nil {
		return err
	}
	if _, err := out.Write(digest.Sum(nil)); err != nil {
		return fmt.Errorf("write the snapshot's digest: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write the snapshot's end: %w", err)
	}
	return nil
}

// Reader reads a snapshot.
type Reader struct {
	Header Header

	plain io.Reader
	read  []byte // the header as it was read, for the digest
}

// Open reads the header. Nothing is believed that the cluster's key has not authenticated;
// that of the database is only so once Extract has returned nil.
func Open(r io.Reader, keys *sealed.Keys) (*Reader, error) {
	opener := &identity{keys: keys}
	plain, err := age.Decrypt(r, opener)
	switch {
	case opener.missing != nil:
		return nil, fmt.Errorf("open the snapshot: %w", opener.missing)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	length := make([]byte, 4)
	if _, err := io.ReadFull(plain, length); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	size := binary.BigEndian.Uint32(length)
	if size > maxHeader {
		return nil, fmt.Errorf("%w: its header has %d bytes", ErrDamaged, size)
	}
	header := make([]byte, size)
	if _, err := io.ReadFull(plain, header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	s := &Reader{plain: plain, read: slices.Concat(length, header)}
	if err := json.Unmarshal(header, &s.Header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	if s.Header.Format != format {
		return nil, fmt.Errorf("the snapshot has format %d, this version of Kijabi reads %d: use the version that made it, %s", s.Header.Format, format, s.Header.Version)
	}
	return s, nil
}

// Extract writes the database to w. It can be called once.
func (s *Reader) Extract(w io.Writer) error {
	digest := sha256.New()
	_, _ = digest.Write(s.read)
	tail := &tail{to: io.MultiWriter(w, digest)}
	if _, err := io.Copy(tail, s.plain); err != nil {
		if tail.failed != nil {
			return fmt.Errorf("write the snapshot's database: %w", tail.failed)
		}
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if subtle.ConstantTimeCompare(tail.held, digest.Sum(nil)) != 1 {
		return fmt.Errorf("%w: its digest differs", ErrDamaged)
	}
	return nil
}

// tail passes on all but the last bytes, which are the digest.
type tail struct {
	to     io.Writer
	held   []byte
	failed error
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	all := append(t.held, b...)
	if len(all) > sha256.Size {
		pass := all[:len(all)-sha256.Size]
		if _, t.failed = t.to.Write(pass); t.failed != nil {
			return 0, t.failed
		}
		all = all[len(pass):]
	}
	t.held = bytes.Clone(all)
	return len(b), nil
}
