package server

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"kijabi.dev/addons/internal/dns/records"
)

// maxAliases bounds a chain of ExternalName services: two may name each other.
const maxAliases = 8

// patience is how long a query waits for the source to be complete. It is below the
// time after which resolvers ask again, commonly 5 s.
const patience = 3 * time.Second

// handler answers for the cluster's zone and hands everything else on.
type handler struct {
	zone   *records.Zone
	source records.Source
	ready  func() bool
	wait   func(context.Context) error // may be nil
	chain  atomic.Pointer[chain]       // never nil; replaced when the resolvers change
}

// chain is what comes after the handler: a cache over a forwarder, or nothing when
// there is no resolver.
type chain struct {
	head    plugin.Handler
	outside *outside
}

func newChain(resolvers []netip.AddrPort) *chain {
	if len(resolvers) == 0 {
		return &chain{}
	}
	c := &chain{outside: newOutside(resolvers)}
	// Only what comes from outside is cached: the cluster's answers are in memory
	// anyway, and should be today's.
	remembered := cache.New()
	remembered.Next = c.outside
	c.head = remembered
	return c
}

func (c *chain) close() error {
	if c.outside == nil {
		return nil
	}
	return c.outside.close()
}

// next asks upstream, or returns nil when there is none.
func (h *handler) next() plugin.Handler { return h.chain.Load().head }

var _ plugin.Handler = (*handler)(nil)

// Name of the plugin in CoreDNS's own messages.
func (*handler) Name() string { return "kijabi" }

// ServeDNS implements plugin.Handler.
func (h *handler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if r.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented, nil
	}
	name, qtype := state.QName(), state.QType()
	if !h.zone.Owns(h.source, name) {
		return h.forward(ctx, w, r)
	}
	if !h.ready() && !h.becomesReady(ctx) {
		return dns.RcodeServerFailure, nil // nothing is known yet: a negative answer would lie
	}
	reply := new(dns.Msg)
	reply.SetReply(r)
	reply.Authoritative, reply.RecursionAvailable = true, h.next() != nil
	answer := h.zone.Answer(h.source, name, qtype)
	reply.Rcode = answer.Rcode
	reply.Answer, reply.Extra = shuffle(answer.Records), answer.Extra
	if answer.Alias != "" {
		h.follow(ctx, w, r, reply, answer.Alias)
	} else if len(reply.Answer) == 0 {
		reply.Ns = []dns.RR{answer.Authority}
	}
	if err := w.WriteMsg(reply); err != nil {
		return dns.RcodeServerFailure, err
	}
	return reply.Rcode, nil
}

// becomesReady waits a little for the source: a server that was just restarted knows
// everything within a second or so, and resolvers wait longer than that, but take a
// failure for the last word.
func (h *handler) becomesReady(ctx context.Context) bool {
	if h.wait == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return h.wait(ctx) == nil
}

// forward asks upstream. Without one, names outside are refused at once.
func (h *handler) forward(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	next := h.next()
	if next == nil {
		return dns.RcodeRefused, nil
	}
	return next.ServeDNS(ctx, w, r)
}

// follow adds to reply what target resolves to: stub resolvers expect the whole
// chain from the server they ask.
func (h *handler) follow(ctx context.Context, w dns.ResponseWriter, r, reply *dns.Msg, target string) {
	qtype := r.Question[0].Qtype
	for range maxAliases {
		if !h.zone.Owns(h.source, target) {
			h.followOutside(ctx, w, r, reply, target)
			return
		}
		answer := h.zone.Answer(h.source, target, qtype)
		reply.Answer = append(reply.Answer, shuffle(answer.Records)...)
		reply.Rcode = answer.Rcode
		if answer.Alias == "" {
			if len(answer.Records) == 0 {
				reply.Ns = []dns.RR{answer.Authority}
			}
			return
		}
		target = answer.Alias
	}
	reply.Rcode = dns.RcodeServerFailure
}

func (h *handler) followOutside(ctx context.Context, w dns.ResponseWriter, r, reply *dns.Msg, target string) {
	next := h.next()
	if next == nil {
		return // the alias alone is still true
	}
	query := new(dns.Msg)
	query.SetQuestion(target, r.Question[0].Qtype)
	query.SetEdns0(dns.DefaultMsgSize, false)
	caught := nonwriter.New(w)
	rcode, err := next.ServeDNS(ctx, caught, query)
	if caught.Msg == nil || err != nil {
		reply.Rcode = dns.RcodeServerFailure
		if err == nil && rcode != dns.RcodeSuccess {
			reply.Rcode = rcode
		}
		return
	}
	reply.Answer = append(reply.Answer, caught.Msg.Answer...)
	reply.Ns = append(reply.Ns, caught.Msg.Ns...)
	reply.Rcode = caught.Msg.Rcode
}

// shuffle puts records in random order: many clients take the first address only.
func shuffle(list []dns.RR) []dns.RR {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] }) // the caller's own slice
	return list
}
