package registry

import (
	"context"
	"sync"
	"time"

	"kijabi.dev/apiserver/internal/store"
)

const (
	// maxAsked bounds how often webhooks and policies are asked about one write whose object
	// keeps changing; the time that they may take is bounded besides.
	maxAsked = 64
	// longestTurn is how long a write waits for those before it. A webhook may write the very
	// object that it is asked about, so nobody waits for ever.
	longestTurn = time.Second
)

// turns let writes of the same object, which somebody must be asked about, take turns once
// they have got in each other's way; else the quickest webhook would always win. All methods
// are safe for concurrent use.
type turns struct {
	mu  sync.Mutex
	has map[store.Key]*turn
}

// turn is one object's queue. free holds a token while nobody has the turn.
type turn struct {
	free  chan struct{}
	users int
}

// take waits for the object's turn, for a while. The returned function gives up what was got
// and must be called.
func (t *turns) take(ctx context.Context, key store.Key) (release func()) {
	t.mu.Lock()
	if t.has == nil {
		t.has = map[store.Key]*turn{}
	}
	own := t.has[key]
	if own == nil {
		own = &turn{free: make(chan struct{}, 1)}
		own.free <- struct{}{}
		t.has[key] = own
	}
	own.users++
	t.mu.Unlock()
	got := false
	select {
	case <-own.free:
		got = true
	case <-time.After(longestTurn):
	case <-ctx.Done():
	}
	return func() {
		if got {
			own.free <- struct{}{}
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(t.has, key)
		}
	}
}
