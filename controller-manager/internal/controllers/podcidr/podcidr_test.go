package podcidr

import (
	"net/netip"
	"strings"
	"testing"
)

func TestFirstFree(t *testing.T) {
	used := map[netip.Prefix]bool{netip.MustParsePrefix("10.244.0.0/24"): true, netip.MustParsePrefix("10.244.2.0/24"): true}
	got, err := firstFree(netip.MustParsePrefix("10.244.0.0/16"), 24, used)
	if err != nil || got.String() != "10.244.1.0/24" {
		t.Errorf("%s, %v", got, err)
	}
	_, err = firstFree(netip.MustParsePrefix("10.244.0.0/24"), 24, used)
	if err == nil || !strings.Contains(err.Error(), "no free /24 left") {
		t.Errorf("full range: %v", err)
	}
	if _, err := firstFree(netip.MustParsePrefix("10.244.0.0/24"), 16, nil); err == nil {
		t.Error("a range shorter than its parts was divided")
	}
}
