package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// copyTimeout bounds the copy of a database.
const copyTimeout = 30 * time.Minute

// WriteDatabase writes a copy of a member's database as of one moment to w and returns the revision
// that the copy holds at least: one that was current when this was called.
func (s *Separate) WriteDatabase(w io.Writer) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), copyTimeout)
	defer cancel()
	out := &checked{w: w, sum: sha256.New()}
	var faults []error
	for _, endpoint := range s.cfg.Endpoints {
		revision, err := s.copyOf(ctx, endpoint, out)
		if err == nil {
			return revision, nil
		}
		faults = append(faults, fmt.Errorf("copy the database of etcd at %s: %w", endpoint, err))
		if out.begun {
			break // another's would not fit what is written
		}
	}
	return 0, errors.Join(faults...)
}

func (s *Separate) copyOf(ctx context.Context, endpoint string, out *checked) (revision int64, err error) {
	member, err := s.dial(endpoint)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, member.Close()) }()
	// Linearizable: the member has then applied all that was written before.
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	resp, err := member.Get(asked, clusterKey, clientv3.WithKeysOnly())
	cancel()
	if err != nil {
		return 0, translate(err)
	}
	stream, err := member.Snapshot(ctx)
	if err != nil {
		return 0, translate(err)
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	if _, err := io.Copy(out, stream); err != nil {
		return 0, err
	}
	return resp.Header.Revision, out.check()
}

// checked passes on all but the last bytes, which are the digest that etcd sends after a database.
type checked struct {
	w     io.Writer
	sum   hash.Hash
	held  []byte
	begun bool
}

// Write implements io.Writer.
func (c *checked) Write(p []byte) (int, error) {
	all := append(c.held, p...)
	pass := all[:max(0, len(all)-sha256.Size)]
	if len(pass) > 0 {
		c.begun = true
		_, _ = c.sum.Write(pass) // it never fails
		if _, err := c.w.Write(pass); err != nil {
			return 0, err
		}
	}
	c.held = bytes.Clone(all[len(pass):])
	return len(p), nil
}

// check fails unless the digest is that of what was passed on.
func (c *checked) check() error {
	if !c.begun || !bytes.Equal(c.held, c.sum.Sum(nil)) {
		return errors.New("the copy is not what etcd's digest says: it was cut short or damaged on the way")
	}
	return nil
}
