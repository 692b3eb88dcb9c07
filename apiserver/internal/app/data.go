package app

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/storage/etcd"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// datastore is what any etcd can do for an apiserver. What only an embedded member can is
// masters.Etcd.
type datastore interface {
	Backend() *etcd.Backend
	Revision() int64
	DatabaseBytes() int64
	// WriteDatabase copies the database as of one moment.
	WriteDatabase(w io.Writer) (revision int64, err error)
	Run(ctx context.Context) error
	Close()
}

var (
	_ datastore = (*etcdnode.Node)(nil)
	_ datastore = (*etcd.Separate)(nil)
)

// etcdData is the cluster's, in an embedded member or in a separate etcd.
type etcdData struct {
	datastore

	member   *etcdnode.Node // one of both
	separate *etcd.Separate
	identity *pki.Identity // towards the separate etcd
}

// openData starts the embedded member, or connects to the separate etcd.
func openData(ctx context.Context, cfg *configv1.APIServerConfiguration, dial masters.Dial, log *zap.Logger) (*etcdData, error) {
	if cfg.Etcd.Separate() {
		return openSeparate(ctx, cfg, dial, log)
	}
	node, err := startEtcd(ctx, cfg, dial, log)
	if err != nil {
		return nil, err
	}
	return &etcdData{datastore: node, member: node}, nil
}

// tell gives the masters what they have to do with etcd.
func (d *etcdData) tell(cfg *masters.Config) {
	if d.member != nil {
		cfg.Etcd, cfg.Care = d.member, d.member
	} else {
		cfg.Separate = d.separate
	}
}

// disturbed is a store's Config.Disturbed.
func (d *etcdData) disturbed() func() <-chan struct{} {
	if d.member == nil {
		return nil // a separate etcd does not say who leads it
	}
	return d.member.LeaderChanged
}

// identities are what this master proves itself by towards a separate etcd, if there is one.
func (d *etcdData) identities() []*pki.Identity {
	if d.identity == nil {
		return nil
	}
	return []*pki.Identity{d.identity}
}

// Run implements datastore.
func (d *etcdData) Run(ctx context.Context) error {
	if d.identity == nil {
		return d.datastore.Run(ctx)
	}
	return lifecycle.RunAll(ctx, d.datastore.Run, d.identity.Run)
}

// openSeparate connects to a separate etcd, which must be this cluster's, and without a place among
// the masters founds the cluster or asks a living master to let this one join.
func openSeparate(ctx context.Context, cfg *configv1.APIServerConfiguration, dial masters.Dial, log *zap.Logger) (_ *etcdData, err error) {
	identity, err := pki.OpenIdentity(cfg.Etcd.Identity())
	if err != nil {
		return nil, fmt.Errorf("etcd.certFile, keyFile and caFile: %w", err)
	}
	separate, err := etcd.Connect(ctx, etcd.SeparateConfig{Endpoints: cfg.Etcd.Endpoints, Identity: identity, Log: log.Named("etcd")})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			separate.Close()
		}
	}()
	switch {
	case masters.Exists(raftDir(cfg)):
		err = takeUp(ctx, cfg, separate, dial)
	case cfg.Bootstrap:
		err = separate.Found(ctx, cfg.ClusterID)
	default:
		if err = separate.Belongs(ctx, cfg.ClusterID); err != nil {
			return nil, err
		}
		var joined *mastersv1pb.JoinResponse
		if joined, err = join(ctx, cfg, dial, log); err != nil {
			return nil, err
		}
		err = belongTo(cfg, joined.GetGeneration(), log)
	}
	if err != nil {
		return nil, err
	}
	return &etcdData{datastore: separate, separate: separate, identity: identity}, nil
}

// takeUp makes sure that this master's data, and etcd, are still those of its group: it returns a
// *masters.Superseded if that goes on without it.
func takeUp(ctx context.Context, cfg *configv1.APIServerConfiguration, separate *etcd.Separate, dial masters.Dial) error {
	if err := separate.Belongs(ctx, cfg.ClusterID); err != nil {
		return err
	}
	if err := verifyRaft(ctx, cfg); err != nil {
		return err
	}
	former, known, err := formerGroup(cfg)
	if err != nil {
		return err
	}
	if newer := masters.FindSuccessor(ctx, cfg.ClusterID, former.Generation, known, dial); newer != nil {
		return newer
	}
	return nil
}

// formerGroup is what this master's data says of its group, and the peer addresses of all others
// that it ever heard of.
func formerGroup(cfg *configv1.APIServerConfiguration) (masters.Data, []string, error) {
	former, err := masters.ReadData(raftDir(cfg))
	if err != nil {
		return former, nil, err
	}
	known, err := knownMasters(cfg)
	if err != nil {
		return former, nil, err
	}
	for _, member := range former.Members {
		if member.Name != cfg.NodeName {
			known = append(known, member.PeerAddress)
		}
	}
	slices.Sort(known)
	return former, slices.Compact(known), nil
}

// startEtcd starts the embedded member. With an empty data directory it forms a
// cluster of one, or asks a living master to let it join.
func startEtcd(ctx context.Context, cfg *configv1.APIServerConfiguration, dial masters.Dial, log *zap.Logger) (*etcdnode.Node, error) {
	etcdConfig := etcdnode.Config{
		Name: cfg.NodeName, Dir: etcdDir(cfg), PeerURL: cfg.Etcd.PeerURL, ClusterToken: cfg.ClusterID,
		CertFile: cfg.Peer.CertFile, KeyFile: cfg.Peer.KeyFile, CAFile: cfg.Peer.CAFile,
		QuotaBytes: cfg.Etcd.QuotaBytes, Retention: cfg.Etcd.HistoryRetention.Duration, Log: log.Named("etcd"),
	}
	start := etcdnode.Start
	switch {
	case etcdnode.Exists(etcdConfig.Dir):
		start = func(ctx context.Context, etcdConfig etcdnode.Config) (*etcdnode.Node, error) {
			return startMember(ctx, cfg, etcdConfig, dial, log)
		}
	case !cfg.Bootstrap:
		joined, err := join(ctx, cfg, dial, log)
		if err != nil {
			return nil, err
		}
		if err := belongTo(cfg, joined.GetGeneration(), log); err != nil {
			return nil, err
		}
		etcdConfig.InitialCluster = joined.GetEtcdInitialCluster()
	}
	node, err := start(ctx, etcdConfig)
	if err != nil {
		return nil, fmt.Errorf("etcd member %s: %w", cfg.NodeName, err)
	}
	return node, nil
}

// joinTimeout bounds how long this master asks to be let in; after it the program
// ends with the reason, and is started again.
const joinTimeout = 2 * time.Minute

// join asks the known masters until one lets this one in.
func join(ctx context.Context, cfg *configv1.APIServerConfiguration, dial masters.Dial, log *zap.Logger) (*mastersv1pb.JoinResponse, error) {
	known, err := knownMasters(cfg)
	if err != nil {
		return nil, err
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("%s holds no data and this master knows no other to join: if this machine has lost its disk, run 'kijabi reset' and join it again with a new token, or 'kijabi snapshot restore' if it was the only master; to join by hand, fill in join", cfg.DataDir)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return masters.AskToJoin(ctx, known, dial, &mastersv1pb.JoinRequest{
		Name: cfg.NodeName, PeerAddress: cfg.PeerAddress, EtcdPeerUrl: cfg.Etcd.PeerURL,
		GrpcAddress: cfg.ListenAddress, RestAddress: cfg.RESTAddress,
	}, log)
}
