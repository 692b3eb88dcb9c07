package nftables

import (
	"net/netip"
	"testing"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/dataplane/dataplanetest"
)

func open(t *testing.T) dataplane.Plane {
	t.Helper()
	p, err := New(Config{
		PodCIDR: netip.MustParsePrefix(dataplanetest.PodCIDR), ServiceCIDR: netip.MustParsePrefix(dataplanetest.ServiceCIDR),
		Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatalf("new plane: %v", err)
	}
	return p
}

func TestConformance(t *testing.T) { dataplanetest.Run(t, open) }
