// Package local implements the cloud provider contract for plain machines: an
// instance is whatever machine joined, its addresses are those it reported.
package local

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
)

// contractVersion is the version of kijabi.cloud.v1 that this provider implements.
const contractVersion = 1

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.CloudProviderLocalConfiguration {
	return &configv1.CloudProviderLocalConfiguration{}
}

// Run serves the contract until ctx ends.
func Run(ctx context.Context, cfg *configv1.CloudProviderLocalConfiguration, log *zap.Logger) error {
	identity, err := pki.OpenIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	server, err := rpc.NewServer(rpc.ServerConfig{Address: cfg.ListenAddress, Identity: identity, Log: log})
	if err != nil {
		return err
	}
	cloudv1pb.RegisterCloudProviderServiceServer(server, New(cfg.Zone, cfg.Region))
	conn, err := rpc.Dial(cfg.APIServer, identity)
	if err != nil {
		return fmt.Errorf("dial apiserver %s: %w", cfg.APIServer, err)
	}
	defer func() { _ = conn.Close() }()
	notifier := lifecycle.Notifier{Ready: server.WaitServing, Alive: []lifecycle.Task{server.Alive}, Log: log}
	return lifecycle.RunAll(ctx, identity.Run, server.Run, notifier.Run, func(ctx context.Context) error {
		return pki.RenewLoop(ctx, cfg.Identity, certificatev1pb.NewCertificateServiceClient(conn), log)
	})
}

// Provider serves kijabi.cloud.v1.CloudProviderService. It is stateless.
type Provider struct {
	cloudv1pb.UnsafeCloudProviderServiceServer

	zone, region string
}

var _ cloudv1pb.CloudProviderServiceServer = (*Provider)(nil)

// New returns a provider whose machines are all in one zone and region; both may be empty.
func New(zone, region string) *Provider { return &Provider{zone: zone, region: region} }

// GetCapabilities says that it answers for instances.
func (p *Provider) GetCapabilities(context.Context, *cloudv1pb.GetCapabilitiesRequest) (*cloudv1pb.GetCapabilitiesResponse, error) {
	return &cloudv1pb.GetCapabilitiesResponse{Provider: "local", ContractVersion: contractVersion, Instances: true}, nil
}

// GetInstance describes a machine by what it reported: it exists for as long as its
// Node does, since nobody but its owner could say that it is gone for good.
func (p *Provider) GetInstance(_ context.Context, req *cloudv1pb.GetInstanceRequest) (*cloudv1pb.GetInstanceResponse, error) {
	if req.GetNode() == "" {
		return nil, apierrors.NewBadRequest("node is required")
	}
	return &cloudv1pb.GetInstanceResponse{
		ProviderId: "local://" + req.GetNode(), InstanceType: "machine", Zone: p.zone, Region: p.region,
		Addresses: req.GetReportedAddresses(), State: cloudv1pb.InstanceState_INSTANCE_STATE_RUNNING,
	}, nil
}
