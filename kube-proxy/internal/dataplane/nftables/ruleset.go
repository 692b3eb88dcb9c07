package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the table that kube-proxy owns, in the families ip and ip6.
const TableName = "kijabi-proxy"

// Registers of four bytes each: a key begins at regKey, what a map yields at regData.
// A front just before regData makes, with an endpoint there, one key.
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
	// affinity remembers the clients of frontends with affinity, a map for each time:
	// address . protocol . port . client → endpoint address . port. The kernel fills them.
	affinity map[time.Duration]*nft.Set
}

func newRuleset(f family, pods, svcs netip.Prefix) *ruleset {
	r := &ruleset{family: f, pods: pods, svcs: svcs, sets: map[setName]*nft.Set{}, chains: map[string]*nft.Chain{}, affinity: map[time.Duration]*nft.Set{}}
	r.table = &nft.Table{Name: TableName, Family: f.table}
	front := nft.MustConcatSetType(f.addrType, nft.TypeInetProto, nft.TypeInetService)
	slot := nft.MustConcatSetType(f.addrType, nft.TypeInetProto, nft.TypeInetService, nft.TypeMark)
	target := nft.MustConcatSetType(f.addrType, nft.TypeInetService)
	member := nft.MustConcatSetType(f.addrType, nft.TypeInetProto, nft.TypeInetService, f.addrType, nft.TypeInetService)
	pair := nft.MustConcatSetType(f.addrType, f.addrType)
	for _, name := range allSets() {
		s := &nft.Set{Table: r.table, Name: string(name), KeyType: front, Concatenation: true}
		switch name {
		case setTargets:
			s.KeyType, s.DataType, s.IsMap = slot, target, true
		case setLocal:
			s.KeyType = pair
		case setMembers, setMembersInside:
			s.KeyType = member
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

// maxClients bounds how many clients each affinity map remembers; more are served, but
// placed anew each time.
const maxClients = 1 << 18

// affinityName of the map for one time.
func affinityName(d time.Duration) string { return fmt.Sprintf("affinity-%d", int(d.Seconds())) }

// addAffinity queues the map for one time, unless it is there, with these elements.
func (r *ruleset) addAffinity(c *nft.Conn, d time.Duration, known []nft.SetElement) error {
	if r.affinity[d] != nil {
		return nil
	}
	s := &nft.Set{
		Table: r.table, Name: affinityName(d), IsMap: true, Dynamic: true, HasTimeout: true, Timeout: d, Concatenation: true, Size: maxClients,
		KeyType:  nft.MustConcatSetType(r.addrType, nft.TypeInetProto, nft.TypeInetService, r.addrType),
		DataType: nft.MustConcatSetType(r.addrType, nft.TypeInetService),
	}
	r.affinity[d] = s
	if err := c.AddSet(s, nil); err != nil {
		return err
	}
	for part := range slices.Chunk(known, chunk) {
		if err := c.SetAddElements(s, part); err != nil {
			return err
		}
	}
	return nil
}

// addSelection queues the rules that choose an endpoint, for these kinds; times are
// what the kinds' affinity numbers stand for. First come the clients that are
// remembered.
func (r *ruleset) addSelection(c *nft.Conn, kinds []kind, times map[uint32]time.Duration) {
	afterFront := regKey + r.words() + 2
	translate := []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: r.nfproto, RegAddrMin: regData, RegProtoMin: regData + r.words()}}
	for _, s := range r.selectors() {
		client := concat(r.loadFront(s.nodePort), []expr.Any{r.load(r.saddr, afterFront)})
		members := [2]setName{setMembers, setMembersInside}[s.view]
		for _, set := range r.affinityInUse(kinds, times) {
			r.rule(c, s.chain, client,
				[]expr.Any{&expr.Lookup{SourceRegister: regKey, DestRegister: regData, IsDestRegSet: true, SetName: set.Name, SetID: set.ID}},
				r.loadFrontAt(regData-r.words()-2, s.nodePort),
				[]expr.Any{&expr.Lookup{SourceRegister: regData - r.words() - 2, SetName: string(members), SetID: r.sets[members].ID}},
				client, remember(set, unix.NFT_DYNSET_OP_UPDATE), translate)
		}
		for _, k := range kinds {
			choose := concat(r.loadFront(s.nodePort), []expr.Any{
				&expr.Numgen{Register: afterFront, Modulus: uint32(k.slots), Type: unix.NFT_NG_RANDOM, Offset: slotOffset(s.view, k)},
				&expr.Lookup{SourceRegister: regKey, DestRegister: regData, IsDestRegSet: true, SetName: string(setTargets), SetID: r.sets[setTargets].ID},
			})
			if set := r.affinity[times[k.sticky]]; k.sticky != 0 && set != nil {
				// The old memory, if any, is of an endpoint that is gone. When the map is full
				// this rule ends here and the next one serves.
				r.rule(c, s.chain, choose, []expr.Any{r.load(r.saddr, afterFront)},
					remember(set, dynsetDelete), remember(set, unix.NFT_DYNSET_OP_ADD), translate)
			}
			r.rule(c, s.chain, choose, translate)
		}
	}
}

// dynsetDelete is NFT_DYNSET_OP_DELETE, which the unix package lacks.
const dynsetDelete = 2

func remember(set *nft.Set, operation uint32) []expr.Any {
	return []expr.Any{&expr.Dynset{SrcRegKey: regKey, SrcRegData: regData, SetName: set.Name, SetID: set.ID, Operation: operation}}
}

// affinityInUse lists the maps of the kinds, each once, in a fixed order.
func (r *ruleset) affinityInUse(kinds []kind, times map[uint32]time.Duration) []*nft.Set {
	var ids []uint32
	for _, k := range kinds {
		if k.sticky != 0 && !slices.Contains(ids, k.sticky) && r.affinity[times[k.sticky]] != nil {
			ids = append(ids, k.sticky)
		}
	}
	slices.Sort(ids)
	out := make([]*nft.Set, len(ids))
	for i, id := range ids {
		out[i] = r.affinity[times[id]]
	}
	return out
}

// replaceSelection empties the selecting chains and fills them anew.
func (r *ruleset) replaceSelection(c *nft.Conn, kinds []kind, times map[uint32]time.Duration) {
	for _, s := range r.selectors() {
		c.FlushChain(r.chains[s.chain])
	}
	r.addSelection(c, kinds, times)
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
	// Only what this table translated: others translate, too, and want the client's address.
	for _, set := range []setName{setFronts, setFrontsInside} {
		for _, nodePort := range []bool{false, true} {
			r.rule(c, chain, translated, r.loadOriginal(nodePort), r.in(set), masquerade)
		}
	}
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
func (r *ruleset) loadFront(nodePort bool) []expr.Any { return r.loadFrontAt(regKey, nodePort) }

func (r *ruleset) loadFrontAt(reg uint32, nodePort bool) []expr.Any {
	address := r.load(r.daddr, reg)
	if nodePort {
		address = &expr.Immediate{Register: reg, Data: r.any.AsSlice()}
	}
	return []expr.Any{
		address,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg + r.words()},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: reg + r.words() + 1},
	}
}

// loadOriginal makes the key of what the client had asked for.
func (r *ruleset) loadOriginal(nodePort bool) []expr.Any {
	var address expr.Any = &expr.Ct{Key: expr.CtKeyDST, Direction: 0, Register: regKey}
	if nodePort {
		address = &expr.Immediate{Register: regKey, Data: r.any.AsSlice()}
	}
	return []expr.Any{
		address,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey + r.words()},
		&expr.Ct{Key: expr.CtKeyPROTODST, Direction: 0, Register: regKey + r.words() + 1},
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
