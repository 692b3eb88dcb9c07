// Package etcd is the store.Backend on etcd: the one importer of its client.
//
// Given the in-process client of the embedded member, no call leaves the process but
// etcd's own replication.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"kijabi.dev/apiserver/internal/store"
)

// pageSize is the number of pairs read at once while loading.
const pageSize = 2000

// Backend implements store.Backend.
type Backend struct {
	client *clientv3.Client
}

var _ store.Backend = (*Backend)(nil)

// New returns a backend on client, which stays the caller's to close.
func New(client *clientv3.Client) *Backend { return &Backend{client: client} }

// Load implements store.Backend.
func (b *Backend) Load(ctx context.Context, prefix string, revision int64, yield func([]store.Pair) error) (int64, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision)}
		var resp *clientv3.GetResponse
		var err error
		if revision == 0 {
			err = rpctypes.ErrFutureRev
		} else { // which pins it
			resp, err = b.client.Get(ctx, from, append(slices.Clone(opts), clientv3.WithSerializable())...)
		}
		if errors.Is(err, rpctypes.ErrFutureRev) { // unknown, or not there yet at a member that lags
			resp, err = b.client.Get(ctx, from, opts...)
		}
		if err != nil {
			return 0, translate(err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		if len(resp.Kvs) > 0 {
			page := make([]store.Pair, len(resp.Kvs))
			for i, kv := range resp.Kvs {
				page[i] = pairOf(kv)
			}
			if err := yield(page); err != nil {
				return 0, err
			}
			from = page[len(page)-1].Key + "\x00"
		}
		if !resp.More {
			return revision, nil
		}
	}
}

// Watch implements store.Backend.
func (b *Backend) Watch(ctx context.Context, after int64, apply func(store.Revision) error) error {
	// An own context ends the watch when apply fails.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Without fragments etcd never divides a revision between responses.
	responses := b.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(after+1))
	for resp := range responses {
		if resp.CompactRevision != 0 {
			return store.ErrCompacted
		}
		if err := resp.Err(); err != nil {
			return translate(err)
		}
		for events := resp.Events; len(events) > 0; {
			r := store.Revision{Number: events[0].Kv.ModRevision}
			n := 0
			for n < len(events) && events[n].Kv.ModRevision == r.Number {
				if events[n].Type == mvccpb.Event_DELETE {
					r.Deletes = append(r.Deletes, string(events[n].Kv.Key))
				} else {
					r.Puts = append(r.Puts, pairOf(events[n].Kv))
				}
				n++
			}
			if err := apply(r); err != nil {
				return err
			}
			events = events[n:]
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("etcd ended the watch")
}

// Read implements store.Backend: a Range that is not serializable waits for the read index.
func (b *Backend) Read(ctx context.Context, key string) (store.Pair, int64, error) {
	resp, err := b.client.Get(ctx, key)
	if err != nil {
		return store.Pair{}, 0, translate(err)
	}
	if len(resp.Kvs) == 0 {
		return store.Pair{}, resp.Header.Revision, nil
	}
	return pairOf(resp.Kvs[0]), resp.Header.Revision, nil
}

// Commit implements store.Backend.
func (b *Backend) Commit(ctx context.Context, guardKey string, guard int64, ops []store.Op) (int64, error) {
	then := make([]clientv3.Op, len(ops))
	for i := range ops {
		if ops[i].Delete {
			then[i] = clientv3.OpDelete(ops[i].Key)
		} else {
			then[i] = clientv3.OpPut(ops[i].Key, "")
			then[i].WithValueBytes(ops[i].Value) // spares a copy
		}
	}
	resp, err := b.client.Txn(ctx).If(guarded(guardKey, guard)...).Then(then...).Commit()
	if err != nil {
		return 0, translate(err)
	}
	if !resp.Succeeded {
		return 0, store.ErrFenced
	}
	return resp.Header.Revision, nil
}

func pairOf(kv *mvccpb.KeyValue) store.Pair {
	return store.Pair{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
}

// translate turns etcd's errors into the store's. What etcd refuses before proposing it has
// certainly not happened; everything else may have.
func translate(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrDuplicateKey),
		errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyRequests),
		errors.Is(err, rpctypes.ErrEmptyKey):
		return fmt.Errorf("%w: %w", store.ErrRefused, err)
	}
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	}
	return fmt.Errorf("etcd: %w", err)
}

// Compact forgets the revisions before the given one. The fence must have been checked just
// before; doing it twice is harmless.
func (b *Backend) Compact(ctx context.Context, revision int64) error {
	if _, err := b.client.Compact(ctx, revision); err != nil {
		return translate(err)
	}
	return nil
}
