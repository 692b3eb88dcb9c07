// Package resident is the frame of a program that runs on every machine and must
// work, and restart, with all masters down: a connection that moves between masters,
// caches that the program backs with snapshot files, its own gRPC service and its
// certificate's renewal.
package resident

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

// probeEvery is how often the master in use is asked whether it lives. Without masters
// the program works on with what it knows, so it may take its time to notice.
const probeEvery = 2 * time.Second

// Config of a Program; every field is required.
type Config struct {
	// Common names the program's certificate and the address of its own service.
	Common configv1.Common
	// APIServers are host:port of the gRPC doors of known masters; others are learnt
	// and kept in DataDir.
	APIServers []string
	// DataDir is made if it does not exist.
	DataDir string
	Log     *zap.Logger
}

// Program is what New has opened; its fields are there to be used, not changed.
type Program struct {
	// Caches takes informers until Run; give them snapshots in files of Snapshot.
	Caches *informer.Set
	// Server takes services until Run. It says that it does not serve until told otherwise.
	Server *rpc.Server

	cfg      Config
	identity *pki.Identity
	conn     *rpc.Failover
}

// New opens the certificate and the connection, which needs no living master. The
// caller calls Close in the end.
func New(cfg Config) (*Program, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	identity, err := pki.OpenIdentity(cfg.Common.Identity)
	if err != nil {
		return nil, err
	}
	server, err := rpc.NewServer(rpc.ServerConfig{Address: cfg.Common.ListenAddress, Identity: identity, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	server.SetServing(false)
	conn, err := rpc.DialAny(rpc.FailoverConfig{
		Addresses: cfg.APIServers, Identity: identity, Log: cfg.Log, ProbeEvery: probeEvery,
		StateFile: filepath.Join(cfg.DataDir, "apiservers.json"),
	})
	if err != nil {
		return nil, err
	}
	return &Program{
		Caches: informer.NewSet(client.New(conn), cfg.Log), Server: server,
		cfg: cfg, identity: identity, conn: conn,
	}, nil
}

// Close ends the connection.
func (p *Program) Close() error { return p.conn.Close() }

// Snapshot makes an informer keep its last known state in DataDir, as NAME.snapshot.
func (p *Program) Snapshot(name string) informer.Option {
	return informer.SnapshotFile(filepath.Join(p.cfg.DataDir, name+".snapshot"))
}

// Run keeps everything going until ctx ends or a part fails: beside at once, and act
// when all caches are complete, by the masters or by snapshots. What the process
// before has left stays as it is until then.
func (p *Program) Run(ctx context.Context, act lifecycle.Task, beside ...lifecycle.Task) error {
	return lifecycle.RunAll(ctx, slices.Concat(beside, []lifecycle.Task{
		p.identity.Run, p.conn.Run, p.Caches.Run, p.Server.Run,
		func(ctx context.Context) error {
			return pki.RenewLoop(ctx, p.cfg.Common.Identity, certificatev1pb.NewCertificateServiceClient(p.conn), p.cfg.Log)
		},
		// Waiting for masters is not starting: the service manager need not wait, too.
		lifecycle.Notifier{
			Ready: p.Server.WaitServing, Log: p.cfg.Log,
			Alive: []lifecycle.Task{p.Server.Alive, func(context.Context) error { _ = p.Caches.HasSynced(); return nil }},
		}.Run,
		func(ctx context.Context) error {
			if err := p.Caches.WaitSynced(ctx); err != nil {
				return nil //nolint:nilerr // asked to end while waiting
			}
			return act(ctx)
		},
	})...)
}
