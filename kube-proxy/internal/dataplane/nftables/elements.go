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
	// setRemote holds the addresses of endpoints that are neither on this node nor in the
	// range of pods.
	setRemote setName = "remote"
)

func allSets() []setName {
	return []setName{setTargets, setFronts, setFrontsInside, setRejected, setDropped, setLocal, setRemote}
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
	// sticky takes the slot from the client's address instead of drawing one.
	sticky bool
}

// slotOffset is added to the number of a slot. It keeps views and kinds apart, so that
// a rule for one kind never finds a slot meant for another.
func slotOffset(v view, k kind) uint32 {
	offset := uint32(v)<<31 | slotClass(k.slots)<<16
	if k.sticky {
		offset |= 1 << 30
	}
	return offset
}

// placed is what the kernel holds for one frontend.
type placed struct {
	slots     [2][]netip.AddrPort // by view
	split     bool
	otherwise services.Fallback
	sticky    bool
	addresses []listed
}

// listed is an address in one of the sets that all frontends share.
type listed struct {
	set     setName
	address netip.Addr
}

// element of the set.
func (l listed) element() element {
	key := string(l.address.AsSlice())
	if l.set == setLocal {
		key += key
	}
	return element{set: l.set, key: key}
}

// kind of what serves one view.
func (p *placed) kind(v view) kind { return kind{slots: len(p.slots[v]), sticky: p.sticky} }

// place lays out a frontend, changing as little as possible against before, which
// may be nil.
func place(f *services.Frontend, pods netip.Prefix, before *placed) *placed {
	if before == nil {
		before = &placed{}
	}
	p := &placed{split: f.SplitInside, otherwise: f.Otherwise, sticky: f.Sticky}
	assign := assignSlots
	if f.Sticky {
		assign = stickySlots
	}
	p.slots[outside] = assign(before.slots[outside], f.Endpoints)
	if f.SplitInside {
		p.slots[inside] = assign(before.slots[inside], f.Inside)
	}
	seen := map[listed]struct{}{}
	for _, list := range [][]services.Endpoint{f.Endpoints, f.Inside} {
		for _, ep := range list {
			l := listed{set: setLocal, address: ep.Target.Addr()}
			if !ep.Local {
				if l.set = setRemote; pods.Contains(l.address) {
					continue
				}
			}
			if _, twice := seen[l]; !twice {
				seen[l] = struct{}{}
				p.addresses = append(p.addresses, l)
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
