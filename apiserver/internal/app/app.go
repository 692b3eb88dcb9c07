// Package app wires the apiserver.
package app

import (
	"context"
	"crypto/tls"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/addons"
	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/admission/dynamic"
	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/certificates"
	"kijabi.dev/apiserver/internal/flowcontrol"
	"kijabi.dev/apiserver/internal/forward"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/metrics"
	"kijabi.dev/apiserver/internal/nodes"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/rest"
	"kijabi.dev/apiserver/internal/reviews"
	"kijabi.dev/apiserver/internal/rpcapi"
	"kijabi.dev/apiserver/internal/signing"
	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/apiserver/internal/traffic"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/proto/descriptors"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// connectionsPerUser bounds connections of one user on one machine unless configured.
const connectionsPerUser = 256

// components are the programs a master that may lead has beside its apiserver.
var components = []string{"scheduler", "controller-manager"}

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.APIServerConfiguration {
	return &configv1.APIServerConfiguration{
		Network: configv1.DefaultNetwork(), MaxConnectionsPerUser: connectionsPerUser, ManifestsDir: "/etc/kijabi/manifests",
	}
}

// Run wires the component and blocks until ctx ends or a part fails.
//
// Parts stop in two steps: first the doors and the seat among the masters, which
// hands leadership over; then etcd, the store and the masters' port, which the handover needs.
func Run(ctx context.Context, cfg *configv1.APIServerConfiguration, log *zap.Logger) error {
	boundGarbage()
	release, err := lockData(cfg)
	if err != nil {
		return err
	}
	defer release()
	err = run(ctx, cfg, log)
	var newer *masters.Superseded
	if errors.As(err, &newer) {
		// Nothing is open any more; with the data gone, the next start joins.
		return errors.Join(err, giveUp(cfg, newer, log))
	}
	if damaged(err) {
		return errors.Join(err, rebuild(ctx, cfg, err, log))
	}
	return err
}

func run(ctx context.Context, cfg *configv1.APIServerConfiguration, log *zap.Logger) error {
	s, err := build(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer s.data.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ground := lifecycle.NewGroup(context.WithoutCancel(ctx))
	ground.Go(func(ctx context.Context) error {
		err := lifecycle.RunAll(ctx, s.data.Run, s.store.Run, s.peerServer.Run, s.audit)
		cancel(err)
		return err
	})
	err = lifecycle.RunAll(ctx, s.tasks...)
	ground.Cancel()
	return errors.Join(err, ground.Wait())
}

// server is a wired apiserver.
type server struct {
	data       datastore
	store      *store.Store
	peerServer *rpc.Server
	// audit ends after the doors, so that it holds their last answers.
	audit lifecycle.Task
	tasks []lifecycle.Task
}

func build(ctx context.Context, cfg *configv1.APIServerConfiguration, log *zap.Logger) (_ *server, err error) {
	clk := clock.RealClock{}
	identity, err := pki.OpenIdentity(cfg.Identity)
	if err != nil {
		return nil, err
	}
	peerIdentity, err := pki.OpenIdentity(cfg.Peer)
	if err != nil {
		return nil, err
	}
	ca, err := pki.LoadCA(filepath.Join(cfg.PKIDir, "ca.crt"), filepath.Join(cfg.PKIDir, "ca.key"))
	if err != nil {
		return nil, err
	}
	peerCA, err := pki.LoadCA(filepath.Join(cfg.PKIDir, "peer-ca.crt"), filepath.Join(cfg.PKIDir, "peer-ca.key"))
	if err != nil {
		return nil, err
	}
	// Before anything that may wait: what a crash left of a virtual address must not stay.
	holder, err := openVIP(cfg.VIP, log.Named("vip"))
	if err != nil {
		return nil, err
	}
	sign := signer(ca, cfg)
	if err := nameVIP(ctx, cfg, identity, sign); err != nil {
		return nil, err
	}
	dial := func(address string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
		return rpc.Dial(address, peerIdentity, opts...)
	}

	data, err := openData(ctx, cfg, dial, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			data.Close()
		}
	}()
	storageKeys, err := openStorageKeys(cfg.PKIDir, log.Named("store"))
	if err != nil {
		return nil, err
	}
	measured := metrics.New()
	sealing := sealed.New(measured.Backend(data.Backend()), storageKeys, encryptedResources(cfg))
	objects, err := store.New(store.Config{
		Name: cfg.NodeName, Backend: sealing, Indexer: registry.NewIndexer(kinds.Default()), Log: log.Named("store"), Clock: clk,
		Disturbed: data.disturbed(),
	})
	if err != nil {
		return nil, err
	}
	policy := authz.NewPolicy()
	objects.Observe(policy)
	mastersConfig := masters.Config{
		Name: cfg.NodeName, ClusterID: cfg.ClusterID, PeerAddress: cfg.PeerAddress, EtcdPeerURL: cfg.Etcd.PeerURL,
		GRPCAddress: cfg.ListenAddress, RESTAddress: cfg.RESTAddress, Dir: raftDir(cfg),
		Bootstrap: cfg.Bootstrap, Retention: cfg.Etcd.HistoryRetention.Duration, Concerns: concerns(objects), Store: objects, Dial: dial, Components: components,
		Heartbeat: cfg.RaftHeartbeat.Duration, Election: cfg.RaftElection.Duration, LeaderLease: cfg.RaftLeaderLease.Duration,
		ReplaceDeadAfter: cfg.Masters.ReplaceAfter(), CertificateEnd: func() time.Time { return firstEnd(append(data.identities(), identity, peerIdentity)...) },
		VirtualAddresses: held(holder), DiskFailed: func(err error) { markFailed(cfg, err) },
		SharedFiles: func() (map[string][]byte, error) { return sharedFiles(cfg.PKIDir) },
		Clock:       clk, Log: log.Named("masters"),
	}
	data.tell(&mastersConfig)
	group, err := masters.New(mastersConfig)
	if err != nil {
		return nil, err
	}
	interval, err := intervalOf(cfg.Snapshots)
	if err != nil {
		return nil, err
	}
	maker, err := newMaker(cfg, data, group, storageKeys, log.Named("snapshots"))
	if err != nil {
		return nil, err
	}
	authorizer := authz.New(authz.Config{Pods: nodePods{objects}, Policy: policy, Refresh: refresh(objects), Prove: prove(objects)})
	keys, err := authn.LoadKeys(cfg.PKIDir)
	if err != nil {
		return nil, err
	}
	accounts, err := authn.NewTokens(authn.Config{
		Keys: keys, Issuer: "https://kubernetes.default.svc." + cfg.Network.ClusterDomain, Objects: objects, Refresh: refresh(objects), Clock: clk,
	})
	if err != nil {
		return nil, err
	}
	engine, err := registry.New(registry.Config{
		Store: objects, Forwarder: measured.Forwarder(forward.New(group)), Access: authorizer, Tokens: accounts,
		Network: cfg.Network, Log: log.Named("registry"), Clock: clk,
		Kinds: kinds.All(kinds.Options{TolerationSeconds: cfg.DefaultTolerationSeconds}), RootCA: ca.CertificatePEM(),
		Dynamic: dynamic.Config{Rights: rights(authorizer), Meter: measured, ClientCertificate: presented(identity)},
		Admission: &admission.Config{PodSecurity: cfg.PodSecurity, IsMaster: func(name string) bool {
			return slices.ContainsFunc(group.Members(), func(m masters.Member) bool { return m.Name == name })
		}},
	})
	if err != nil {
		return nil, err
	}

	self := registry.Caller{User: identity.Leaf().Subject.CommonName, Groups: identity.Leaf().Subject.Organization}
	terms := newTerms(objects, clk)
	rewriter := sealed.NewRewriter(sealed.RewriterConfig{Store: objects, Backend: sealing, User: self.User, Log: log.Named("store")})
	hub := nodes.New(nodes.Config{
		Master: cfg.NodeName, Directory: group.Directory(), MemberConn: group.MemberConn,
		Known: knownNodes(objects), Lease: nodeLease(objects), LeadingSince: terms.leadingSince, Clock: clk, Log: log.Named("nodes"),
	})
	issuer, err := certificates.New(certificates.Config{
		Tokens: &tokens{registry: engine, caller: self}, Authority: authority{ca}, Machines: roster{group}, Clock: clk, Log: log.Named("certificates"),
		Renewable: renewable(objects, group), LeafLife: cfg.Masters.LeafLife(),
	})
	if err != nil {
		return nil, err
	}
	auditLog, err := openAudit(cfg, log.Named("audit"))
	if err != nil {
		return nil, err
	}
	limiter := flowcontrol.New(flowcontrol.Config{Concurrency: cfg.MaxRequestsInFlight, Clock: clk})
	control := traffic.New(traffic.Config{Audit: auditLog, Metrics: measured, Limiter: limiter, Known: known(engine.Kind), Clock: clk})
	measured.Follow(metrics.State{
		Store: objects, Resources: resources(engine), Sealing: rewriter.Progress, Audited: auditLog.Counts, Loads: limiter.Loads,
		Masters:       group.Status,
		VIP:           holder.Status,
		DatabaseBytes: data.DatabaseBytes,
		Full:          group.Full,
		Care:          group.CareCounts,
		Snapshots:     maker.Counts,
		LastSnapshot: func() time.Time {
			if last := group.SnapshotState().Last; last != nil {
				return last.Time
			}
			return time.Time{}
		},
	})
	objectService := rpcapi.NewObjectService(engine, authorizer, reviews.New(authorizer, accounts))
	mastersService := rpcapi.NewMastersService(group, rpcapi.Settings{
		Network: cfg.Network, EtcdQuotaBytes: cfg.Etcd.QuotaBytes, ReplaceDeadAfter: cfg.Masters.ReplaceAfter(), CertificateLife: cfg.Masters.LeafLife(),
		Snapshots: maker, SnapshotInterval: interval, VirtualAddresses: cfg.VIP.Addresses,
	})

	door, err := rpc.NewServer(rpc.ServerConfig{
		Address: cfg.ListenAddress, Identity: identity, Log: log.Named("grpc"), MaxConnectionsPerUser: cfg.MaxConnectionsPerUser,
		Authenticate: rpcapi.Authenticate(accounts),
		Impersonate:  rpcapi.Impersonate(authorizer, log.Named("grpc")),
		Surround:     rpcapi.Surround(control),
		Descriptors:  descriptors.Resolver(), // reflection describes the objects inside an Any, too
	})
	if err != nil {
		return nil, err
	}
	objectv1pb.RegisterObjectServiceServer(door, objectService)
	mastersv1pb.RegisterMastersServiceServer(door, mastersService)
	certificatev1pb.RegisterCertificateServiceServer(door, issuer)
	nodev1pb.RegisterNodeServiceServer(door, hub)

	peers, err := rpc.NewServer(rpc.ServerConfig{
		Address: cfg.PeerAddress, Identity: peerIdentity, ClientAuth: tls.RequireAndVerifyClientCert,
		Log: log.Named("peers"), Node: true, MaxConnectionsPerUser: connectionsPerUser,
		// What a door has taken is passed on with more around it.
		MaxRequestBytes: rpc.MaxRequestBytes + 1<<20,
		// Behind a relayed exec or log may sit somebody who reads at leisure.
		Timeouts: rpc.Timeouts{Send: -1},
	})
	if err != nil {
		return nil, err
	}
	peerv1pb.RegisterPeerServiceServer(peers, rpcapi.NewPeerService(group, maker))
	mastersv1pb.RegisterMastersServiceServer(peers, mastersService)
	objectv1pb.RegisterObjectServiceServer(peers, objectService)
	kubeletv1pb.RegisterKubeletServiceServer(peers, nodes.NewRelay(hub))

	restDoor, err := rest.New(rest.Config{
		Registry: engine, Authorizer: authorizer, Tokens: accounts, Nodes: hub, Identity: identity,
		Address: cfg.RESTAddress, AdvertiseAddress: cfg.RESTAddress, Clock: clk, Log: log.Named("rest"),
		Traffic: control, Metrics: measured.Handler(), Programs: pagesOf(cfg, identity),
		Checks: []rest.Check{
			{Name: "store", Check: func() error { return current(objects) }},
			{Name: "etcd", Check: func() error { return current(objects) }}, // what proves it is etcd
		},
	})
	if err != nil {
		return nil, err
	}

	usable := sealing.Check
	if cfg.StorageKeyLost {
		usable = func() error { return nil }
	}
	openGRPC, openREST := openDoors(cfg, holder, door, restDoor)
	return &server{
		data: data, store: objects, peerServer: peers, audit: auditLog.Run,
		tasks: []lifecycle.Task{
			identity.Run,
			peerIdentity.Run,
			func(ctx context.Context) error {
				return pki.RenewWith(ctx, cfg.Identity, sign, log)
			},
			func(ctx context.Context) error {
				return pki.RenewWith(ctx, cfg.Peer, pki.SignWith(peerCA, cfg.Masters.LeafLife()), log)
			},
			group.Run,
			holdVIP(holder, group),
			rememberMasters(cfg, group),
			terms.run,
			storageKeys.Run,
			rewriter.Run,
			scheduleSnapshots(interval, group, maker, log.Named("snapshots")),
			flowcontrol.NewFollower(objects, limiter, log.Named("flowcontrol")).Run,
			nodes.NewLeases(hub, engine, self, clk, log.Named("nodes")).Run,
			registry.NewBootstrap(registry.BootstrapConfig{
				Engine: engine, Network: cfg.Network, Endpoints: restAddresses(group),
				Defaults: authz.Defaults(), Renew: authz.Renew,
				EventTTL: cfg.EventTTL.Duration, Clock: clk, Log: log.Named("bootstrap"),
			}).Run,
			registry.NewQuotaStatus(engine, clk, log.Named("quotas")).Run,
			keepAddons(cfg, group, addons.Config{Store: objects, Registry: engine, Caller: self, Clock: clk, Log: log.Named("addons")}),
			signing.New(signing.Config{
				Store: objects, Registry: engine, Caller: self, CA: ca, Authorize: authorizer.Authorize, Services: engine.Services(),
				Clock: clk, Log: log.Named("signing"),
			}).Run,
			func(ctx context.Context) error {
				return serveWhenLoaded(ctx, objects, usable, door, []lifecycle.Task{openGRPC, openREST}, lifecycle.Notifier{
					Ready: door.WaitServing, Log: log,
					Alive: []lifecycle.Task{door.Alive, func(context.Context) error {
						_, _ = objects.Current(), group.Status()
						return nil
					}},
				})
			},
		},
	}, nil
}

// serveWhenLoaded opens the doors once the memory holds the cluster, if what it holds is usable.
func serveWhenLoaded(ctx context.Context, objects *store.Store, usable func() error, door *rpc.Server, doors []lifecycle.Task, notifier lifecycle.Notifier) error {
	select {
	case <-objects.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := usable(); err != nil {
		return err
	}
	return lifecycle.RunAll(ctx, append(doors, notifier.Run, func(ctx context.Context) error {
		return reportHealth(ctx, objects, door)
	})...)
}

// healthEvery is how often the door's health is brought up to date.
const healthEvery = 500 * time.Millisecond

// reportHealth keeps the gRPC door's health true: a master that has no proof of being
// current sends its clients to another.
func reportHealth(ctx context.Context, objects *store.Store, door *rpc.Server) error {
	for {
		door.SetServing(objects.Current())
		select {
		case <-time.After(lifecycle.UntilBeat(time.Now(), healthEvery)):
		case <-ctx.Done():
			return nil
		}
	}
}

func current(objects *store.Store) error {
	if !objects.Current() {
		return errors.New("this master has no proof that its memory is current: it is cut off from the others, or no quorum of masters is alive")
	}
	return nil
}
