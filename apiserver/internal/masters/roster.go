package masters

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

// Role of a member.
type Role string

// Roles.
const (
	Voter   Role = "voter"
	Learner Role = "learner"
	Spare   Role = "spare"
	// Leaving is on its way out of etcd, raft and the roster.
	Leaving Role = "leaving"
)

// Member is one master on the roster.
type Member struct {
	Name        string `json:"name"`
	PeerAddress string `json:"peerAddress"`
	EtcdPeerURL string `json:"etcdPeerURL"`
	GRPCAddress string `json:"grpcAddress"`
	RESTAddress string `json:"restAddress"`
	Role        Role   `json:"role"`
	// EtcdID is the etcd member's id, hexadecimal.
	EtcdID string `json:"etcdID"`
}

// command changes the roster; it is a raft log entry.
type command struct {
	ClusterID string         `json:"clusterID,omitempty"`
	Put       *Member        `json:"put,omitempty"`
	Remove    string         `json:"remove,omitempty"`
	Snapshot  *SnapshotState `json:"snapshot,omitempty"`
	// Damaged is a member that is removed because its data is, and may join again.
	Damaged string `json:"damaged,omitempty"`
}

// roster is raft's state machine: who the masters are.
type roster struct {
	mu        sync.Mutex
	clusterID string
	members   map[string]Member
	snapshot  SnapshotState
	damaged   map[string]bool
	changed   chan struct{} // closed at the next change
}

var _ raft.FSM = (*roster)(nil)

func newRoster() *roster {
	return &roster{members: map[string]Member{}, damaged: map[string]bool{}, changed: make(chan struct{})}
}

// list returns the members by name.
func (r *roster) list() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.members), func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
}

func (r *roster) get(name string) (Member, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, found := r.members[name]
	return m, found
}

// allDamaged are the former members that may join again.
func (r *roster) allDamaged() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.damaged))
}

func (r *roster) cluster() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clusterID
}

// Apply implements raft.FSM; it returns an error or nil.
func (r *roster) Apply(log *raft.Log) any {
	var c command
	if err := json.Unmarshal(log.Data, &c); err != nil {
		return fmt.Errorf("roster command %d: %w", log.Index, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.ClusterID != "" && r.clusterID == "" { // fixed once
		r.clusterID = c.ClusterID
	}
	if c.Put != nil {
		r.members[c.Put.Name] = *c.Put
		if c.Put.Role == Learner { // with new data
			delete(r.damaged, c.Put.Name)
		}
	}
	if c.Damaged != "" {
		r.damaged[c.Damaged] = true
	}
	if c.Remove != "" {
		delete(r.members, c.Remove)
	}
	close(r.changed)
	r.changed = make(chan struct{})
	if c.Snapshot != nil {
		if err := r.applySnapshot(c.Snapshot); err != nil {
			return err
		}
	}
	return nil
}

// content is the roster's snapshot.
type content struct {
	ClusterID string        `json:"clusterID"`
	Members   []Member      `json:"members"`
	Snapshot  SnapshotState `json:"snapshot,omitzero"`
	Damaged   []string      `json:"damaged,omitempty"`
}

// Snapshot implements raft.FSM.
func (r *roster) Snapshot() (raft.FSMSnapshot, error) {
	b, err := json.Marshal(content{ClusterID: r.cluster(), Members: r.list(), Snapshot: r.snapshotState(), Damaged: r.allDamaged()})
	if err != nil {
		return nil, fmt.Errorf("encode roster: %w", err)
	}
	return rosterSnapshot(b), nil
}

// Restore implements raft.FSM.
func (r *roster) Restore(in io.ReadCloser) error {
	defer func() { _ = in.Close() }()
	var c content
	if err := json.NewDecoder(in).Decode(&c); err != nil {
		return fmt.Errorf("restore roster: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clusterID, r.members, r.snapshot, r.damaged = c.ClusterID, map[string]Member{}, c.Snapshot, map[string]bool{}
	for _, name := range c.Damaged {
		r.damaged[name] = true
	}
	for _, m := range c.Members {
		r.members[m.Name] = m
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

type rosterSnapshot []byte

// Persist implements raft.FSMSnapshot.
func (s rosterSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return fmt.Errorf("write roster: %w", sinkError(sink, err))
	}
	return sink.Close()
}

func sinkError(sink raft.SnapshotSink, err error) error {
	_ = sink.Cancel()
	return err
}

// Release implements raft.FSMSnapshot.
func (rosterSnapshot) Release() {}
