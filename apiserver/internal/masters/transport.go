package masters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// Kinds of PeerService.Raft requests.
const (
	kindAppendEntries = "AppendEntries"
	kindRequestVote   = "RequestVote"
	kindPreVote       = "RequestPreVote"
	kindTimeoutNow    = "TimeoutNow"
)

const (
	// voteTimeout bounds heartbeats, votes and the like, which are answered from memory or
	// after one sync; a peer that does not answer must not hold up the next attempt.
	voteTimeout = 500 * time.Millisecond
	// appendTimeout bounds what may wait for a slow disk.
	appendTimeout = 5 * time.Second
	// snapshotTimeout bounds the transfer of a roster, which is small.
	snapshotTimeout = 30 * time.Second
	snapshotPiece   = 256 << 10
)

// transport carries raft over PeerService. Pipelining is off: it can wedge a follower
// for good (hashicorp/raft issue 612). Heartbeats run beside disk writes, each call being
// its own stream.
type transport struct {
	local    raft.ServerAddress
	peer     func(address string) (peerv1pb.PeerServiceClient, error)
	now      func() time.Time
	incoming chan raft.RPC
	done     chan struct{}
	close    sync.Once
	// generation is sent along; set before raft starts.
	generation uint64
	raft       atomic.Pointer[raft.Raft] // once it has started

	mu        sync.Mutex
	heartbeat func(raft.RPC)
	answered  map[string]time.Time // when a peer address last answered an append
	matched   map[string]uint64    // up to where the log at a peer address is the leader's
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

func newTransport(local string, now func() time.Time, peer func(string) (peerv1pb.PeerServiceClient, error)) *transport {
	return &transport{
		local: raft.ServerAddress(local), peer: peer, now: now,
		incoming: make(chan raft.RPC), done: make(chan struct{}), answered: map[string]time.Time{}, matched: map[string]uint64{},
	}
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.incoming }

// LocalAddr implements raft.Transport.
func (t *transport) LocalAddr() raft.ServerAddress { return t.local }

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(_ raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	timeout := appendTimeout
	if isHeartbeat(req) {
		timeout = voteTimeout
	}
	err := t.call(target, kindAppendEntries, timeout, req, resp)
	if err == nil {
		t.mu.Lock()
		t.answered[string(target)] = t.now()
		if !isHeartbeat(req) {
			t.matched[string(target)] = 0
			if resp.Success {
				t.matched[string(target)] = req.PrevLogEntry + uint64(len(req.Entries))
			}
		}
		t.mu.Unlock()
	}
	return err
}

// answeredAt is when a peer address last answered the leader's appends and heartbeats; zero if
// never.
func (t *transport) answeredAt(address string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[address]
}

// matchedUpTo is the last entry of the leader's log that a peer address is known to hold; 0 if none.
func (t *transport) matchedUpTo(address string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.matched[address]
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(_ raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.call(target, kindRequestVote, voteTimeout, req, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(_ raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.call(target, kindPreVote, voteTimeout, req, resp)
}

// TimeoutNow implements raft.Transport.
func (t *transport) TimeoutNow(_ raft.ServerID, target raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.call(target, kindTimeoutNow, voteTimeout, req, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(_ raft.ServerID, target raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	peer, err := t.peer(string(target))
	if err != nil {
		return err
	}
	head, err := pack(req)
	if err != nil {
		return fmt.Errorf("encode snapshot request: %w", err)
	}
	ctx, cancel := t.context(snapshotTimeout)
	defer cancel()
	stream, err := peer.InstallSnapshot(ctx)
	if err != nil {
		return fmt.Errorf("install snapshot on %s: %w", target, err)
	}
	if err := stream.Send(&peerv1pb.InstallSnapshotRequest{Head: head, Generation: t.generation}); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("install snapshot on %s: %w", target, err)
	}
	piece := make([]byte, snapshotPiece)
	for {
		n, readErr := data.Read(piece)
		if n > 0 {
			if err := stream.Send(&peerv1pb.InstallSnapshotRequest{Data: piece[:n]}); err != nil {
				break // CloseAndRecv says why
			}
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return fmt.Errorf("read snapshot: %w", readErr)
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return fmt.Errorf("install snapshot on %s: %w", target, err)
	}
	return decodeAnswer(answer.GetBody(), answer.GetError(), resp)
}

// EncodePeer implements raft.Transport.
func (t *transport) EncodePeer(_ raft.ServerID, address raft.ServerAddress) []byte {
	return []byte(address)
}

// DecodePeer implements raft.Transport.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = handle
}

// Close implements raft.WithClose.
func (t *transport) Close() error {
	t.close.Do(func() { close(t.done) })
	return nil
}

// context bounds a call; raft's own interface knows no contexts.
func (t *transport) context(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), timeout)
}

func (t *transport) call(target raft.ServerAddress, kind string, timeout time.Duration, req, resp any) error {
	peer, err := t.peer(string(target))
	if err != nil {
		return err
	}
	body, err := pack(req)
	if err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	ctx, cancel := t.context(timeout)
	defer cancel()
	answer, err := peer.Raft(ctx, &peerv1pb.RaftRequest{Kind: kind, Body: body, Generation: t.generation})
	if err != nil {
		return fmt.Errorf("%s to %s: %w", kind, target, err)
	}
	return decodeAnswer(answer.GetBody(), answer.GetError(), resp)
}

func decodeAnswer(body []byte, failure string, resp any) error {
	if err := unpack(body, resp); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if failure != "" {
		return errors.New(failure)
	}
	return nil
}

// isHeartbeat is how raft itself tells heartbeats from replication.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.Term != 0 && len(req.Addr) > 0 && req.PrevLogEntry == 0 && req.PrevLogTerm == 0 &&
		len(req.Entries) == 0 && req.LeaderCommitIndex == 0
}

// handle performs an incoming request.
func (t *transport) handle(ctx context.Context, kind string, body []byte) (*peerv1pb.RaftResponse, error) {
	var command any
	switch kind {
	case kindAppendEntries:
		command = &raft.AppendEntriesRequest{}
	case kindRequestVote:
		command = &raft.RequestVoteRequest{}
	case kindPreVote:
		command = &raft.RequestPreVoteRequest{}
	case kindTimeoutNow:
		command = &raft.TimeoutNowRequest{}
	default:
		return nil, fmt.Errorf("unknown raft request %q", kind)
	}
	if err := unpack(body, command); err != nil {
		return nil, fmt.Errorf("decode %s: %w", kind, err)
	}
	answer, failure, err := t.deliver(ctx, command, nil)
	if err != nil {
		return nil, err
	}
	return &peerv1pb.RaftResponse{Body: answer, Error: failure}, nil
}

// deliver hands a command to raft and encodes its answer.
func (t *transport) deliver(ctx context.Context, command any, data io.Reader) (answer []byte, failure string, err error) {
	responses := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: command, Reader: data, RespChan: responses}
	t.mu.Lock()
	heartbeat := t.heartbeat
	t.mu.Unlock()
	if req, ok := command.(*raft.AppendEntriesRequest); ok && heartbeat != nil && isHeartbeat(req) {
		heartbeat(rpc)
		t.repeatToCandidate(ctx, req)
	} else {
		select {
		case t.incoming <- rpc:
		case <-t.done:
			return nil, "", raft.ErrTransportShutdown
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
	select {
	case r := <-responses:
		if r.Error != nil {
			failure = r.Error.Error()
		}
		if answer, err = pack(r.Response); err != nil {
			return nil, "", fmt.Errorf("encode answer: %w", err)
		}
		return answer, failure, nil
	case <-t.done:
		return nil, "", raft.ErrTransportShutdown
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

// repeatToCandidate gives a heartbeat to raft once more, for its main loop, when raft has become a
// candidate beside it. A heartbeat that comes just then leaves a candidate that believes in a leader
// until the next one comes: it refuses others its vote for that leader's sake. If that was the
// leader's last and the candidate's log is not the newest, nobody is ever elected.
func (t *transport) repeatToCandidate(ctx context.Context, req *raft.AppendEntriesRequest) {
	group := t.raft.Load()
	if group == nil || group.State() != raft.Candidate {
		return
	}
	select {
	case t.incoming <- raft.RPC{Command: req, RespChan: make(chan raft.RPCResponse, 1)}:
	case <-t.done:
	case <-ctx.Done():
	}
}

// install performs an incoming snapshot; next returns its further pieces and io.EOF.
func (t *transport) install(ctx context.Context, head []byte, next func() ([]byte, error)) (*peerv1pb.InstallSnapshotResponse, error) {
	req := &raft.InstallSnapshotRequest{}
	if err := unpack(head, req); err != nil {
		return nil, fmt.Errorf("decode snapshot request: %w", err)
	}
	answer, failure, err := t.deliver(ctx, req, &pieces{next: next})
	if err != nil {
		return nil, err
	}
	return &peerv1pb.InstallSnapshotResponse{Body: answer, Error: failure}, nil
}

// pieces reads a stream of byte slices.
type pieces struct {
	next func() ([]byte, error)
	rest []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		var err error
		if p.rest, err = p.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
