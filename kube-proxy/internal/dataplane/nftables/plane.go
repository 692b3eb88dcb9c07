// Package nftables forwards service connections by rules in the kernel's nf_tables,
// set up by netlink only.
//
// One map leads from address . protocol . port . slot to an endpoint. A rule for each
// number of slots in use draws a random slot and looks it up, so the number of chains
// is constant, the number of rules is small, and a change of a service is a change of
// a few map elements. Each update is one kernel transaction.
package nftables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	nft "github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/services"
)

const (
	// chunk is how many elements travel in one message, whose list must stay below 64 KiB.
	chunk = 400
	// socketBuffer bounds one transaction and its answers; the kernel takes memory
	// only for what is sent.
	socketBuffer = 256 << 20
	// watchPeriod is how often the kernel's generation is looked at. A foreign change
	// is repaired within about this time.
	watchPeriod = time.Second
	// restTicks is for how many of these periods the elements are not read again after
	// they were found right.
	restTicks = 2
)

// Config configures a plane.
type Config struct {
	// PodCIDR is the range of all pods and ServiceCIDR that of service addresses. Both
	// required, of the same family, which is the plane's.
	PodCIDR, ServiceCIDR netip.Prefix
	// Log is required.
	Log *zap.Logger
}

// Plane is a data plane for one address family, in the network namespace it was made
// in. Frontends of the other family are ignored.
type Plane struct {
	cfg     Config
	ipv6    bool
	ns      netns.NsHandle
	unclean chan struct{} // holds one token when flows may have become stale

	mu        sync.Mutex
	conn      *nft.Conn
	raw       *netlink.Conn
	rules     *ruleset
	have      map[services.Front]*placed
	byService map[types.NamespacedName][]services.Frontend // the latest update; what have should follow
	kinds     map[kind]int                                 // kind → frontends, both views
	ruled     []kind                                       // kinds that have rules
	addresses map[listed]int                               // address → frontends
	gone      map[services.Front]struct{}                  // removed, flows not yet cleaned
	synced    bool                                         // a full update came
	broken    bool                                         // the kernel is not as have says
	seal      seal
	rest      int // ticks until all elements may be read again
}

var _ dataplane.Plane = (*Plane)(nil)

// New opens a plane in the current network namespace. It changes nothing until the
// first Sync.
func New(cfg Config) (*Plane, error) {
	if cfg.Log == nil || !cfg.PodCIDR.IsValid() || !cfg.ServiceCIDR.IsValid() {
		return nil, errors.New("nftables plane: PodCIDR, ServiceCIDR and Log are required")
	}
	if cfg.PodCIDR.Addr().Is6() != cfg.ServiceCIDR.Addr().Is6() {
		return nil, fmt.Errorf("nftables plane: pod range %s and service range %s are of different families", cfg.PodCIDR, cfg.ServiceCIDR)
	}
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("current network namespace: %w", err)
	}
	p := &Plane{cfg: cfg, ipv6: cfg.ServiceCIDR.Addr().Is6(), ns: ns, unclean: make(chan struct{}, 1), gone: map[services.Front]struct{}{}}
	p.reset()
	if err := p.open(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// inside calls dial with the namespace it has to enter, none if this thread is in the plane's
// already: to enter a namespace, be it the present one, takes a right that a plane does not
// need otherwise.
func (p *Plane) inside(dial func(enter netns.NsHandle) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("current network namespace: %w", err)
	}
	enter := p.ns
	if here.Equal(p.ns) {
		enter = netns.None()
	}
	return errors.Join(here.Close(), dial(enter))
}

// descriptor is what the sockets' libraries want to know; 0 is the present namespace.
func descriptor(ns netns.NsHandle) int { return max(int(ns), 0) }

func (p *Plane) reset() {
	p.rules = newRuleset(familyOf(p.ipv6), p.cfg.PodCIDR, p.cfg.ServiceCIDR)
	p.have, p.kinds, p.addresses = map[services.Front]*placed{}, map[kind]int{}, map[listed]int{}
	p.ruled = nil
	if p.byService == nil {
		p.byService = map[types.NamespacedName][]services.Frontend{}
	}
}

// open dials anew; after a failed transaction answers of the old one may still lie in
// the socket.
func (p *Plane) open() error {
	p.closeSockets()
	return p.inside(func(enter netns.NsHandle) error {
		conn, err := nft.New(nft.AsLasting(), nft.WithNetNSFd(descriptor(enter)), nft.WithSockOptions(func(c *netlink.Conn) error {
			return errors.Join(c.SetWriteBuffer(socketBuffer), c.SetReadBuffer(socketBuffer))
		}))
		if err != nil {
			return fmt.Errorf("open nftables socket: %w", err)
		}
		p.conn = conn
		p.raw, err = dialRaw(descriptor(enter))
		return err
	})
}

