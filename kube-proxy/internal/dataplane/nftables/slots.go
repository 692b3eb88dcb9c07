package nftables

import (
	"hash/fnv"
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

// stickyLeast is the least number of slots of a frontend with affinity.
const stickyLeast = 1024

// stickySlots gives each slot, which stands for a part of all clients, the endpoint
// that likes it most. What an endpoint likes depends on nothing but itself, so every
// node, and every process after this one, sends a client to the same endpoint; and when
// endpoints come or go, only clients of those that went, and the share of those that
// came, move. Shares are even only roughly.
func stickySlots(_ []netip.AddrPort, endpoints []services.Endpoint) []netip.AddrPort {
	n := min(len(endpoints), maxSlots)
	if n == 0 {
		return nil
	}
	names := make([]uint64, n)
	for i, ep := range endpoints[:n] {
		h := fnv.New64a()
		_, _ = h.Write([]byte(targetValue(ep.Target)))
		names[i] = h.Sum64()
	}
	out := make([]netip.AddrPort, max(slotCount(n), stickyLeast))
	for slot := range out {
		best, most := 0, uint64(0)
		for i, name := range names {
			if liking := scramble(name ^ scramble(uint64(slot))); liking >= most {
				best, most = i, liking
			}
		}
		out[slot] = endpoints[best].Target
	}
	return out
}

// scramble is the finishing step of the splitmix64 generator.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
