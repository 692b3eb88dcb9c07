package masters

import (
	"sync"
	"time"

	"k8s.io/utils/clock"

	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// nodeMemory is how long a node that nobody hears stays in the directory.
const nodeMemory = 15 * time.Minute

// Sighting is what the masters know of a node's connection.
type Sighting struct {
	Node string
	// Master that heard the node last, and holds its tunnel if Tunnel is set.
	Master string
	// Heard is when, by this machine's clock.
	Heard  time.Time
	Tunnel bool
}

// Directory is the masters' shared knowledge of who holds which node and when it was last
// heard. It is in memory only and begins empty: after a start or a change of leader, absence
// means nothing until a full grace period has passed. Safe for concurrent use.
type Directory struct {
	name  string
	clock clock.PassiveClock
	news  chan struct{} // holds one token when others should hear at once

	mu    sync.Mutex
	local map[string]Sighting
	// remote is by master, then node.
	remote map[string]map[string]Sighting
}

func newDirectory(name string, clk clock.PassiveClock) *Directory {
	return &Directory{
		name: name, clock: clk, news: make(chan struct{}, 1),
		local: map[string]Sighting{}, remote: map[string]map[string]Sighting{},
	}
}

// Hear notes that this master heard a node now, and whether it holds its tunnel.
func (d *Directory) Hear(node string, tunnel bool) {
	d.mu.Lock()
	before, known := d.local[node]
	d.local[node] = Sighting{Node: node, Master: d.name, Heard: d.clock.Now(), Tunnel: tunnel}
	d.mu.Unlock()
	if !known || before.Tunnel != tunnel {
		d.tell()
	}
}

// Drop notes that this master no longer holds the node's tunnel. When it was heard stays known.
func (d *Directory) Drop(node string) {
	d.mu.Lock()
	s, known := d.local[node]
	s.Tunnel = false
	if known {
		d.local[node] = s
	}
	d.mu.Unlock()
	if known {
		d.tell()
	}
}

func (d *Directory) tell() {
	select {
	case d.news <- struct{}{}:
	default:
	}
}

// Find returns the master that holds the node's tunnel, or else the one that heard it last.
func (d *Directory) Find(node string) (Sighting, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	best, found := d.local[node]
	for _, nodes := range d.remote {
		if s, known := nodes[node]; known {
			best, found = better(best, s), true
		}
	}
	return best, found
}

// All returns every known node's sighting, as Find would.
func (d *Directory) All() map[string]Sighting {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]Sighting, len(d.local))
	for node, s := range d.local {
		all[node] = s
	}
	for _, nodes := range d.remote {
		for node, s := range nodes {
			all[node] = better(all[node], s)
		}
	}
	return all
}

// better prefers a live tunnel, then the later sighting. The time heard is the latest of both.
func better(a, b Sighting) Sighting {
	if a.Node == "" {
		return b
	}
	heard := a.Heard
	if b.Heard.After(heard) {
		heard = b.Heard
	}
	chosen := a
	switch {
	case a.Tunnel && b.Tunnel, !a.Tunnel && !b.Tunnel:
		if b.Heard.After(a.Heard) {
			chosen = b
		}
	case b.Tunnel:
		chosen = b
	}
	chosen.Heard = heard
	return chosen
}

// report lists what this master heard itself, and forgets what is too old.
func (d *Directory) report() []*peerv1pb.NodeSeen {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := make([]*peerv1pb.NodeSeen, 0, len(d.local))
	for node, s := range d.local {
		age := d.clock.Since(s.Heard)
		if age > nodeMemory && !s.Tunnel {
			delete(d.local, node)
			continue
		}
		seen = append(seen, &peerv1pb.NodeSeen{Node: node, AgeMilliseconds: age.Milliseconds(), Tunnel: s.Tunnel})
	}
	return seen
}

// learn replaces what another master has reported. Ages are durations by its clock, so the
// two clocks need not agree.
func (d *Directory) learn(master string, seen []*peerv1pb.NodeSeen) {
	now := d.clock.Now()
	nodes := make(map[string]Sighting, len(seen))
	for _, s := range seen {
		age := max(time.Duration(s.GetAgeMilliseconds())*time.Millisecond, 0)
		nodes[s.GetNode()] = Sighting{Node: s.GetNode(), Master: master, Heard: now.Add(-age), Tunnel: s.GetTunnel()}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remote[master] = nodes
}

// lost notes that a master is not reached: it holds no tunnel as far as we can tell.
func (d *Directory) lost(master string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for node, s := range d.remote[master] {
		s.Tunnel = false
		d.remote[master][node] = s
	}
}

// forget drops a master that left the roster.
func (d *Directory) forget(master string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.remote, master)
}