func (p *Plane) closeSockets() {
	if p.conn != nil {
		_ = p.conn.CloseLasting()
		p.conn = nil
	}
	if p.raw != nil {
		_ = p.raw.Close()
		p.raw = nil
	}
}

// Sync implements dataplane.Plane.
func (p *Plane) Sync(u dataplane.Update) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !u.Full && !p.synced {
		return errors.New("sync nftables: the first update must be full")
	}
	before := map[services.Front]struct{}{}
	note := func(key types.NamespacedName) {
		for _, f := range p.byService[key] {
			before[f.Front] = struct{}{}
		}
	}
	first := !p.synced
	if u.Full {
		for key := range p.byService {
			note(key)
		}
		clear(p.byService)
	} else {
		for key := range u.Services {
			note(key)
		}
	}
	var now []*services.Frontend
	for key, list := range u.Services {
		if len(list) == 0 {
			delete(p.byService, key)
			continue
		}
		p.byService[key] = list
		for i := range list {
			if list[i].Address.Is6() == p.ipv6 {
				now = append(now, &list[i])
				delete(before, list[i].Front)
			}
		}
	}
	p.synced = true
	if first || p.broken {
		return p.rebuild()
	}
	if err := p.apply(before, now); err != nil {
		p.cfg.Log.Warn("change refused, building the table anew", zap.Error(err))
		return p.rebuild()
	}
	return nil
}

// apply sends one transaction that removes the fronts in gone and sets those in now.
func (p *Plane) apply(gone map[services.Front]struct{}, now []*services.Frontend) error {
	var c change
	stale := false                // flows may be
	affected := map[listed]bool{} // and whether they were there before
	move := func(front services.Front, after *placed) {
		before := p.have[front]
		removed, added := len(c.remove), len(c.add)
		c.diff(front, before, after)
		// What is added alone leaves no TCP connection behind.
		stale = stale || len(c.remove) > removed || front.Protocol == services.UDP && len(c.add) > added
		p.count(before, -1, affected)
		p.count(after, +1, affected)
		if after == nil {
			delete(p.have, front)
		} else {
			p.have[front] = after
		}
	}
	for front := range gone {
		if front.Address.Is6() == p.ipv6 {
			p.gone[front] = struct{}{}
			move(front, nil)
		}
	}
	for _, f := range now {
		move(f.Front, place(f, p.cfg.PodCIDR, p.have[f.Front]))
	}
	for l, had := range affected {
		has := p.addresses[l] > 0
		if had && !has {
			c.remove = append(c.remove, l.element())
		}
		if has && !had {
			c.add = append(c.add, l.element())
		}
	}
	if len(c.remove) == 0 && len(c.add) == 0 {
		return nil
	}
	if err := p.queue(c); err != nil {
		return err
	}
	newRules := p.unruled()
	if newRules {
		p.ruled = p.neededKinds()
		p.rules.replaceSelection(p.conn, p.ruled)
	}
	if err := p.commit(newRules); err != nil {
		return err
	}
	if stale {
		p.wantCleaning()
	}
	return nil
}

// count keeps what depends on all frontends together.
func (p *Plane) count(x *placed, by int, affected map[listed]bool) {
	if x == nil {
		return
	}
	for v := outside; v <= inside; v++ {
		k := x.kind(v)
		if k.slots == 0 {
			continue
		}
		if p.kinds[k] += by; p.kinds[k] == 0 {
			delete(p.kinds, k)
		}
	}
	for _, l := range x.addresses {
		if _, known := affected[l]; !known && affected != nil {
			affected[l] = p.addresses[l] > 0
		}
		if p.addresses[l] += by; p.addresses[l] == 0 {
			delete(p.addresses, l)
		}
	}
}

// unruled reports whether a kind is in use that no rule serves. Rules for kinds that
// went out of use stay until the next change, so that a kind that comes and goes costs
// nothing.
func (p *Plane) unruled() bool {
	for k := range p.kinds {
		if !slices.Contains(p.ruled, k) {
			return true
		}
	}
	return false
}

// neededKinds lists the kinds in use, the most used first: connections try the rules
// in this order.
func (p *Plane) neededKinds() []kind {
	out := make([]kind, 0, len(p.kinds))
	for k := range p.kinds {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b kind) int {
		return cmp.Or(p.kinds[b]-p.kinds[a], cmp.Compare(slotOffset(0, a), slotOffset(0, b)))
	})
	return out
}

