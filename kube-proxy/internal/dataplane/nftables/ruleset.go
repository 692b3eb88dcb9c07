package nftables

import (
	"encoding/binary"
	"net/netip"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the table that kube-proxy owns, in the families ip and ip6.
const TableName = "kijabi-proxy"

// Registers of four bytes each: a key begins at regKey, what a map yields at regData.
const (
	regKey  = unix.NFT_REG32_00
	regData = unix.NFT_REG32_11
)

// family holds what differs between IPv4 and IPv6.
type family struct {
	table    nft.TableFamily
	nfproto  uint32
	addrType nft.SetDatatype
	addrLen  uint32
	saddr    uint32 // offset in the header
	daddr    uint32
	loopback netip.Prefix
	any      netip.Addr
	rejectBy expr.Reject // for what is not TCP
}

func familyOf(ipv6 bool) family {
	if ipv6 {
		return family{
			table: nft.TableFamilyIPv6, nfproto: unix.NFPROTO_IPV6, addrType: nft.TypeIP6Addr, addrLen: 16, saddr: 8, daddr: 24,
			loopback: netip.MustParsePrefix("::1/128"), any: netip.IPv6Unspecified(),
			rejectBy: expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 4}, // port unreachable
		}
	}
	return family{
		table: nft.TableFamilyIPv4, nfproto: unix.NFPROTO_IPV4, addrType: nft.TypeIPAddr, addrLen: 4, saddr: 12, daddr: 16,
		loopback: netip.MustParsePrefix("127.0.0.0/8"), any: netip.IPv4Unspecified(),
		rejectBy: expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3},
	}
}

// words is how many registers an address takes.
func (f family) words() uint32 { return f.addrLen / 4 }

// ruleset names the table's parts. The number of chains is constant; the rules that
// choose an endpoint are one for each slot count in use, in four chains.
type ruleset struct {
	family
	pods, svcs netip.Prefix // svcs is the range of service addresses

	table  *nft.Table
	sets   map[setName]*nft.Set
	chains map[string]*nft.Chain
}

func newRuleset(f family, pods, svcs netip.Prefix) *ruleset {
	r := &ruleset{family: f, pods: pods, svcs: svcs, sets: map[setName]*nft.Set{}, chains: map[string]*nft.Chain{}}
	r.table = &nft.Table{Name: TableName, Family: f.table}
	front := nft.MustConcatSetType(f.addrType, nft.TypeInetProto, nft.TypeInetService)
	slot := nft.MustConcatSetType(f.addrType, nft.TypeInetProto, nft.TypeInetService, nft.TypeMark)
	target := nft.MustConcatSetType(f.addrType, nft.TypeInetService)
	pair := nft.MustConcatSetType(f.addrType, f.addrType)
	for _, name := range allSets() {
		s := &nft.Set{Table: r.table, Name: string(name), KeyType: front, Concatenation: true}
		switch name {
		case setTargets:
			s.KeyType, s.DataType, s.IsMap = slot, target, true
		case setLocal:
			s.KeyType = pair
		case setRemote:
			s.KeyType, s.Concatenation = f.addrType, false
		}
		r.sets[name] = s
	}
	return r
}

// selectors are the chains that hold one rule for each slot count.
func (r *ruleset) selectors() []struct {
	chain    string
	nodePort bool
	view     view
} {
	return []struct {
		chain    string
		nodePort bool
		view     view
	}{
		{"select", false, outside}, {"select-port", true, outside},
		{"select-inside", false, inside}, {"select-port-inside", true, inside},
	}
}

// create queues the whole table without its elements, replacing an old one in the
// same transaction.
func (r *ruleset) create(c *nft.Conn) error {
	c.AddTable(r.table) // makes the deletion succeed where there is none
	c.DelTable(r.table)
	c.AddTable(r.table)
	for _, name := range allSets() {
		if err := c.AddSet(r.sets[name], nil); err != nil {
			return err
		}
	}
	chain := func(name string) {
		r.chains[name] = c.AddChain(&nft.Chain{Name: name, Table: r.table})
	}
	base := func(name string, typ nft.ChainType, hook *nft.ChainHook, priority *nft.ChainPriority) {
		r.chains[name] = c.AddChain(&nft.Chain{Name: name, Table: r.table, Type: typ, Hooknum: hook, Priority: priority})
	}
	for _, s := range r.selectors() {
		chain(s.chain)
	}
	chain("services")
	chain("inside")
	chain("reject")
	chain("refuse")
	base("prerouting", nft.ChainTypeNAT, nft.ChainHookPrerouting, nft.ChainPriorityNATDest)
	base("output", nft.ChainTypeNAT, nft.ChainHookOutput, nft.ChainPriorityNATDest)
	base("postrouting", nft.ChainTypeNAT, nft.ChainHookPostrouting, nft.ChainPriorityNATSource)
	base("filter-forward", nft.ChainTypeFilter, nft.ChainHookForward, nft.ChainPriorityFilter)
	base("filter-output", nft.ChainTypeFilter, nft.ChainHookOutput, nft.ChainPriorityFilter)
	base("filter-input", nft.ChainTypeFilter, nft.ChainHookInput, nft.ChainPriorityFilter)

	r.addTranslation(c)
	r.addMasquerade(c)
	r.addFilter(c)
	return nil
}

