// Package standby is the frame of a program that runs on every master and acts on
// the one that leads: its connection to the local apiserver, its caches, which are
// warm everywhere so that taking over needs no list, its own gRPC service, its
// certificate's renewal, and the elector that starts and ends the acting.
package standby

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/election"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// Config of a Program; every field is required.
type Config struct {
	// Component is the program's name in the master's health record.
	Component pki.Component
	// Common names the program's certificate and the address of its own service.
	Common configv1.Common
	// APIServer is host:port of the local apiserver's gRPC door.
	APIServer string
	Log       *zap.Logger
}

// Program is what New has opened; its fields are there to be used, not changed.
type Program struct {
	// Identity is the program's certificate.
	Identity *pki.Identity
	// Conn is the connection to the local apiserver, and to no other: a master's
	// programs stand and fall with it.
	Conn *grpc.ClientConn
	// API is the client over Conn.
	API *client.Client
	// Caches takes informers until Run.
	Caches *informer.Set
	// Elector follows who leads.
	Elector *election.Elector
	// Server takes services until Run.
	Server *rpc.Server

	cfg Config
}

// New opens the certificate and the connection. The caller calls Close in the end.
func New(cfg Config) (*Program, error) {
	identity, err := pki.OpenIdentity(cfg.Common.Identity)
	if err != nil {
		return nil, err
	}
	server, err := rpc.NewServer(rpc.ServerConfig{Address: cfg.Common.ListenAddress, Identity: identity, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	conn, err := rpc.Dial(cfg.APIServer, identity)
	if err != nil {
		return nil, fmt.Errorf("dial apiserver %s: %w", cfg.APIServer, err)
	}
	api := client.New(conn)
	return &Program{
		Identity: identity, Conn: conn, API: api, Caches: informer.NewSet(api, cfg.Log), Server: server,
		Elector: election.New(election.Config{
			Masters: mastersv1pb.NewMastersServiceClient(conn), Component: cfg.Component, Log: cfg.Log,
		}),
		cfg: cfg,
	}, nil
}

// Dial opens one more connection to the local apiserver, for who needs more streams than
// one has room for.
func (p *Program) Dial() (*client.Client, func() error, error) {
	conn, err := rpc.Dial(p.cfg.APIServer, p.Identity)
	if err != nil {
		return nil, nil, fmt.Errorf("dial apiserver %s: %w", p.cfg.APIServer, err)
	}
	return client.New(conn), conn.Close, nil
}

// Close ends the connection.
func (p *Program) Close() error { return p.Conn.Close() }

// Run keeps everything going until ctx ends or a part fails. While this master
// leads, and once all caches are complete, it runs act; its context carries the
// epoch for every write and ends with the leadership.
func (p *Program) Run(ctx context.Context, act lifecycle.Task) error {
	return lifecycle.RunAll(ctx,
		p.Identity.Run,
		func(ctx context.Context) error {
			return pki.RenewLoop(ctx, p.cfg.Common.Identity, certificatev1pb.NewCertificateServiceClient(p.Conn), p.cfg.Log)
		},
		p.Server.Run,
		p.Caches.Run,
		p.Elector.Run,
		lifecycle.Notifier{
			Ready: p.Server.WaitServing, Log: p.cfg.Log,
			Alive: []lifecycle.Task{p.Server.Alive, func(context.Context) error {
				_, _ = p.Caches.HasSynced(), p.Elector.Leading()
				return nil
			}},
		}.Run,
		p.Elector.WhileLeader(func(ctx context.Context) error {
			if err := p.Caches.WaitSynced(ctx); err != nil {
				return nil //nolint:nilerr // leadership ended before the caches were there
			}
			return act(ctx)
		}),
	)
}
