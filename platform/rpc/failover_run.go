package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/connectivity"

	"kijabi.dev/platform/atomicfile"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

const (
	// failedPause keeps a connection that fails at once from being asked in a loop.
	failedPause = 100 * time.Millisecond
	// mostTrusted is how many probes in a row a server that is heard is spared.
	mostTrusted = 3
	// drainEvery is how often a connection of an old certificate is looked at.
	drainEvery = 500 * time.Millisecond
	// drainBefore is how long before its certificate ends such a connection is closed.
	drainBefore = 30 * time.Second
)

// Run watches over the connection until ctx ends, and then closes it.
func (f *Failover) Run(ctx context.Context) error {
	defer func() { _ = f.Close() }()
	return lifecycle.RunAll(ctx, f.watch, f.learn, f.followIdentity)
}

// watch probes the current apiserver and moves when another is better.
func (f *Failover) watch(ctx context.Context) error {
	trusted := 0
	for ctx.Err() == nil {
		l, err := f.acquireFor(ctx, f.cfg.RetryFor)
		if err != nil {
			if ctx.Err() == nil {
				f.cfg.Log.Warn("no apiserver", zap.Error(err))
			}
			continue
		}
		f.pauseOn(ctx, l)
		// A server that speaks is alive. Whether it serves is another question, for now and then.
		if trusted++; l.ready() && trusted <= mostTrusted && l.tracker.heardWithin(f.cfg.ProbeEvery) {
			continue
		}
		trusted = 0
		if ctx.Err() == nil && !l.closed() {
			f.check(ctx, l)
		}
	}
	return nil
}

func (f *Failover) acquireFor(ctx context.Context, limit time.Duration) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f.acquire(ctx)
}

// pauseOn waits for the next probe, less if the link's transport breaks.
func (f *Failover) pauseOn(ctx context.Context, l *link) {
	ctx, cancel := context.WithTimeout(ctx, jitter(f.cfg.ProbeEvery))
	defer cancel()
	defer context.AfterFunc(l.done, cancel)()
	if l.ready() {
		l.conn.WaitForStateChange(ctx, connectivity.Ready)
		return
	}
	_ = sleep(ctx, failedPause)
}

// check moves away from a link that does not answer. A slow server is left only
// for one that is not slow: were all of them slow, moving would add to their load.
func (f *Failover) check(ctx context.Context, l *link) {
	err := l.probe(ctx, f.cfg.ProbeTimeout)
	if err == nil || ctx.Err() != nil || l.closed() {
		return
	}
	better, searchErr := f.connect(ctx, l.address)
	if searchErr == nil {
		f.move(l, better, err)
		return
	}
	if ctx.Err() == nil && !l.ready() {
		f.drop(l, errors.Join(err, searchErr))
	}
}

// move replaces one link by another, unless somebody else has done so already.
func (f *Failover) move(from, to *link, reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.current != from {
		to.close()
		return
	}
	f.cfg.Log.Info("apiserver changed", zap.String("from", from.address), logging.Address(to.address), zap.Error(reason))
	f.replace(to)
}

// followIdentity opens a new connection when the identity is renewed. The old one
// goes when its streams have ended, at the latest before its certificate does.
func (f *Failover) followIdentity(ctx context.Context) error {
	drains := lifecycle.NewGroup(ctx)
	for {
		changed := f.cfg.Identity.Changed()
		select {
		case <-ctx.Done():
			return drains.Wait()
		case <-changed:
		}
		if old := f.renew(ctx); old != nil {
			drains.Go(func(ctx context.Context) error { return drain(ctx, old) })
		}
	}
}

// renew swaps the current link for one to the same address and returns the old one.
func (f *Failover) renew(ctx context.Context) *link {
	f.mu.Lock()
	old := f.current
	f.mu.Unlock()
	if old == nil {
		return nil
	}
	fresh, err := f.try(ctx, old.address)
	if err != nil {
		f.cfg.Log.Warn("connection not renewed", logging.Address(old.address), zap.Error(err))
		return nil // the server closes the old one in time; then a new one is made
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.current != old {
		fresh.close()
		return nil
	}
	f.current = fresh // not replace: the old one lives on, and the address is the same
	return old
}

func drain(ctx context.Context, old *link) error {
	defer old.close()
	last := time.Now().Add(min(time.Until(old.expires)/2, max(0, time.Until(old.expires)-drainBefore)))
	for old.active.Load() > 0 && time.Now().Before(last) && !old.closed() {
		if sleep(ctx, drainEvery) != nil {
			break
		}
	}
	return nil
}

// learn keeps the list of addresses.
func (f *Failover) learn(ctx context.Context) error {
	if f.cfg.LearnEvery < 0 {
		<-ctx.Done()
		return nil
	}
	masters := mastersv1pb.NewMastersServiceClient(f)
	for {
		if err := f.learnOnce(ctx, masters); err != nil && ctx.Err() == nil {
			f.cfg.Log.Debug("masters not learned", zap.Error(err))
		}
		if sleep(ctx, jitter(f.cfg.LearnEvery)) != nil {
			return nil
		}
	}
}

func (f *Failover) learnOnce(ctx context.Context, masters mastersv1pb.MastersServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.RetryFor)
	defer cancel()
	res, err := masters.Status(ctx, &mastersv1pb.StatusRequest{})
	if err != nil {
		return err
	}
	var learned []string
	for _, member := range res.GetMembers() {
		// A master that is down now may be the only one up later: it stays known
		// until it is removed from the roster.
		learned = append(learned, member.GetGrpcAddress())
	}
	if learned = merge(learned); len(learned) == 0 {
		return nil
	}
	slices.Sort(learned)
	all := merge(f.cfg.Addresses, learned)
	f.mu.Lock()
	same := slices.Equal(all, f.addresses)
	f.addresses = all
	f.mu.Unlock()
	if same {
		return nil
	}
	f.cfg.Log.Info("apiservers learned", zap.Strings("addresses", all))
	return writeState(f.cfg.StateFile, learned)
}

// stateFile is the content of FailoverConfig.StateFile.
type stateFile struct {
	// Addresses learned from the masters.
	Addresses []string `json:"addresses"`
}

// LearnedAddresses reads a StateFile: the apiservers that were learned last. None if the
// file does not exist.
func LearnedAddresses(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	state := stateFile{}
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil {
		return nil, fmt.Errorf("learned apiservers: %s: %w", path, err)
	}
	return state.Addresses, nil
}

// readState returns what was learned before; a file that is missing or damaged
// only means that it must be learned again.
func readState(path string, log *zap.Logger) []string {
	if path == "" {
		return nil
	}
	learned, err := LearnedAddresses(path)
	if err != nil {
		log.Warn("learned apiservers not read", zap.String("file", path), zap.Error(err))
	}
	return learned
}

func writeState(path string, learned []string) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(stateFile{Addresses: learned})
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}
