// Package providertest checks that a provider keeps the contract kijabi.cloud.v1. A
// provider's own test serves it and calls Run with a connection to it, so that what
// is checked is what the cloud-controller-manager meets.
package providertest

import (
	"net"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
)

// contractVersion is the version of the contract that is checked.
const contractVersion = 1

// Machines tell what a provider can be asked about. All fields but Gone are required.
type Machines struct {
	// Node is the name of a machine that exists and runs, Reported what it reports
	// of itself.
	Node     string
	Reported []*cloudv1pb.NodeAddress
	// Other is a second one.
	Other string
	// Gone is the name of a machine that exists no more; empty for a provider that
	// cannot tell.
	Gone string
}

// Run checks a provider. conn is made by rpc.DialName with the certificate of a
// cloud-controller-manager: errors arrive as StatusErrors.
func Run(t *testing.T, conn grpc.ClientConnInterface, machines Machines) {
	t.Helper()
	provider := cloudv1pb.NewCloudProviderServiceClient(conn)
	t.Run("Capabilities", func(t *testing.T) { capabilities(t, provider) })
	t.Run("Instance", func(t *testing.T) { instance(t, provider, machines) })
	t.Run("Refusals", func(t *testing.T) { refusals(t, provider, machines) })
	t.Run("AtOnce", func(t *testing.T) { atOnce(t, provider, machines) })
}

func capabilities(t *testing.T, provider cloudv1pb.CloudProviderServiceClient) {
	t.Helper()
	first, err := provider.GetCapabilities(t.Context(), &cloudv1pb.GetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first.GetProvider() == "" || first.GetContractVersion() != contractVersion || !first.GetInstances() {
		t.Errorf("%v: a provider has a name, version %d of the contract, and answers for instances", first, contractVersion)
	}
	second, err := provider.GetCapabilities(t.Context(), &cloudv1pb.GetCapabilitiesRequest{})
	if err != nil || !proto.Equal(first, second) {
		t.Errorf("asked again: %v, %v; capabilities do not change", second, err)
	}
}

func ask(t *testing.T, provider cloudv1pb.CloudProviderServiceClient, req *cloudv1pb.GetInstanceRequest) *cloudv1pb.GetInstanceResponse {
	t.Helper()
	res, err := provider.GetInstance(t.Context(), req)
	if err != nil {
		t.Fatalf("instance of %s: %v", req.GetNode(), err)
	}
	return res
}

func instance(t *testing.T, provider cloudv1pb.CloudProviderServiceClient, machines Machines) {
	t.Helper()
	req := &cloudv1pb.GetInstanceRequest{Node: machines.Node, ReportedAddresses: machines.Reported}
	first := ask(t, provider, req)
	if first.GetProviderId() == "" || first.GetState() != cloudv1pb.InstanceState_INSTANCE_STATE_RUNNING {
		t.Errorf("%v: a running machine has a provider id and says that it runs", first)
	}
	kinds := []corev1.NodeAddressType{corev1.NodeHostName, corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeInternalDNS, corev1.NodeExternalDNS}
	for _, address := range first.GetAddresses() {
		kind := corev1.NodeAddressType(address.GetType())
		if !slices.Contains(kinds, kind) || address.GetAddress() == "" {
			t.Errorf("address %v is of no kind that Kubernetes knows", address)
		}
		if (kind == corev1.NodeInternalIP || kind == corev1.NodeExternalIP) && net.ParseIP(address.GetAddress()) == nil {
			t.Errorf("address %v is no IP", address)
		}
	}
	if again := ask(t, provider, req); !proto.Equal(first, again) {
		t.Errorf("asked again: %v, first: %v; calls are idempotent", again, first)
	}
	known := &cloudv1pb.GetInstanceRequest{Node: machines.Node, ProviderId: first.GetProviderId(), ReportedAddresses: machines.Reported}
	if again := ask(t, provider, known); !proto.Equal(first, again) {
		t.Errorf("asked by provider id: %v, by name: %v", again, first)
	}
	if other := ask(t, provider, &cloudv1pb.GetInstanceRequest{Node: machines.Other}); other.GetProviderId() == first.GetProviderId() {
		t.Errorf("two machines have provider id %s", other.GetProviderId())
	}
}

func refusals(t *testing.T, provider cloudv1pb.CloudProviderServiceClient, machines Machines) {
	t.Helper()
	if _, err := provider.GetInstance(t.Context(), &cloudv1pb.GetInstanceRequest{}); !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err) {
		t.Errorf("a request without a node: %v, want INVALID_ARGUMENT", err)
	}
	if machines.Gone == "" {
		return
	}
	// The node of such a machine is deleted, so this answer must be no other's.
	if _, err := provider.GetInstance(t.Context(), &cloudv1pb.GetInstanceRequest{Node: machines.Gone}); !apierrors.IsNotFound(err) {
		t.Errorf("a machine that is gone: %v, want NOT_FOUND", err)
	}
}

func atOnce(t *testing.T, provider cloudv1pb.CloudProviderServiceClient, machines Machines) {
	t.Helper()
	want := map[string]*cloudv1pb.GetInstanceResponse{}
	for _, name := range []string{machines.Node, machines.Other} {
		want[name] = ask(t, provider, &cloudv1pb.GetInstanceRequest{Node: name})
	}
	group, ctx := errgroup.WithContext(t.Context())
	for range 20 {
		for name := range want {
			group.Go(func() error {
				got, err := provider.GetInstance(ctx, &cloudv1pb.GetInstanceRequest{Node: name})
				if err == nil && !proto.Equal(got, want[name]) {
					t.Errorf("among many calls: %v, alone: %v", got, want[name])
				}
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
