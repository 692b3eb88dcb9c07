package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// Content is what a restoration on trial has found.
type Content struct {
	Header Header `json:"header"`
	// Revision is the newest of the database.
	Revision int64 `json:"revision"`
	// Objects that were decoded.
	Objects int `json:"objects"`
	// Unreadable are objects that could not be decoded, with the reason. They were so in the
	// cluster, too, unless a key is missing.
	Unreadable []string `json:"unreadable,omitempty"`
}

// Verify restores a snapshot on trial: it decrypts all of it, compares the digest, checks the
// database, and decodes every object. The database lies in scratch meanwhile, under no name.
func Verify(ctx context.Context, r io.Reader, keys *sealed.Keys, scratch string) (_ *Content, err error) {
	file, header, err := Extract(r, keys, scratch)
	if err != nil {
		return nil, err
	}
	db, err := etcdnode.OpenDatabase(file)
	if err = errors.Join(err, os.Remove(file)); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	content, opener := &Content{Header: header}, sealed.NewOpener(keys)
	content.Revision, err = db.Each(ctx, func(pair store.Pair) error {
		key, ok := store.KeyOf(pair.Key)
		if !ok {
			return nil
		}
		if err := decode(opener, key, pair); err != nil {
			content.Unreadable = append(content.Unreadable, fmt.Sprintf("%s: %v", key, err))
			return nil
		}
		content.Objects++
		return nil
	})
	if err != nil {
		return nil, err
	}
	if content.Revision < header.Revision {
		return nil, fmt.Errorf("the database has revision %d, the snapshot's header says %d", content.Revision, header.Revision)
	}
	return content, nil
}

// Extract writes the database of a snapshot to a new file in dir, which is the caller's to
// remove, once all of the snapshot has proven to be whole.
func Extract(r io.Reader, keys *sealed.Keys, dir string) (file string, _ Header, err error) {
	reader, err := Open(r, keys)
	if err != nil {
		return "", Header{}, err
	}
	out, err := os.CreateTemp(dir, ".snapshot-*.db") // mode 0600
	if err != nil {
		return "", Header{}, fmt.Errorf("file for the snapshot's database: %w", err)
	}
	err = errors.Join(reader.Extract(out), out.Close())
	if err != nil {
		return "", Header{}, errors.Join(err, os.Remove(out.Name()))
	}
	return out.Name(), reader.Header, nil
}

// decode decodes one object as it is stored.
func decode(opener *sealed.Opener, key store.Key, pair store.Pair) error {
	plain, err := opener.Open(pair.Key, pair.Value)
	if err != nil {
		return err
	}
	encoding, err := store.EncodingOf(plain)
	if err != nil {
		return err
	}
	resource, group, _ := strings.Cut(key.Resource, ".")
	kind, ok := object.KindForResource(schema.GroupResource{Group: group, Resource: resource})
	if !ok {
		return new(object.Custom).Unmarshal(encoding)
	}
	_, err = object.Decode(kind, encoding)
	return err
}