// rebuild replaces the table by one made from byService, in one transaction, so that
// connections always meet either the old table or the new one.
func (p *Plane) rebuild() error {
	p.broken = true // until proven otherwise
	if err := p.open(); err != nil {
		return err
	}
	p.reset()
	var c change
	for _, list := range p.byService {
		for i := range list {
			if list[i].Address.Is6() != p.ipv6 {
				continue
			}
			x := place(&list[i], p.cfg.PodCIDR, nil)
			p.have[list[i].Front] = x
			p.count(x, +1, nil)
			c.diff(list[i].Front, nil, x)
		}
	}
	for l := range p.addresses {
		c.add = append(c.add, l.element())
	}
	if err := p.rules.create(p.conn); err != nil {
		return fmt.Errorf("build table %s: %w", TableName, err)
	}
	p.ruled = p.neededKinds()
	p.rules.addSelection(p.conn, p.ruled)
	if err := p.queue(c); err != nil {
		return err
	}
	if err := p.commit(true); err != nil {
		return err
	}
	p.broken = false
	p.wantCleaning()
	return nil
}

// queue adds a change to the open transaction: removals first, so that a key can get
// a new value.
func (p *Plane) queue(c change) error {
	if err := p.queueElements(c.remove, p.conn.SetDeleteElements); err != nil {
		return err
	}
	return p.queueElements(c.add, p.conn.SetAddElements)
}

func (p *Plane) queueElements(list []element, send func(*nft.Set, []nft.SetElement) error) error {
	bySet := map[setName][]nft.SetElement{}
	for _, e := range list {
		bySet[e.set] = append(bySet[e.set], nft.SetElement{Key: []byte(e.key), Val: []byte(e.value)})
	}
	for _, name := range allSets() {
		for part := range slices.Chunk(bySet[name], chunk) {
			if err := send(p.rules.sets[name], part); err != nil {
				return fmt.Errorf("encode elements of %s: %w", name, err)
			}
		}
	}
	return nil
}

// commit sends the transaction and notes what the kernel must look like from now on.
func (p *Plane) commit(rulesChanged bool) error {
	before := p.seal.generation
	if err := p.conn.Flush(); err != nil {
		return fmt.Errorf("change table %s: %w", TableName, err)
	}
	generation, err := readGeneration(p.raw)
	if err != nil {
		return err
	}
	if generation == before+1 || before == 0 {
		p.seal.generation = generation
	} // else somebody else changed something meanwhile: the old number makes the watch look
	if rulesChanged {
		p.seal.rules, err = rulesDigest(p.raw, p.rules.family)
	}
	return err
}

func (p *Plane) wantCleaning() {
	select {
	case p.unclean <- struct{}{}:
	default:
	}
}

// Run implements dataplane.Plane: it repairs what others break, retries what failed,
// and ends flows to endpoints that are gone.
func (p *Plane) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.unclean:
			if n, err := p.cleanFlows(); err != nil {
				p.cfg.Log.Warn("flows not cleaned, trying again", zap.Error(err))
				p.retryCleaning(ctx)
			} else if n > 0 {
				p.cfg.Log.Debug("ended stale flows", zap.Uint("flows", n))
			}
		case <-ticker.C:
			if err := p.check(); err != nil {
				p.cfg.Log.Error("table not as it should be, trying again", zap.Error(err))
			}
		}
	}
}

// retryCleaning asks for another cleaning after the next tick at the earliest.
func (p *Plane) retryCleaning(ctx context.Context) {
	timer := time.NewTimer(watchPeriod)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		p.wantCleaning()
	}
}

// Clean implements dataplane.Plane.
func (p *Plane) Clean() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced = false
	clear(p.byService)
	p.reset()
	p.conn.AddTable(p.rules.table)
	p.conn.DelTable(p.rules.table)
	if err := p.conn.Flush(); err != nil {
		return fmt.Errorf("remove table %s: %w", TableName, err)
	}
	p.seal = seal{}
	return nil
}

// Close implements dataplane.Plane.
func (p *Plane) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeSockets()
	return p.ns.Close()
}

// Clean removes the tables of both families from the current network namespace, as a
// Plane's Clean does, but needs no configuration.
func Clean() error {
	var errs error
	for _, ipv6 := range []bool{false, true} {
		c, err := nft.New()
		if err != nil {
			return fmt.Errorf("open nftables socket: %w", err)
		}
		table := &nft.Table{Name: TableName, Family: familyOf(ipv6).table}
		c.AddTable(table) // makes the deletion succeed where there is none
		c.DelTable(table)
		err = c.Flush()
		if ipv6 && errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // a kernel without IPv6 has no such table
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("remove table %s: %w", TableName, err))
		}
	}
	return errs
}