func (r *ruleset) rule(c *nft.Conn, chain string, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, p := range parts {
		exprs = append(exprs, p...)
	}
	c.AddRule(&nft.Rule{Table: r.table, Chain: r.chains[chain], Exprs: exprs})
}

func (r *ruleset) addTranslation(c *nft.Conn) {
	r.rule(c, "prerouting", r.addressIn(r.saddr, r.pods, expr.CmpOpEq), jump("inside"))
	r.rule(c, "prerouting", jump("services"))
	r.rule(c, "output", jump("inside"))
	r.rule(c, "output", jump("services"))

	// A service address that this machine itself has, as the DNS server's, is served
	// by the machine.
	own := concat(r.addressIn(r.daddr, r.svcs, expr.CmpOpEq), r.destinationLocal(expr.CmpOpEq))
	for chain, p := range map[string]struct {
		set       setName
		sel, port string
	}{
		"services": {setFronts, "select", "select-port"},
		"inside":   {setFrontsInside, "select-inside", "select-port-inside"},
	} {
		r.rule(c, chain, own, verdict(expr.VerdictReturn, ""))
		r.rule(c, chain, r.loadFront(false), r.in(p.set), verdict(expr.VerdictGoto, p.sel))
		r.rule(c, chain, r.loadFront(true), r.in(p.set), r.addressIn(r.daddr, r.loopback, expr.CmpOpNeq),
			r.destinationLocal(expr.CmpOpEq), verdict(expr.VerdictGoto, p.port))
	}
}

// stickySeed must be the same on all nodes.
const stickySeed = 0x6b696a62

// addSelection queues the rules that choose an endpoint, for these kinds.
//
// What a map yields is used for the translation only and never as part of another
// key: the kernel would take that, but listing it makes some versions of the nft
// program crash. That is why affinity works by hashing and remembers nobody.
func (r *ruleset) addSelection(c *nft.Conn, kinds []kind) {
	slot := regKey + r.words() + 2
	for _, s := range r.selectors() {
		for _, k := range kinds {
			offset := slotOffset(s.view, k)
			choose := []expr.Any{&expr.Numgen{Register: slot, Modulus: uint32(k.slots), Type: unix.NFT_NG_RANDOM, Offset: offset}}
			if k.sticky {
				choose = []expr.Any{
					r.load(r.saddr, regData),
					&expr.Hash{
						SourceRegister: regData, DestRegister: slot, Length: r.addrLen, Modulus: uint32(k.slots),
						Seed: stickySeed, Offset: offset, Type: expr.HashTypeJenkins,
					},
				}
			}
			r.rule(c, s.chain, r.loadFront(s.nodePort), choose, []expr.Any{
				&expr.Lookup{SourceRegister: regKey, DestRegister: regData, IsDestRegSet: true, SetName: string(setTargets), SetID: r.sets[setTargets].ID},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: r.nfproto, RegAddrMin: regData, RegProtoMin: regData + r.words()},
			})
		}
	}
}

// replaceSelection empties the selecting chains and fills them anew.
func (r *ruleset) replaceSelection(c *nft.Conn, kinds []kind) {
	for _, s := range r.selectors() {
		c.FlushChain(r.chains[s.chain])
	}
	r.addSelection(c, kinds)
}

