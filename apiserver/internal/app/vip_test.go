package app

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// TestVirtualAddress has a master hold a virtual address that its certificate does not name yet:
// both doors answer on it, by its name, and it is gone when the master is.
func TestVirtualAddress(t *testing.T) {
	const virtual = "198.18.77.9" // of the range for measurements
	cfg, client := founder(t)
	cfg.VIP.Addresses, cfg.VIP.Interface = []string{virtual}, "lo"
	group := lifecycle.NewGroup(t.Context())
	group.Go(func(ctx context.Context) error {
		return Run(ctx, cfg, zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)))
	})
	stop := func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	at := func(address string) string {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return net.JoinHostPort(virtual, port)
	}
	get := func(path string) string {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+at(cfg.RESTAddress)+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(r) // checks the certificate for the address
			if err == nil {
				content, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK {
					return string(content)
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s through the virtual address: %v", path, err)
			}
		}
	}
	get("/readyz")
	if metrics := get("/metrics"); !strings.Contains(metrics, `kijabi_virtual_address_held{address="198.18.77.9"} 1`) {
		t.Error("metrics do not say that the address is held")
	}

	id, err := pki.OpenIdentity(cfg.Identity)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(at(cfg.ListenAddress), id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, err := mastersv1pb.NewMastersServiceClient(conn).Status(t.Context(), &mastersv1pb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		members := status.GetMembers() // none before the first is on the roster
		if len(members) == 1 && slices.Equal(members[0].GetVirtualAddresses(), status.GetVirtualAddresses()) && slices.Equal(status.GetVirtualAddresses(), cfg.VIP.Addresses) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("status does not say who holds the address: %v", status)
		}
	}

	stop()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if strings.HasPrefix(address.String(), virtual) {
			t.Errorf("%s is left", address)
		}
	}
}
