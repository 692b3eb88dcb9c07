// Package vip holds the masters' virtual addresses: the leading master has them on an
// interface, tells the neighbours so, and drops them when it leads no longer.
//
// An address is put there for a few seconds only and renewed while a majority of the masters
// confirms who leads, so that the kernel itself takes it off a master whose process was killed,
// is stopped, or hangs (docs/decisions/virtual-address-on-loan.md).
package vip

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
)

const (
	// loan is how long an address stays without being renewed; the kernel counts in seconds
	// and looks about once in each. It outlasts a leader that is merely late: raft ends its
	// leadership within a second, and that drops the address.
	loan = 3 * time.Second
	// renewEvery leaves several attempts within a loan.
	renewEvery = 500 * time.Millisecond
)

// Config is what a Holder needs. Fields are required unless said otherwise.
type Config struct {
	// Addresses to hold.
	Addresses []netip.Addr
	// Interface they are held on; "" means for each the one whose subnet contains it.
	Interface string
	// Clock and Log.
	Clock clock.WithTicker
	Log   *zap.Logger
}

// Leadership tells who leads; *masters.Masters implements it.
type Leadership interface {
	// WatchLeading yields whether this master leads, now and after each change.
	WatchLeading(ctx context.Context) iter.Seq[bool]
	// ConfirmLeading asks a majority of the masters whether this one leads.
	ConfirmLeading(ctx context.Context) error
}

// Holder holds the addresses of one master. Its methods are safe for concurrent use.
type Holder struct {
	cfg    Config
	handle *netlink.Handle
	seats  []*seat
	again  chan struct{} // announce now
	doubts chan struct{} // another machine claims an address
	conns  conns

	mu    sync.Mutex // of all below, and of the addresses
	since time.Time  // zero while not leading
	until time.Time  // the loan's end
}

// New takes what a crash left of the addresses off this machine and opens the sockets to
// announce them with. It works in the network namespace of the calling thread. Run must be called.
func New(cfg Config) (_ *Holder, err error) {
	if len(cfg.Addresses) == 0 || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("virtual address: addresses, clock and log are required")
	}
	h := &Holder{cfg: cfg, again: make(chan struct{}, 1), doubts: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("virtual address: talk to the kernel: %w", explain(err))
	}
	for _, address := range cfg.Addresses {
		s, err := newSeat(address)
		if err != nil {
			return nil, fmt.Errorf("virtual address %s: %w", address, explain(err))
		}
		h.seats = append(h.seats, s)
		if err := s.remove(h.handle); err != nil {
			return nil, fmt.Errorf("virtual address %s: remove what is left of it: %w", address, explain(err))
		}
	}
	return h, nil
}

// explain adds what to do about a lack of rights.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("%w: the apiserver needs CAP_NET_ADMIN, CAP_NET_RAW and the sockets AF_NETLINK and AF_PACKET; see `A virtual address` in docs/vms.md", err)
	}
	return err
}

func (h *Holder) close() {
	for _, s := range h.seats {
		s.close()
	}
	if h.handle != nil {
		h.handle.Close()
	}
}

// Run holds the addresses whenever this master leads, until ctx ends.
func (h *Holder) Run(ctx context.Context, leadership Leadership) error {
	defer h.close()
	group := lifecycle.NewGroup(ctx)
	for _, s := range h.seats {
		group.Go(func(ctx context.Context) error { return h.listen(ctx, s) })
	}
	group.Go(func(ctx context.Context) error { return h.follow(ctx, leadership) })
	return group.Wait()
}

func (h *Holder) follow(ctx context.Context, leadership Leadership) error {
	var reign *lifecycle.Group
	end := func() error {
		if reign == nil {
			return nil
		}
		h.release() // first, whatever hangs
		reign.Cancel()
		err := reign.Wait()
		reign = nil
		return err
	}
	for leading := range leadership.WatchLeading(ctx) {
		if !leading {
			if err := end(); err != nil {
				return err
			}
			continue
		}
		if reign == nil {
			h.take()
			reign = lifecycle.NewGroup(ctx)
			reign.Go(func(ctx context.Context) error { return h.renew(ctx, leadership) })
			reign.Go(h.announce)
		}
	}
	return end()
}

