package nodelifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/object"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// Liveness follows which nodes the masters hear. Times are this process's own
// monotonic clock: no machine's wall clock takes part.
type Liveness struct {
	nodes nodev1pb.NodeServiceClient
	clock clock.PassiveClock
	log   *zap.Logger

	mu      sync.Mutex
	heard   map[string]time.Time // when each node was last heard
	posts   map[string]post      // each node's last status
	fresh   bool                 // the stream is up
	enqueue []func(object.Key)
}

// NewLiveness returns a follower of the local apiserver's liveness stream.
func NewLiveness(nodes nodev1pb.NodeServiceClient, clk clock.PassiveClock, log *zap.Logger) *Liveness {
	return &Liveness{nodes: nodes, clock: clk, log: log, heard: map[string]time.Time{}, posts: map[string]post{}}
}

// post is a status that a node's kubelet wrote.
type post struct {
	heartbeat time.Time // as the kubelet wrote it, by its clock: only whether it changes counts
	seen      time.Time // by our clock; zero for the first one, which may be old
}

// retry is the pause before the stream is opened anew.
const retry = 200 * time.Millisecond

// Run follows the stream until ctx ends. While the stream is down nothing is known
// and Silence answers false.
func (l *Liveness) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := l.follow(ctx)
		l.mu.Lock()
		l.fresh = false
		clear(l.heard)
		l.mu.Unlock()
		if ctx.Err() == nil {
			l.log.Debug("liveness stream ended", zap.Error(err))
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
	}
	return nil
}

func (l *Liveness) follow(ctx context.Context) error {
	stream, err := l.nodes.WatchLiveness(ctx, &nodev1pb.WatchLivenessRequest{})
	if err != nil {
		return err
	}
	for {
		res, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("liveness: %w", err)
		}
		now := l.clock.Now()
		l.mu.Lock()
		l.fresh = true
		for _, node := range res.GetNodes() {
			l.heard[node.GetNode()] = now.Add(-node.GetSilence().AsDuration())
		}
		subscribers := l.enqueue
		l.mu.Unlock()
		for _, node := range res.GetNodes() {
			for _, enqueue := range subscribers {
				enqueue(object.Key{Name: node.GetNode()})
			}
		}
	}
}

// subscribe makes nodes due when they are heard of.
func (l *Liveness) subscribe(enqueue func(object.Key)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueue = append(l.enqueue, enqueue)
}

// posted notes the time of the status that a node's object has. One that has changed was
// written by a kubelet that lives: a node that returns would otherwise be called silent for as
// long as its status comes faster than the word that it is heard.
func (l *Liveness) posted(node string, heartbeat time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, known := l.posts[node]
	switch {
	case !known:
		l.posts[node] = post{heartbeat: heartbeat}
	case !last.heartbeat.Equal(heartbeat):
		l.posts[node] = post{heartbeat: heartbeat, seen: l.clock.Now()}
	}
}

// forget drops what is known of a node that is no more.
func (l *Liveness) forget(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.heard, node)
	delete(l.posts, node)
}

// Silence returns for how long nothing has been heard of a node; false while that is unknown.
func (l *Liveness) Silence(node string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.heard[node]
	if !ok || !l.fresh {
		return 0, false
	}
	if seen := l.posts[node].seen; seen.After(at) {
		at = seen
	}
	return max(0, l.clock.Since(at)), true
}

// silentShare returns which part of the nodes that are there has been silent for longer than d.
// Nodes that are no more are forgotten: nobody will ever hear them.
func (l *Liveness) silentShare(d time.Duration, there func(node string) bool) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	silent := 0
	for node, at := range l.heard {
		switch {
		case !there(node):
			delete(l.heard, node)
		case l.clock.Since(at) > d:
			silent++
		}
	}
	if len(l.heard) == 0 {
		return 0
	}
	return float64(silent) / float64(len(l.heard))
}
