package masters_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/storage/etcd"
	"kijabi.dev/apiserver/internal/storage/etcd/etcdtest"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/lifecycle"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// door serves the peer port of a master, without TLS and access control.
type door struct {
	peerv1pb.UnimplementedPeerServiceServer
	mastersv1pb.UnimplementedMastersServiceServer
	m    *masters.Masters
	deaf atomic.Bool // it answers raft, but no questions
	mute atomic.Bool // it answers questions, but not raft
}

func (d *door) Raft(ctx context.Context, req *peerv1pb.RaftRequest) (*peerv1pb.RaftResponse, error) {
	if d.mute.Load() {
		return nil, errors.New("mute")
	}
	return d.m.HandleRaft(ctx, req)
}

func (d *door) InstallSnapshot(stream grpc.ClientStreamingServer[peerv1pb.InstallSnapshotRequest, peerv1pb.InstallSnapshotResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	resp, err := d.m.HandleSnapshot(stream.Context(), first, func() ([]byte, error) {
		req, err := stream.Recv()
		return req.GetData(), err
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(resp)
}

func (d *door) Report(_ context.Context, req *peerv1pb.ReportRequest) (*peerv1pb.ReportResponse, error) {
	if d.deaf.Load() {
		return nil, errors.New("deaf")
	}
	r, err := d.m.Report(req)
	if err != nil {
		return nil, err
	}
	return &peerv1pb.ReportResponse{Report: r}, nil
}

func (d *door) Join(ctx context.Context, req *mastersv1pb.JoinRequest) (*mastersv1pb.JoinResponse, error) {
	r, err := d.m.Join(ctx, masters.Member{
		Name: req.GetName(), PeerAddress: req.GetPeerAddress(), EtcdPeerURL: req.GetEtcdPeerUrl(),
	})
	if err != nil {
		return nil, err
	}
	return &mastersv1pb.JoinResponse{ClusterId: r.ClusterID, EtcdInitialCluster: r.EtcdInitialCluster, Generation: r.Generation}, nil
}

func (d *door) Defragment(_ context.Context, req *peerv1pb.DefragmentRequest) (*peerv1pb.DefragmentResponse, error) {
	before, after, err := d.m.Defragment(req.GetEpoch())
	return &peerv1pb.DefragmentResponse{BytesBefore: before, BytesAfter: after}, err
}

func (d *door) Status(context.Context, *mastersv1pb.StatusRequest) (*mastersv1pb.StatusResponse, error) {
	status := d.m.Status()
	resp := &mastersv1pb.StatusResponse{
		ClusterId: status.ClusterID, Generation: d.m.Generation(), AnsweredBy: status.AnsweredBy,
		Leader: status.Leadership.Leader, Epoch: status.Leadership.Epoch,
	}
	for _, member := range status.Members {
		resp.Members = append(resp.Members, &mastersv1pb.Member{Name: member.Name})
	}
	return resp, nil
}

func dial(address string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

// cuttable is a backend whose data can be cut off.
type cuttable struct {
	store.Backend
	cut atomic.Bool
}

func (c *cuttable) Read(ctx context.Context, k string) (store.Pair, int64, error) {
	if c.cut.Load() {
		return store.Pair{}, 0, errors.New("cut off")
	}
	return c.Backend.Read(ctx, k)
}

func (c *cuttable) Commit(ctx context.Context, guardKey string, guard int64, ops []store.Op) (int64, error) {
	if c.cut.Load() {
		return 0, store.ErrRefused
	}
	return c.Backend.Commit(ctx, guardKey, guard, ops)
}

// where the masters' data is.
type where struct {
	separate *etcdtest.Cluster // nil with embedded members
}

// onBoth runs a test with embedded members and with a separate etcd.
func onBoth(t *testing.T, test func(t *testing.T, on where)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, where{})
	})
	t.Run("separate", func(t *testing.T) {
		t.Parallel()
		test(t, where{etcdtest.Start(t, etcdtest.Options{})})
	})
}

// machine is a place where a master lives: its disk and addresses outlast it.
type machine struct {
	t         *testing.T
	on        where
	name, dir string
	peer, url string                // no url with a separate etcd
	configure func(*masters.Config) // may be nil
	quota     int64                 // of its database; 0 for the default
	cut       bool                  // it starts with its data cut off
	running   *master
}

// master is a running apiserver's part that matters here.
type master struct {
	*masters.Masters
	store   *store.Store
	backend *cuttable
	etcd    *etcdnode.Node // nil with a separate etcd
	door    *door
	ended   chan error // why its part among the masters ended by itself
	etcdEnd chan error // why its etcd member did
	kill    func()
}

// address returns a loopback address of its own: a port picked from the common range can be
// taken by an outgoing connection before a master that restarts listens again.
func address(t *testing.T) string {
	t.Helper()
	for {
		ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ip+":7443")
		if err == nil {
			_ = l.Close()
			return ip
		}
	}
}

