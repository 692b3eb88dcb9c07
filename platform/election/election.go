// Package election lets a program on a master act only while its master leads. It
// does not elect: it follows the stream of the local apiserver, where raft decides,
// and runs a task while the stream says that this master leads. Ending the task is
// a courtesy; the fence is the epoch in the task's context, which every write
// carries and a newer leader refuses.
package election

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

const (
	retryFirst = 50 * time.Millisecond
	retryLast  = time.Second
)

// Config of an Elector.
type Config struct {
	// Masters is the local apiserver. Required.
	Masters mastersv1pb.MastersServiceClient
	// Component is the program's name, for the master's health record. Required.
	Component string
	// Log of changes. Required.
	Log *zap.Logger
}

// State is the leadership as the local master sees it.
type State struct {
	// Leader is the leading master's name, empty while unknown.
	Leader string
	// Epoch of the leader, 0 while none is known.
	Epoch uint64
	// Leading is true while the local master leads.
	Leading bool
}

// Elector follows who leads. Its methods may be called from several goroutines;
// Run is called once.
type Elector struct {
	cfg Config

	mu      sync.Mutex
	state   State
	changed chan struct{}
}

// New returns an elector that leads nothing until Run hears so.
func New(cfg Config) *Elector {
	return &Elector{cfg: cfg, changed: make(chan struct{})}
}

// State is the newest known state and a channel that is closed when it changes.
func (e *Elector) State() (State, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state, e.changed
}

// Leading reports whether the local master leads.
func (e *Elector) Leading() bool {
	state, _ := e.State()
	return state.Leading
}

func (e *Elector) set(next State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if next == e.state {
		return
	}
	e.cfg.Log.Info("leadership", zap.String("leader", next.Leader), logging.Epoch(next.Epoch), zap.Bool("leading", next.Leading))
	e.state = next
	close(e.changed)
	e.changed = make(chan struct{})
}

// Run follows the stream until ctx ends, reconnecting whenever it breaks. While it
// is broken nothing is led.
func (e *Elector) Run(ctx context.Context) error {
	pause := retryFirst
	for ctx.Err() == nil {
		heard, err := e.follow(ctx)
		e.set(State{})
		if heard {
			pause = retryFirst
		}
		if ctx.Err() != nil {
			break
		}
		e.cfg.Log.Debug("leader stream ended", zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + time.Duration(rand.Int64N(int64(pause/2)))):
		}
		pause = min(2*pause, retryLast)
	}
	e.set(State{})
	return nil
}

// follow reads one stream to its end and reports whether it said anything.
func (e *Elector) follow(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := e.cfg.Masters.WatchLeader(ctx, &mastersv1pb.WatchLeaderRequest{Component: e.cfg.Component})
	if err != nil {
		return false, err
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			return heard, err
		}
		heard = true
		e.set(State{Leader: msg.GetLeader(), Epoch: msg.GetEpoch(), Leading: msg.GetLeading() && msg.GetEpoch() != 0})
	}
}

// WhileLeader returns a task that runs inner whenever the local master leads, with
// a context that ends the moment it no longer does, and whose calls carry the
// epoch. Under a new epoch inner is started anew, after the old run has ended. An
// inner that returns nil is not started again under the same epoch; its failure is
// the returned task's.
func (e *Elector) WhileLeader(inner lifecycle.Task) lifecycle.Task {
	return func(ctx context.Context) error {
		for {
			state, changed := e.State()
			if state.Leading {
				if err := e.lead(ctx, state, inner); err != nil {
					return err
				}
				changed = e.past(state)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
		}
	}
}

// past returns a channel that is closed once the state differs from old.
func (e *Elector) past(old State) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state != old {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return e.changed
}

// lead runs inner until it ends or the state changes. It returns when inner has ended.
func (e *Elector) lead(ctx context.Context, state State, inner lifecycle.Task) error {
	group := lifecycle.NewGroup(rpc.WithEpoch(ctx, state.Epoch))
	group.Go(func(ctx context.Context) error {
		defer group.Cancel()
		return inner(ctx)
	})
	group.Go(func(ctx context.Context) error {
		select {
		case <-ctx.Done():
		case <-e.past(state):
			group.Cancel()
		}
		return nil
	})
	err := group.Wait()
	if now, _ := e.State(); err != nil && now != state {
		// Losing the leadership shows as refused writes, too: no failure of the task.
		e.cfg.Log.Info("task ended with the leadership", logging.Epoch(state.Epoch), zap.Error(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s under epoch %d: %w", e.cfg.Component, state.Epoch, err)
	}
	return nil
}