// addMasquerade hides the client where the answer would else not come back this way:
// when a pod reaches itself, and when a client that is no pod is sent to another node.
// A client sent to this node's own pods keeps its address.
func (r *ruleset) addMasquerade(c *nft.Conn) {
	translated := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: regKey},
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: 4, Mask: native(ctStatusDNAT), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: native(0)},
	}
	masquerade := []expr.Any{&expr.Masq{FullyRandom: true}}
	const chain = "postrouting"
	r.rule(c, chain, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: regKey},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: []byte("lo\x00")},
	}, verdict(expr.VerdictReturn, ""))
	r.rule(c, chain, []expr.Any{r.load(r.saddr, regKey), r.load(r.daddr, regKey+r.words())}, r.in(setLocal), translated, masquerade)
	r.rule(c, chain, r.addressIn(r.saddr, r.pods, expr.CmpOpEq), verdict(expr.VerdictReturn, ""))
	r.rule(c, chain, []expr.Any{r.load(r.daddr, regKey), r.load(r.daddr, regKey+r.words())}, r.in(setLocal), verdict(expr.VerdictReturn, ""))
	// Only endpoints: others translate, too, to their own containers perhaps, and want the
	// client's address. (What the client had asked for would tell as well, but listing a
	// rule that looks it up in a set makes some versions of the nft program crash.)
	r.rule(c, chain, translated, r.addressIn(r.daddr, r.pods, expr.CmpOpEq), masquerade)
	r.rule(c, chain, translated, []expr.Any{r.load(r.daddr, regKey)}, r.in(setRemote), masquerade)
}

// addFilter turns away what has no endpoint. It sees destinations after translation,
// so a service address that still stands there has none.
func (r *ruleset) addFilter(c *nft.Conn) {
	isNew := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: regKey},
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: 4, Mask: native(expr.CtStateBitNEW), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: native(0)},
	}
	r.rule(c, "filter-forward", jump("refuse"))
	r.rule(c, "filter-output", jump("refuse"))
	notLocal := r.destinationLocal(expr.CmpOpNeq)
	r.rule(c, "refuse", isNew, r.loadFront(false), r.in(setDropped), notLocal, verdict(expr.VerdictDrop, ""))
	r.rule(c, "refuse", isNew, r.loadFront(false), r.in(setRejected), notLocal, verdict(expr.VerdictGoto, "reject"))
	r.rule(c, "refuse", r.addressIn(r.daddr, r.svcs, expr.CmpOpEq), notLocal, verdict(expr.VerdictGoto, "reject"))

	// Node ports, and external addresses that are this machine's own.
	notService := r.addressIn(r.daddr, r.svcs, expr.CmpOpNeq)
	notLoopback := r.addressIn(r.daddr, r.loopback, expr.CmpOpNeq)
	for _, nodePort := range []bool{false, true} {
		r.rule(c, "filter-input", isNew, notService, notLoopback, r.loadFront(nodePort), r.in(setDropped), verdict(expr.VerdictDrop, ""))
		r.rule(c, "filter-input", isNew, notService, notLoopback, r.loadFront(nodePort), r.in(setRejected), verdict(expr.VerdictGoto, "reject"))
	}

	r.rule(c, "reject", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	})
	by := r.rejectBy
	r.rule(c, "reject", []expr.Any{&by})
}

// load puts an address of the header into a register.
func (r *ruleset) load(offset, reg uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: r.addrLen, DestRegister: reg}
}

// loadFront makes the key address . protocol . port of the packet.
func (r *ruleset) loadFront(nodePort bool) []expr.Any {
	address := r.load(r.daddr, regKey)
	if nodePort {
		address = &expr.Immediate{Register: regKey, Data: r.any.AsSlice()}
	}
	return []expr.Any{
		address,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey + r.words()},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: regKey + r.words() + 1},
	}
}

func (r *ruleset) in(set setName) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: string(set), SetID: r.sets[set].ID}}
}

// addressIn compares an address of the header with a range.
func (r *ruleset) addressIn(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := make([]byte, r.addrLen)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		r.load(offset, regKey),
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: r.addrLen, Mask: mask, Xor: make([]byte, r.addrLen)},
		&expr.Cmp{Op: op, Register: regKey, Data: p.Masked().Addr().AsSlice()},
	}
}

func (r *ruleset) destinationLocal(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: regKey, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: regKey, Data: native(unix.RTN_LOCAL)},
	}
}

// ctStatusDNAT is IPS_DST_NAT of the kernel's connection tracking.
const ctStatusDNAT = 1 << 5

func jump(chain string) []expr.Any { return verdict(expr.VerdictJump, chain) }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func concat(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// native encodes what the kernel compares in the machine's byte order.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