// take puts the addresses on their interfaces and announces them at once: nobody waits for
// a look at who else might have them.
func (h *Holder) take() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since = h.cfg.Clock.Now()
	h.place()
}

// place begins or prolongs the loan of all addresses and announces those that were not there.
// h.mu is held.
func (h *Holder) place() {
	now := h.cfg.Clock.Now()
	lapsed := now.After(h.until)
	for _, s := range h.seats {
		fresh := lapsed || s.failure != nil
		err := s.place(h.handle, h.cfg.Interface)
		if err != nil {
			if s.failure == nil || s.failure.Error() != err.Error() {
				h.cfg.Log.Error("cannot hold the virtual address", logging.Address(s.address.String()), zap.Error(err))
			}
			s.failure = err
			continue
		}
		s.failure = nil
		if fresh {
			h.cfg.Log.Info("holding the virtual address", logging.Address(s.address.String()), zap.String("interface", s.link.Attrs().Name))
			h.since = now
			h.say(s, false)
			wake(h.again)
		}
	}
	h.until = now.Add(loan)
}

// renew prolongs the loan while a majority confirms that this master leads. Only then does it
// contradict others: who claims an address may lead by now.
func (h *Holder) renew(ctx context.Context, leadership Leadership) error {
	for {
		doubted := false
		select {
		case <-ctx.Done():
			return nil
		case <-h.doubts:
			doubted = true
		case <-h.cfg.Clock.After(lifecycle.UntilBeat(h.cfg.Clock.Now(), renewEvery)):
		}
		asking, cancel := context.WithTimeout(ctx, loan)
		err := leadership.ConfirmLeading(asking)
		cancel()
		if err != nil {
			continue // leadership ends, or the loan does
		}
		h.mu.Lock()
		if !h.since.IsZero() && ctx.Err() == nil {
			h.place()
		}
		h.mu.Unlock()
		if doubted {
			wake(h.again)
			h.pause(ctx, defendAfter)
		}
	}
}

func (h *Holder) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-h.cfg.Clock.After(d):
	}
}

// wake tells a loop something that it need not be told twice.
func wake(loop chan<- struct{}) {
	select {
	case loop <- struct{}{}:
	default:
	}
}

// release drops connections that came by the addresses, while their ends can still be told, and
// then the addresses.
func (h *Holder) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns.drop()
	for _, s := range h.seats {
		s.failure = nil
		if err := s.remove(h.handle); err != nil {
			h.cfg.Log.Error("cannot drop the virtual address: the kernel will, within seconds", logging.Address(s.address.String()), zap.Error(err))
		} else {
			h.cfg.Log.Info("dropped the virtual address", logging.Address(s.address.String()))
		}
	}
	h.since, h.until = time.Time{}, time.Time{}
	h.conns.drop() // those that were accepted meanwhile
}

// Status of one address on this master.
type Status struct {
	// Address is the virtual one.
	Address netip.Addr
	// Held says whether this master has it.
	Held bool
	// Failure is why this master, which leads, cannot hold it; nil if it can or does not lead.
	Failure error
	// Conflicts counts how often another machine claimed it meanwhile.
	Conflicts int64
}

// Status lists the addresses. A nil Holder has none.
func (h *Holder) Status() []Status {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]Status, 0, len(h.seats))
	for _, s := range h.seats {
		all = append(all, Status{
			Address: s.address, Failure: s.failure, Conflicts: s.conflicts,
			Held: s.failure == nil && !h.since.IsZero() && h.cfg.Clock.Now().Before(h.until),
		})
	}
	return all
}