func (on where) newMachine(t *testing.T, name string) *machine {
	t.Helper()
	ip := address(t)
	mc := &machine{t: t, on: on, name: name, dir: t.TempDir(), peer: ip + ":7443"}
	if on.separate == nil {
		mc.url = "http://" + ip + ":2380"
	}
	t.Cleanup(func() {
		if mc.running != nil {
			mc.stop()
		}
	})
	return mc
}

// stop kills the running master and waits.
func (mc *machine) stop() {
	kill := mc.running.kill
	mc.running = nil
	kill()
}

func index(store.Key, []byte) (store.Index, error) { return store.Index{}, nil }

func logger(t *testing.T) *zap.Logger {
	t.Helper()
	if testing.Verbose() {
		return zaptest.NewLogger(t)
	}
	return zap.NewNop()
}

func (mc *machine) etcdConfig(log *zap.Logger) etcdnode.Config {
	return etcdnode.Config{Name: mc.name, Dir: filepath.Join(mc.dir, "etcd"), PeerURL: mc.url, ClusterToken: "c1", QuotaBytes: mc.quota, Log: log}
}

// database is the embedded member or the separate etcd.
type database interface {
	Backend() *etcd.Backend
	Run(ctx context.Context) error
	Close()
}

// open starts the embedded member or connects to the separate etcd, joining first if need be.
func (mc *machine) open(log *zap.Logger, cfg *masters.Config, join ...string) (database, *etcdnode.Node) {
	t := mc.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ec := mc.etcdConfig(log)
	if len(join) > 0 && !etcdnode.Exists(ec.Dir) && !masters.Exists(cfg.Dir) {
		resp, err := masters.AskToJoin(ctx, join, dial, &mastersv1pb.JoinRequest{Name: mc.name, PeerAddress: mc.peer, EtcdPeerUrl: mc.url}, log)
		if err != nil {
			t.Fatal(err)
		}
		ec.InitialCluster = resp.GetEtcdInitialCluster()
	}
	if mc.on.separate != nil {
		separate := mc.on.separate.Connect()
		cfg.Separate = separate
		return separate, nil
	}
	node, err := etcdnode.Start(ctx, ec)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Etcd, cfg.Care = node, node
	return node, node
}

