package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
)

const (
	defaultProbeEvery   = time.Second
	defaultProbeTimeout = time.Second
	defaultRetryFor     = 10 * time.Second
	defaultLearnEvery   = 10 * time.Second
	// dialStagger is the head start each address has over the next one.
	dialStagger = 150 * time.Millisecond
	retryPause  = 20 * time.Millisecond
	retryCap    = 500 * time.Millisecond
)

// FailoverConfig describes a connection to any of several apiservers.
type FailoverConfig struct {
	// Addresses are host:port of known apiservers. At least one, here or in StateFile.
	Addresses []string
	// Identity of the caller. Required.
	Identity *pki.Identity
	// Log of moves and failures. Required.
	Log *zap.Logger
	// StateFile keeps the addresses learned from the masters; empty keeps none.
	StateFile string
	// ServerName the servers must prove; empty means apiserver.kijabi.
	ServerName string
	// Repeatable says which methods may be sent again when it is not known whether
	// the first sending took effect; nil means Repeatable.
	Repeatable func(fullMethod string) bool
	// RetryFor bounds how long a call waits for an apiserver and is repeated; 0
	// means 10 s. The call's context bounds it, too.
	RetryFor time.Duration
	// ProbeEvery and ProbeTimeout say how often the current apiserver is asked
	// whether it serves, and how long the answer may take; 0 means 1 s each. One that was
	// heard since is asked only every fourth time.
	ProbeEvery, ProbeTimeout time.Duration
	// LearnEvery says how often the masters are asked for their addresses; 0 means 10 s
	// and less than 0 never.
	LearnEvery time.Duration
	// Options are added to each connection. Optional.
	Options []grpc.DialOption
}

// Failover is a connection to one of several apiservers. It stays with one that
// answers and moves when that one is gone, stops serving or falls silent while
// another answers. Calls work before Run, but only Run notices a silent server,
// learns addresses, and replaces the connection when the identity is renewed.
//
// A unary call is sent again, to another apiserver or the same, if it was not sent
// at all or if its method is repeatable. A stream is not: when its connection is
// lost it ends promptly with ServiceUnavailable.
type Failover struct {
	cfg FailoverConfig

	mu         sync.Mutex
	addresses  []string // configured ones first, then learned ones
	current    *link
	connecting chan struct{} // non-nil while somebody connects; closed when done
	changed    chan struct{} // closed when current changes
	closed     bool
}

var _ grpc.ClientConnInterface = (*Failover)(nil)

// errFailoverClosed is what calls get after Close.
var errFailoverClosed = status.Error(codes.Canceled, "the connection to the apiservers is closed")

// DialAny returns a connection to any of the configured apiservers. It does not connect yet.
func DialAny(cfg FailoverConfig) (*Failover, error) {
	if cfg.Identity == nil || cfg.Log == nil {
		return nil, errors.New("dial apiservers: identity and log are required")
	}
	addresses := merge(cfg.Addresses, readState(cfg.StateFile, cfg.Log))
	if len(addresses) == 0 {
		return nil, errors.New("dial apiservers: no address is known")
	}
	return &Failover{cfg: failoverDefaults(cfg), addresses: addresses, changed: make(chan struct{})}, nil
}

func failoverDefaults(cfg FailoverConfig) FailoverConfig {
	if cfg.ServerName == "" {
		cfg.ServerName = pki.APIServerName
	}
	if cfg.Repeatable == nil {
		cfg.Repeatable = Repeatable
	}
	if cfg.RetryFor == 0 {
		cfg.RetryFor = defaultRetryFor
	}
	if cfg.ProbeEvery == 0 {
		cfg.ProbeEvery = defaultProbeEvery
	}
	if cfg.ProbeTimeout == 0 {
		cfg.ProbeTimeout = defaultProbeTimeout
	}
	if cfg.LearnEvery == 0 {
		cfg.LearnEvery = defaultLearnEvery
	}
	return cfg
}

// Repeatable is true for methods that may be performed twice: those of
// ObjectService, whose writes the apiserver recognises by their request id, and
// those whose name says that they only read.
func Repeatable(fullMethod string) bool {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	switch {
	case service == "kijabi.object.v1.ObjectService",
		// Their protos promise that a repetition does no harm.
		service == "kijabi.certificate.v1.CertificateService" && method == "Renew",
		service == "kijabi.masters.v1.MastersService" && method == "Join":
		return true
	}
	for _, prefix := range []string{"Get", "List", "Watch", "Status", "Stats", "Explain", "Check", "Trace", "Simulate"} {
		if strings.HasPrefix(method, prefix) {
			return true
		}
	}
	return false
}

