package etcdnode

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver"
)

// hashTimeout bounds one member's answer; it reads its whole database.
const hashTimeout = 30 * time.Second

// Digest is a hash of all keys and values that a member has at a revision. Those with the same
// Compacted, of one revision, are equal on all members with the same data.
type Digest struct {
	Hash      uint32
	Compacted int64
}

// Digests asks all members for the digest of their data at a revision, which all must have applied.
// Who does not answer in time, or has not got that revision, is missing.
func (n *Node) Digests(ctx context.Context, revision int64) (map[uint64]Digest, error) {
	transport, err := peerTransport(tlsOf(n.cfg))
	if err != nil {
		return nil, fmt.Errorf("etcd member %s: %w", n.cfg.Name, err)
	}
	client := &http.Client{Transport: transport}
	server := n.etcd.Server
	own, _, err := server.KV().HashStorage().HashByRev(revision)
	if err != nil {
		return nil, fmt.Errorf("digest of etcd member %s at revision %d: %w", n.cfg.Name, revision, err)
	}
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	var mu sync.Mutex
	var asked sync.WaitGroup
	self := uint64(server.MemberID())
	digests := map[uint64]Digest{self: {Hash: own.Hash, Compacted: own.CompactRevision}}
	for _, m := range n.Members() {
		if m.ID == self {
			continue
		}
		asked.Go(func() {
			answer, err := etcdserver.HashByRev(ctx, server.Cluster().ID(), client, m.PeerURL, revision)
			if err != nil || answer.GetHashRevision() != revision {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			digests[m.ID] = Digest{Hash: answer.GetHash(), Compacted: answer.GetCompactRevision()}
		})
	}
	asked.Wait()
	return digests, nil
}
