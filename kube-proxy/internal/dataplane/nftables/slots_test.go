package nftables

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"kijabi.dev/kube-proxy/internal/services"
)

func endpoints(from, n int) []services.Endpoint {
	out := make([]services.Endpoint, n)
	for i := range out {
		k := from + i
		out[i].Target = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), 80)
	}
	return out
}

func TestSlotCount(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 1, 2: 2, 64: 64, 65: 1024, 128: 1024, 129: 2048, 1000: 8192, 8192: 65536, 9000: 65536, 70000: 65536} {
		if got := slotCount(n); got != want {
			t.Errorf("%d endpoints: %d slots, want %d", n, got, want)
		}
	}
	classes := map[uint32]int{}
	for n := 1; n <= maxSlots; n++ {
		count := slotCount(n)
		class := slotClass(count)
		if other, known := classes[class]; known && other != count || class >= 1<<15 {
			t.Fatalf("class %d stands for %d and %d slots", class, other, count)
		}
		classes[class] = count
	}
}

// TestAssignSlots changes a set of endpoints at random and checks that shares stay
// even and that a small change moves few slots.
func TestAssignSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var slots []netip.AddrPort
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			eps := endpoints(rapid.IntRange(0, 50).Draw(t, "from"), rapid.IntRange(0, 300).Draw(t, "n"))
			before := slots
			slots = assignSlots(before, eps)
			if len(slots) != slotCount(len(eps)) {
				t.Fatalf("%d slots for %d endpoints", len(slots), len(eps))
			}
			share := map[netip.AddrPort]int{}
			for _, s := range slots {
				share[s]++
			}
			least, most := len(slots), 0
			for _, ep := range eps {
				least, most = min(least, share[ep.Target]), max(most, share[ep.Target])
			}
			if len(eps) > 0 && (len(share) != len(eps) || most-least > 1 || least == 0) {
				t.Fatalf("%d endpoints, %d have slots, between %d and %d", len(eps), len(share), least, most)
			}
		}
	})
	before := assignSlots(nil, endpoints(0, 1000))
	moved := 0
	for i, target := range assignSlots(before, endpoints(1, 1000)) { // one leaves, one comes
		if target != before[i] {
			moved++
		}
	}
	if moved > 2*len(before)/1000+2 {
		t.Errorf("one endpoint of 1000 replaced: %d of %d slots changed", moved, len(before))
	}
}

func TestStickySlots(t *testing.T) {
	if got := stickySlots(nil, nil); len(got) != 0 {
		t.Errorf("without endpoints: %d slots", len(got))
	}
	for _, n := range []int{1, 2, 3, 10, 64, 65} {
		slots := stickySlots(nil, endpoints(0, n))
		share := map[netip.AddrPort]int{}
		for _, s := range slots {
			share[s]++
		}
		even := len(slots) / n
		for target, have := range share {
			if have < even/3 || have > 3*even {
				t.Errorf("%d endpoints: %s has %d slots, even would be %d", n, target, have, even)
			}
		}
		if len(share) != n {
			t.Errorf("%d endpoints: %d have slots", n, len(share))
		}
	}
	// The second of eleven goes: nobody else's clients move.
	all := endpoints(0, 11)
	left := append(append([]services.Endpoint{}, all[0]), all[2:]...)
	before, after := stickySlots(nil, all), stickySlots(nil, left)
	for i := range before {
		if before[i] != all[1].Target && after[i] != before[i] {
			t.Fatalf("slot %d moves from %s, which stays, to %s", i, before[i], after[i])
		}
	}
}