// Current is the address of the apiserver in use, empty while there is none.
func (f *Failover) Current() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current == nil {
		return ""
	}
	return f.current.address
}

// Addresses are all known apiservers.
func (f *Failover) Addresses() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.addresses...)
}

// Changed returns a channel that is closed when Current changes next.
func (f *Failover) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Connect returns once an apiserver answers, or with ctx's end.
func (f *Failover) Connect(ctx context.Context) error {
	_, err := f.acquire(ctx)
	return FromStatus(err)
}

// Close ends the connection and all its streams. Run does it when it ends.
func (f *Failover) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.replace(nil)
	return nil
}

// replace sets the current link and closes the one before. Under mu.
func (f *Failover) replace(next *link) {
	if f.current == next {
		return
	}
	if f.current != nil {
		f.current.close()
	}
	f.current = next
	close(f.changed)
	f.changed = make(chan struct{})
}

// drop ends a link; calls look for another apiserver then.
func (f *Failover) drop(dead *link, reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dead.close()
	if f.current == dead {
		f.cfg.Log.Info("apiserver lost", logging.Address(dead.address), zap.Error(reason))
		f.replace(nil)
	}
}

// acquire returns the current link. Without one it connects, or waits for
// whoever connects, until ctx ends; then the error says what each address answered.
func (f *Failover) acquire(ctx context.Context) (*link, error) {
	pause := retryPause
	for {
		f.mu.Lock()
		if f.closed {
			f.mu.Unlock()
			return nil, errFailoverClosed
		}
		if f.current != nil {
			defer f.mu.Unlock()
			return f.current, nil
		}
		wait, mine := f.connecting, false
		if wait == nil {
			wait, mine = make(chan struct{}), true
			f.connecting = wait
		}
		f.mu.Unlock()
		if !mine {
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, noAPIServer(ctx, nil)
			}
			if pause, mine = min(2*pause, retryCap), false; sleep(ctx, jitter(pause/4)) != nil {
				return nil, noAPIServer(ctx, nil)
			}
			continue
		}
		found, err := f.connect(ctx, "")
		f.settle(found, wait)
		if err != nil {
			if ctx.Err() != nil || sleep(ctx, jitter(pause)) != nil {
				return nil, noAPIServer(ctx, err)
			}
			pause = min(2*pause, retryCap)
		}
	}
}

// settle ends an attempt to connect.
func (f *Failover) settle(found *link, wait chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connecting = nil
	close(wait)
	switch {
	case found == nil:
	case f.closed:
		found.close()
	default:
		f.cfg.Log.Info("apiserver connected", logging.Address(found.address))
		f.replace(found)
	}
}

func noAPIServer(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return status.FromContextError(ctx.Err()).Err()
	}
	if err == nil {
		err = errors.New("still connecting")
	}
	return status.Errorf(codes.Unavailable, "no apiserver answers: %v", err)
}

// connect tries the known addresses in random order, each with a small head start
// over the next, and returns the first that serves. Except is left out.
func (f *Failover) connect(ctx context.Context, except string) (*link, error) {
	candidates := f.Addresses()
	rand.Shuffle(len(candidates), func(i, j int) { candidates[i], candidates[j] = candidates[j], candidates[i] })
	group := lifecycle.NewGroup(ctx)
	var (
		mu     sync.Mutex
		winner *link
		failed []string
	)
	for i, address := range candidates {
		if address == except {
			continue
		}
		group.Go(func(ctx context.Context) error {
			if sleep(ctx, time.Duration(i)*dialStagger) != nil {
				return nil
			}
			tried, err := f.try(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failed = append(failed, fmt.Sprintf("%s: %s", address, status.Convert(err).Message()))
			case winner != nil:
				tried.close()
			default:
				winner = tried
				group.Cancel()
			}
			return nil
		})
	}
	_ = group.Wait() // the tasks never fail
	if winner == nil {
		return nil, errors.New(strings.Join(failed, "; "))
	}
	return winner, nil
}

// try opens a link and asks whether the server serves.
func (f *Failover) try(ctx context.Context, address string) (*link, error) {
	opened, err := openLink(f.cfg, address)
	if err != nil {
		return nil, err
	}
	if err := opened.probe(ctx, f.cfg.ProbeTimeout); err != nil {
		opened.close()
		return nil, err
	}
	return opened, nil
}

func merge(lists ...[]string) []string {
	var all []string
	seen := map[string]bool{}
	for _, list := range lists {
		for _, address := range list {
			if address != "" && !seen[address] {
				seen[address] = true
				all = append(all, address)
			}
		}
	}
	return all
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
