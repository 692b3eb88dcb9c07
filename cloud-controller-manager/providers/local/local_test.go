package local_test

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/cloud-controller-manager/providers/local"
	"kijabi.dev/cloud-controller-manager/providers/providertest"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
)

func TestProvider(t *testing.T) {
	ca := pkitest.NewCA(t)
	server, err := rpc.NewServer(rpc.ServerConfig{
		Identity: pkitest.Identity(t, ca, pki.ComponentCloudProvider, "m1"), Log: zap.NewNop(), GracePeriod: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	cloudv1pb.RegisterCloudProviderServiceServer(server, local.New("zone-1", "region-1"))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.WithoutCancel(t.Context()))
	group.Go(func(ctx context.Context) error { return server.Serve(ctx, listener) })
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	dial := func(component string) grpc.ClientConnInterface {
		conn, err := rpc.DialName(listener.Addr().String(), pki.ServerName(pki.ComponentCloudProvider, "m1"), pkitest.Identity(t, ca, component, "m1"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	conn := dial(pki.ComponentCloudControllerManager)
	providertest.Run(t, conn, providertest.Machines{
		Node: "vm1", Other: "vm2",
		Reported: []*cloudv1pb.NodeAddress{{Type: "InternalIP", Address: "192.0.2.1"}, {Type: "Hostname", Address: "vm1"}},
	})
	provider := cloudv1pb.NewCloudProviderServiceClient(conn)
	got, err := provider.GetInstance(t.Context(), &cloudv1pb.GetInstanceRequest{
		Node: "vm1", ReportedAddresses: []*cloudv1pb.NodeAddress{{Type: "InternalIP", Address: "192.0.2.1"}},
	})
	if err != nil || got.GetProviderId() != "local://vm1" || got.GetZone() != "zone-1" || got.GetRegion() != "region-1" ||
		len(got.GetAddresses()) != 1 || got.GetAddresses()[0].GetAddress() != "192.0.2.1" {
		t.Errorf("instance %v, %v", got, err)
	}
	for _, component := range []string{pki.ComponentKubelet, pki.ComponentScheduler, pki.ComponentAdmin} {
		if _, err := cloudv1pb.NewCloudProviderServiceClient(dial(component)).GetInstance(t.Context(), &cloudv1pb.GetInstanceRequest{Node: "vm1"}); !apierrors.IsForbidden(err) {
			t.Errorf("%s may ask the provider: %v", component, err)
		}
	}
}
