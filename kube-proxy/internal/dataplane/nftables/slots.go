package nftables

import (
	"math/bits"
	"net/netip"

	"kijabi.dev/kube-proxy/internal/services"
)

// A frontend's endpoints lie in numbered slots; a connection takes a random slot.
// The number of slots decides which rule serves the frontend, so there are few
// different numbers: up to exactSlots endpoints have one slot each; more endpoints
// share a power of two of slots, at least slotsEach for each, so that no endpoint
// gets more than an eighth more than another.
const (
	exactSlots = 64
	slotsEach  = 8
	// maxSlots bounds the index of a slot to 16 bits. Beyond maxSlots/slotsEach
	// endpoints the shares become less even; beyond maxSlots the rest gets nothing.
	maxSlots = 1 << 16
)

// slotCount returns how many slots n endpoints use.
func slotCount(n int) int {
	if n <= exactSlots {
		return n
	}
	return min(1<<bits.Len(uint(n*slotsEach-1)), maxSlots)
}

// slotClass numbers the slot counts: 1 to 64 are themselves, powers of two follow.
func slotClass(count int) uint32 {
	if count <= exactSlots {
		return uint32(count)
	}
	return exactSlots + uint32(bits.Len(uint(count)))
}

// assignSlots gives every endpoint its share of slots. It keeps as much of old as it
// can when the count stays, because each slot that changes is a kernel element that
// changes. The result is new memory.
func assignSlots(old []netip.AddrPort, endpoints []services.Endpoint) []netip.AddrPort {
	n := min(len(endpoints), maxSlots)
	count := slotCount(n)
	out := make([]netip.AddrPort, count)
	if count == n {
		for i := range out {
			out[i] = endpoints[i].Target
		}
		return out
	}

	share, larger := count/n, count%n // so many endpoints may have one slot more
	used := make(map[netip.AddrPort]int, n)
	for _, ep := range endpoints[:n] {
		used[ep.Target] = 0
	}
	if len(old) == count {
		for i, target := range old {
			have, wanted := used[target]
			switch {
			case !wanted || have > share:
				continue
			case have == share:
				if larger == 0 {
					continue
				}
				larger--
			}
			used[target]++
			out[i] = target
		}
	}
	next, limit := 0, share
	for i := range out {
		if out[i].IsValid() {
			continue
		}
		for used[endpoints[next].Target] >= limit {
			if next++; next == n {
				next, limit = 0, share+1 // the last, larger slots
			}
		}
		out[i] = endpoints[next].Target
		used[endpoints[next].Target]++
	}
	return out
}
