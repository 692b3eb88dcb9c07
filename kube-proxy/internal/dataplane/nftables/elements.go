package nftables

import (
	"encoding/binary"
	"net/netip"

	"kijabi.dev/kube-proxy/internal/services"
)

// setName is one of the table's sets and maps.
type setName string

const (
	// setTargets maps address . protocol . port . slot to endpoint address . port.
	setTargets setName = "targets"
	// setFronts and setFrontsInside hold address . protocol . port of what has
	// endpoints; the second for connections from pods and this machine, when they differ.
	setFronts       setName = "fronts"
	setFrontsInside setName = "fronts-inside"
	// setRejected and setDropped hold what has none.
	setRejected setName = "rejected"
	setDropped  setName = "dropped"
	// setLocal holds address . address of the endpoints on this node. A connection
	// whose source and destination are such a pair came back to where it began.
	setLocal setName = "local"
	// setMembers and setMembersInside hold address . protocol . port . endpoint address .
	// port of frontends with affinity: a remembered endpoint must still be one.
	setMembers       setName = "members"
	setMembersInside setName = "members-inside"
)

func allSets() []setName {
	return []setName{setTargets, setFronts, setFrontsInside, setRejected, setDropped, setLocal, setMembers, setMembersInside}
}

// element is an entry of a set; value is empty except in maps.
type element struct {
	set        setName
	key, value string
}

// view tells the two groups of clients apart that may see different endpoints.
type view uint32

const (
	outside view = iota
	inside
)

// kind is what decides which rule serves a frontend.
type kind struct {
	// slots is how many slots its endpoints use.
	slots int
	// sticky numbers the affinity times in use; 0 means no affinity.
	sticky uint32
}

// maxSticky is the greatest number of different affinity times, by the bits for it.
const maxSticky = 1<<8 - 1

// slotOffset is added to the number of a slot. It keeps views and kinds apart, so that
// a rule for one kind never finds a slot meant for another.
func slotOffset(v view, k kind) uint32 { return uint32(v)<<31 | k.sticky<<23 | slotClass(k.slots)<<16 }

// placed is what the kernel holds for one frontend.
type placed struct {
	slots     [2][]netip.AddrPort // by view
	split     bool
	otherwise services.Fallback
	sticky    uint32
	local     []netip.Addr
}

// kind of what serves one view.
func (p *placed) kind(v view) kind { return kind{slots: len(p.slots[v]), sticky: p.sticky} }

// members are the endpoints a client may be remembered to have.
func (p *placed) members(v view) map[netip.AddrPort]struct{} {
	if p == nil || p.sticky == 0 {
		return nil
	}
	out := map[netip.AddrPort]struct{}{}
	for _, target := range p.slots[v] {
		out[target] = struct{}{}
	}
	return out
}

// place lays out a frontend, changing as little as possible against before, which
// may be nil.
func place(f *services.Frontend, sticky uint32, before *placed) *placed {
	if before == nil {
		before = &placed{}
	}
	p := &placed{split: f.SplitInside, otherwise: f.Otherwise, sticky: sticky}
	p.slots[outside] = assignSlots(before.slots[outside], f.Endpoints)
	if f.SplitInside {
		p.slots[inside] = assignSlots(before.slots[inside], f.Inside)
	}
	seen := map[netip.Addr]struct{}{}
	for _, list := range [][]services.Endpoint{f.Endpoints, f.Inside} {
		for _, ep := range list {
			if _, twice := seen[ep.Target.Addr()]; ep.Local && !twice {
				seen[ep.Target.Addr()] = struct{}{}
				p.local = append(p.local, ep.Target.Addr())
			}
		}
	}
	return p
}

// change collects what a transaction removes and adds.
type change struct {
	remove, add []element
}

// diff appends what leads from one layout of a front to another; nil means absent.
func (c *change) diff(front services.Front, before, after *placed) {
	frontKey := string(frontBytes(front))
	b, a := membership(before), membership(after)
	for _, set := range []setName{setFronts, setFrontsInside, setRejected, setDropped} {
		had, has := contains(b, set), contains(a, set)
		if had && !has {
			c.remove = append(c.remove, element{set: set, key: frontKey})
		}
		if has && !had {
			c.add = append(c.add, element{set: set, key: frontKey})
		}
	}
	for v := outside; v <= inside; v++ {
		c.diffSlots(frontKey, v, before, after)
		set := [2]setName{setMembers, setMembersInside}[v]
		had, has := before.members(v), after.members(v)
		for target := range had {
			if _, stays := has[target]; !stays {
				c.remove = append(c.remove, element{set: set, key: frontKey + targetValue(target)})
			}
		}
		for target := range has {
			if _, stayed := had[target]; !stayed {
				c.add = append(c.add, element{set: set, key: frontKey + targetValue(target)})
			}
		}
	}
}

func (c *change) diffSlots(frontKey string, v view, before, after *placed) {
	var old, now []netip.AddrPort
	var oldKind, nowKind kind
	if before != nil {
		old, oldKind = before.slots[v], before.kind(v)
	}
	if after != nil {
		now, nowKind = after.slots[v], after.kind(v)
	}
	same := oldKind == nowKind
	for i, target := range old {
		if !same || target != now[i] {
			c.remove = append(c.remove, element{setTargets, slotKey(frontKey, v, oldKind, i), targetValue(target)})
		}
	}
	for i, target := range now {
		if !same || target != old[i] {
			c.add = append(c.add, element{setTargets, slotKey(frontKey, v, nowKind, i), targetValue(target)})
		}
	}
}

// membership lists the sets a front is in.
func membership(p *placed) []setName {
	var out []setName
	if p == nil {
		return nil
	}
	switch {
	case len(p.slots[outside]) > 0:
		out = append(out, setFronts)
	case p.otherwise == services.Drop:
		out = append(out, setDropped)
	default:
		out = append(out, setRejected)
	}
	if p.split && len(p.slots[inside]) > 0 {
		out = append(out, setFrontsInside)
	}
	return out
}

func contains(list []setName, s setName) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// frontBytes encodes address . protocol . port, each padded to four bytes.
func frontBytes(f services.Front) []byte {
	out := f.Address.AsSlice()
	out = append(out, byte(f.Protocol), 0, 0, 0)
	out = binary.BigEndian.AppendUint16(out, f.Port)
	return append(out, 0, 0)
}

// slotKey appends the slot's index, which the kernel makes in the machine's byte order.
func slotKey(frontKey string, v view, k kind, index int) string {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], slotOffset(v, k)+uint32(index))
	return frontKey + string(b[:])
}

func targetValue(t netip.AddrPort) string {
	out := t.Addr().AsSlice()
	out = binary.BigEndian.AppendUint16(out, t.Port())
	return string(append(out, 0, 0))
}

func localKey(a netip.Addr) string {
	b := a.AsSlice()
	return string(b) + string(b)
}