// start starts the master: anew, through join if given, or from its disk.
func (mc *machine) start(join ...string) *master {
	t := mc.t
	t.Helper()
	log := logger(t).Named(mc.name)
	cfg := masters.Config{
		Name: mc.name, ClusterID: "c1", PeerAddress: mc.peer, EtcdPeerURL: mc.url, Dir: filepath.Join(mc.dir, "raft"),
		Bootstrap: len(join) == 0 && mc.name == "m1", Dial: dial, Log: log,
	}
	data, node := mc.open(log, &cfg, join...)
	backend := &cuttable{Backend: data.Backend()}
	backend.cut.Store(mc.cut)
	st, err := store.New(store.Config{Name: mc.name, Backend: backend, Indexer: index, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Store = st
	if mc.configure != nil {
		mc.configure(&cfg)
	}
	m, err := masters.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", mc.peer)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	d := &door{m: m}
	peerv1pb.RegisterPeerServiceServer(server, d)
	mastersv1pb.RegisterMastersServiceServer(server, d)
	group := lifecycle.NewGroup(context.Background())
	group.Go(func(context.Context) error { return server.Serve(listener) })
	ms := &master{Masters: m, store: st, backend: backend, etcd: node, door: d, ended: make(chan error, 1), etcdEnd: make(chan error, 1)}
	group.Go(func(ctx context.Context) error { ms.etcdEnd <- data.Run(ctx); return nil }) // the test aborts it, too
	group.Go(func(ctx context.Context) error { ms.ended <- m.Run(ctx); return nil })
	group.Go(st.Run)
	// kill is as abrupt as it gets within one process: nothing is handed over.
	ms.kill = func() {
		if node != nil {
			node.Abort()
		}
		server.Stop()
		m.Close()
		data.Close()
		group.Cancel()
		_ = group.Wait()
	}
	mc.running = ms
	return ms
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// leader waits for one of the running machines to be open for writes.
func leader(t *testing.T, machines []*machine) *machine {
	t.Helper()
	var found *machine
	eventually(t, "some master leads", func() bool {
		for _, mc := range machines {
			if mc.running != nil && mc.running.Leadership().Leading {
				found = mc
				return true
			}
		}
		return false
	})
	return found
}

func voters(m *master) int {
	n := 0
	for _, member := range m.Members() {
		if member.Role == masters.Voter {
			n++
		}
	}
	return n
}

// form starts n masters and waits until all that should vote do.
func (on where) form(t *testing.T, n int) []*machine {
	t.Helper()
	return on.formWith(t, n, nil)
}

// formWith is form with masters that are configured otherwise.
func (on where) formWith(t *testing.T, n int, configure func(*masters.Config)) []*machine {
	t.Helper()
	began := time.Now()
	var machines []*machine
	for i := range n {
		mc := on.newMachine(t, fmt.Sprintf("m%d", i+1))
		mc.configure = configure
		if i == 0 {
			mc.start()
			leader(t, []*machine{mc})
		} else {
			mc.start(machines[0].peer)
		}
		machines = append(machines, mc)
	}
	want := n
	if n > 2 && n%2 == 0 {
		want--
	}
	for _, mc := range machines {
		eventually(t, fmt.Sprintf("%s sees %d voters", mc.name, want), func() bool {
			return len(mc.running.Members()) == n && voters(mc.running) == want
		})
	}
	t.Logf("%d masters formed in %s", n, time.Since(began).Round(time.Millisecond))
	return machines
}

func key(i int) store.Key {
	return store.Key{Resource: "pods", Namespace: "default", Name: fmt.Sprintf("p%06d", i)}
}

func put(ctx context.Context, s *store.Store, k store.Key, id string) (store.Result, error) {
	w := store.Write{Key: k, Decide: func(*store.Record) (store.Change, error) {
		return store.Change{Value: []byte("x")}, nil
	}}
	results, err := s.Commit(ctx, store.Group{Writes: []store.Write{w}, User: "test", RequestID: id})
	if err != nil {
		return store.Result{}, err
	}
	return results[0], nil
}

// converge fails unless all running machines hold the same records.
func converge(t *testing.T, machines []*machine) {
	t.Helper()
	var first string
	for _, mc := range machines {
		if mc.running == nil {
			continue
		}
		if err := mc.running.store.Fresh(t.Context()); err != nil {
			t.Fatalf("%s: %v", mc.name, err)
		}
		var all strings.Builder
		for _, r := range mc.running.store.Snapshot("pods", "").Records {
			fmt.Fprintf(&all, "%s@%d %s\n", r.Key, r.Version, r.Value)
		}
		if first == "" {
			first = all.String()
		} else if all.String() != first {
			t.Errorf("%s differs", mc.name)
		}
	}
}

func TestOneMaster(t *testing.T) { onBoth(t, oneMaster) }

func oneMaster(t *testing.T, on where) {
	mc := on.newMachine(t, "m1")
	mc.start()
	leader(t, []*machine{mc})
	first, err := put(t.Context(), mc.running.store, key(1), "")
	if err != nil {
		t.Fatal(err)
	}
	epoch := mc.running.Leadership().Epoch
	eventually(t, "the roster holds it", func() bool { return len(mc.running.Members()) == 1 })
	if mc.running.ClusterID() != "c1" {
		t.Errorf("cluster id is %q", mc.running.ClusterID())
	}
	mc.stop()
	mc.start()
	leader(t, []*machine{mc})
	if again := mc.running.Leadership().Epoch; again <= epoch {
		t.Errorf("epoch %d after %d", again, epoch)
	}
	if r, found := mc.running.store.Get(key(1)); !found || r.Version != first.Record.Version {
		t.Error("the object did not survive the restart")
	}
}

func TestThreeMastersFormAndAgree(t *testing.T) { onBoth(t, threeMastersFormAndAgree) }

func threeMastersFormAndAgree(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	for i := range 50 {
		if _, err := put(t.Context(), lead.running.store, key(i), ""); err != nil {
			t.Fatal(err)
		}
	}
	converge(t, machines)
	for _, mc := range machines {
		eventually(t, mc.name+" knows the leader", func() bool {
			l := mc.running.Leadership()
			return l.Leader == lead.name && l.Epoch != 0 && l.Leading == (mc == lead)
		})
		if _, name, err := mc.running.LeaderConn(); err != nil || name != lead.name {
			t.Errorf("%s: leader connection to %q: %v", mc.name, name, err)
		}
	}
	if on.separate == nil {
		eventually(t, "etcd's leader follows", func() bool {
			s := lead.running.etcd.Status()
			return s.Leader == s.ID
		})
	}
	// A node that one master hears is known to all.
	machines[1].running.Directory().Hear("node-1", true)
	eventually(t, "the node is known on the third master", func() bool {
		s, found := machines[2].running.Directory().Find("node-1")
		return found && s.Master == "m2" && s.Tunnel
	})
}

func TestLeaderIsKilled(t *testing.T) { onBoth(t, leaderIsKilled) }

func leaderIsKilled(t *testing.T, on where) {
	machines := on.form(t, 3)
	acked := map[store.Key]uint64{}
	n := 0
	write := func(deadline time.Duration) time.Duration {
		t.Helper()
		began := time.Now()
		n++
		id := fmt.Sprintf("r%d", n)
		for time.Since(began) < deadline {
			for _, mc := range machines {
				if mc.running == nil || !mc.running.Leadership().Leading {
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				r, err := put(ctx, mc.running.store, key(n), id)
				cancel()
				if err == nil && r.Record != nil {
					acked[key(n)] = r.Record.Version
					return time.Since(began)
				}
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("no write within %s", deadline)
		return 0
	}
	for range 3 {
		for range 20 {
			write(5 * time.Second)
		}
		victim := leader(t, machines)
		epoch := victim.running.Leadership().Epoch
		killed := make(chan struct{})
		kill := victim.running.kill
		victim.running = nil
		go func() { defer close(killed); kill() }()
		t.Logf("%s killed; next write after %s", victim.name, write(10*time.Second).Round(time.Millisecond))
		<-killed
		next := leader(t, machines)
		if e := next.running.Leadership().Epoch; e <= epoch {
			t.Errorf("epoch %d after %d", e, epoch)
		}
		victim.start() // from its disk
		eventually(t, victim.name+" is back", func() bool {
			l := victim.running.Leadership()
			return l.Leader != "" && l.Epoch != 0 && victim.running.store.Current()
		})
	}
	converge(t, machines)
	for k, version := range acked {
		for _, mc := range machines {
			if r, found := mc.running.store.Get(k); !found || r.Version != version {
				t.Errorf("%s lost the acknowledged write of %s", mc.name, k)
			}
		}
	}
}

// TestPowerFailure kills all masters at once and starts them together.
func TestPowerFailure(t *testing.T) { onBoth(t, powerFailure) }

func powerFailure(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	first, err := put(t.Context(), lead.running.store, key(1), "")
	if err != nil {
		t.Fatal(err)
	}
	epoch := lead.running.Leadership().Epoch
	for _, mc := range machines {
		mc.stop()
	}
	if on.separate != nil {
		on.separate.Kill(0)
		on.separate.Restart(0)
	}
	var wg sync.WaitGroup
	for _, mc := range machines {
		wg.Go(func() { mc.start() })
	}
	wg.Wait()
	lead = leader(t, machines)
	if again := lead.running.Leadership().Epoch; again <= epoch {
		t.Errorf("epoch %d after %d", again, epoch)
	}
	converge(t, machines)
	if r, found := lead.running.store.Get(key(1)); !found || r.Version != first.Record.Version {
		t.Error("an acknowledged write was lost")
	}
}

func TestTransfer(t *testing.T) { onBoth(t, transfer) }

func transfer(t *testing.T, on where) {
	machines := on.form(t, 3)
	lead := leader(t, machines)
	var heir *machine
	for _, mc := range machines {
		if mc != lead {
			heir = mc
		}
	}
	eventually(t, "the heir is alive", func() bool {
		for _, s := range lead.running.Status().Members {
			if s.Name == heir.name && s.Alive {
				return true
			}
		}
		return false
	})
	began := time.Now()
	name, err := lead.running.Transfer(t.Context(), heir.name, "transfer by test")
	if err != nil || name != heir.name {
		t.Fatalf("handed over to %q: %v", name, err)
	}
	eventually(t, "the heir is open for writes", func() bool { return heir.running.Leadership().Leading })
	t.Logf("transferred in %s", time.Since(began).Round(time.Millisecond))
	if _, err := put(t.Context(), heir.running.store, key(1), ""); err != nil {
		t.Error(err)
	}
	if _, err := put(t.Context(), lead.running.store, key(2), ""); !errors.Is(err, store.ErrNotLeading) {
		t.Errorf("the former leader answered %v", err)
	}
	converge(t, machines)
}
